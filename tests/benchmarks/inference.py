"""Measures how much faster 6 and 3 layers are than 12, beside the layer count and the rate of matrix products."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from pkdlib.analysis.speed import random_classifier, time_call, timing_setup
from pkdlib.engine.last_layer import run
from tests.benchmarks.common import arguments, figure, ratio_figures, ratios, take_turns, write

LAYERS = (12, 6, 3)
IMPLEMENTATIONS = ("sdpa", "eager", "compile")
SHORT = 2 / 12  # of a layer's products, what its keys and values cost: the part that is still of all positions


def main() -> None:
    given = arguments("inference", __doc__, "rounds", "batch")
    device, dtype = timing_setup()
    hidden, batch, length = (64, 2, 16) if given.quick else (768, given.batch, 128)
    ids = torch.randint(30522, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)
    figures = []
    for implementation in IMPLEMENTATIONS[: 2 if given.quick else 3]:
        calls = {
            f"{layers}": _call(random_classifier(layers, hidden).to(device, dtype), implementation, ids)
            for layers in LAYERS
        }
        if implementation == "sdpa":  # the last layer computed for [CLS] alone, beside plain models
            for layers in LAYERS:
                calls[f"{layers} cls"] = _cls_alone(random_classifier(layers, hidden).to(device, dtype), ids)
        times = take_turns(calls, given.rounds, warmup=2)
        ending = "" if implementation == "sdpa" else f"_{implementation}"
        for layers in LAYERS[1:]:
            name = f"inference_speedup_{layers}{ending}"
            figures += ratio_figures(name, times, "12", f"{layers}")
            figures.append(figure(f"{name}_limit", LAYERS[0] / layers, "x"))
            shares = 100 * ratios(times, "12", f"{layers}") / (LAYERS[0] / layers)
            figures.append(figure(f"{name}_of_limit", shares, "%"))
        for layers in LAYERS[1:] if implementation == "sdpa" else ():
            name, limit = f"inference_speedup_{layers}_cls", LAYERS[0] / (layers - 1 + SHORT)
            figures += ratio_figures(name, times, "12", f"{layers} cls")
            figures.append(figure(f"{name}_limit", limit, "x"))
            figures.append(figure(f"{name}_of_limit", 100 * ratios(times, "12", f"{layers} cls") / limit, "%"))
        for layers in LAYERS:
            seconds = times.loc[times["contender"] == f"{layers}", "seconds"]
            figures.append(figure(f"inference_seconds_{layers}{ending}", seconds, "s"))
    rates = matmul_rates(batch * length, hidden, device, dtype, given.rounds)
    figures.append(figure("matmul_rate", [rate / 1e9 for rate in rates], "GFLOP/s"))
    best = max(rates)
    for layers in LAYERS:
        seconds = next(one["median"] for one in figures if one["name"] == f"inference_seconds_{layers}")
        share = 100 * flops(layers, hidden, batch, length) / best / seconds
        figures.append(figure(f"inference_matmul_share_{layers}", share, "%"))
    write("inference", figures, given, hidden=hidden, batch=batch, length=length, dtype=str(dtype))


def _call(model: PreTrainedModel, implementation: str, ids: torch.Tensor) -> Callable[[], float]:
    """A function that runs the model once on `ids`, (batch, length)."""
    if implementation == "compile":
        call = torch.compile(model)
    else:
        model.set_attn_implementation(implementation)
        call = model
    return lambda: time_call(lambda: call(input_ids=ids), ids.device)


def _cls_alone(model: PreTrainedModel, ids: torch.Tensor) -> Callable[[], float]:
    return lambda: time_call(lambda: run(model, {"input_ids": ids}, cls_alone=True), ids.device)


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
