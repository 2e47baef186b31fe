"""Measures how much faster 6 and 3 layers are than 12, beside the layer count and the rate of matrix products."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from pkdlib.analysis.speed import random_classifier, time_call, timing_setup
from pkdlib.engine.last_layer import run
from tests.benchmarks.common import arguments, figure, ratio_figures, ratios, take_turns, write

LAYERS = (12, 6, 3)
SHORT = 2 / 12  # of a layer's products, what its keys and values cost: the part that is still of all positions
PRODUCTS = 8  # of one turn of the plain product


def main() -> None:
    given = arguments("inference", __doc__, "rounds", "batch")
    device, dtype = timing_setup()
    hidden, batch, length = (64, 2, 16) if given.quick else (768, given.batch, 128)
    ids = torch.randint(30522, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)
    models = {layers: random_classifier(layers, hidden).to(device, dtype) for layers in LAYERS}
    calls: dict[str, Callable[[], float]] = {"product": _products(batch * length, hidden, device, dtype)}
    for layers, model in models.items():
        calls[f"{layers}"] = partial(_whole, model, ids)
        calls[f"{layers} cls"] = partial(_cls_alone, model, ids)
    times = take_turns(calls, given.rounds, warmup=2)
    figures = []
    for layers in LAYERS[1:]:
        limits = {f"{layers}": LAYERS[0] / layers, f"{layers} cls": LAYERS[0] / (layers - 1 + SHORT)}
        for contender, limit in limits.items():
            name = f"inference_speedup_{contender.replace(' ', '_')}"
            figures += ratio_figures(name, times, "12", contender)
            figures.append(figure(f"{name}_limit", limit, "x"))
            figures.append(figure(f"{name}_of_limit", 100 * _ratios(times, "12", contender) / limit, "%"))
    for layers in LAYERS:
        seconds = times.loc[times["contender"] == f"{layers}", "seconds"]
        figures.append(figure(f"inference_seconds_{layers}", seconds, "s"))
        products = flops(layers, hidden, batch, length) / (8 * PRODUCTS * batch * length * hidden**2)
        share = 100 * products * _ratios(times, "product", f"{layers}")
        figures.append(figure(f"inference_matmul_share_{layers}", share, "%"))
    write("inference", figures, given, hidden=hidden, batch=batch, length=length, dtype=str(dtype))


def _ratios(times: pd.DataFrame, slow: str, fast: str) -> np.ndarray:
    """By processor time, the steadier one; on a GPU, whose time is not in it, by the clock."""
    return ratios(times, slow, fast, "seconds" if torch.cuda.is_available() else "processor_s")


def _products(tokens: int, hidden: int, device: torch.device, dtype: torch.dtype) -> Callable[[], float]:
    """A function that does the feed-forward layer's product, (tokens, hidden) by (hidden, 4 hidden), a few times."""
    left = torch.randn(tokens, hidden, device=device, dtype=dtype)
    right = torch.randn(hidden, 4 * hidden, device=device, dtype=dtype)
    return lambda: time_call(lambda: [left @ right for _ in range(PRODUCTS)], device)


def _whole(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """The milliseconds of one pass over `ids`, (batch, length)."""
    return time_call(lambda: model(input_ids=ids), ids.device)


def _cls_alone(model: PreTrainedModel, ids: torch.Tensor) -> float:
    return time_call(lambda: run(model, {"input_ids": ids}, cls_alone=True), ids.device)


def flops(layers: int, hidden: int, batch: int, length: int) -> float:
    """Count the operations of a forward pass's matrix products: projections, feed-forward, attention, [CLS] pooler."""
    per_token = 24 * hidden**2 + 4 * length * hidden
    return layers * batch * length * per_token + 2 * batch * hidden**2


def matmul_rates(tokens: int, hidden: int, device: torch.device, dtype: torch.dtype, rounds: int) -> list[float]:
    """FLOP/s in every round of the feed-forward layer's own product, (tokens, hidden) by (hidden, 4 hidden)."""
    left = torch.randn(tokens, hidden, device=device, dtype=dtype)
    right = torch.randn(hidden, 4 * hidden, device=device, dtype=dtype)
    time_call(lambda: left @ right, device)
    seconds = [time_call(lambda: [left @ right for _ in range(4)], device) / 1000 for _ in range(rounds)]
    return [4 * 2 * tokens * hidden * 4 * hidden / second for second in seconds]


if __name__ == "__main__":
    main()
