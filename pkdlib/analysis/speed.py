"""A classifier's parameters by part, the time that it takes for one batch, and the figures of recorded benchmarks."""

import json
import time
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from pkdlib.analysis.settings import HEAD_WIDTH
from pkdlib.analysis.statistics import mean_interval
from pkdlib.config import ConfigError
from pkdlib.engine.checks import Count, Seed, checked
from pkdlib.engine.configs import pick
from pkdlib.engine.files import ROOT
from pkdlib.engine.last_layer import run
from pkdlib.engine.machine import make_accelerator

Width = Annotated[int, Field(ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@checked
def random_classifier(num_hidden_layers: Count, hidden_size: Width = 768, seed: Seed = 0) -> PreTrainedModel:
    """A classifier of BERT-base's proportions, heads of width 64, with random weights; leaves torch's random state."""
    config = BertConfig(num_hidden_layers=num_hidden_layers, num_attention_heads=hidden_size // HEAD_WIDTH,
                        hidden_size=hidden_size, intermediate_size=4 * hidden_size)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_config(config).eval()


def parameters_by_part(model: PreTrainedModel) -> dict[str, int]:
    """Numbers of parameters by part and in total; `classifier` is all of the head, a part that is lacking is 0."""
    counts = dict.fromkeys(("embedding", "transformer", "pooler", "classifier"), 0)
    for name, parameter in model.named_parameters():
        first, _, rest = name.partition(".")
        part = {"embeddings": "embedding", "pooler": "pooler"}.get(rest.split(".")[0], "transformer")
        counts[part if first == model.base_model_prefix else "classifier"] += parameter.numel()
    return counts | {"total": sum(counts.values())}


def timing_setup(precision: str = "auto") -> tuple[torch.device, torch.dtype]:
    """Device and precision to time in, "auto" is fp16 on CUDA, else float32; ConfigError where there is none such."""
    device = make_accelerator().device
    chosen = {"auto": "fp16" if device.type == "cuda" else "fp32"}.get(precision, precision)
    if chosen == "fp16" and device.type != "cuda":
        raise ConfigError("precision = 'fp16': needs a CUDA device; allowed here: auto, fp32, bf16")
    return device, pick("precision", chosen, {"auto": None, **DTYPES})


def time_call(function: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, without gradients, to the end of the work that it puts into the device's queue."""
    wait = (lambda: None) if device.type == "cpu" else partial(torch.accelerator.synchronize, device)
    with torch.inference_mode():
        wait()
        started = time.perf_counter()
        function()
        wait()
        return 1000 * (time.perf_counter() - started)


@checked
def measure_latency(
    models: Annotated[Mapping[str, PreTrainedModel], Field(min_length=1)], *, batch_size: Count = 128,
    length: int = 128, repeats: Count = 5, warmup: Annotated[int, Field(ge=0)] = 1, precision: str = "auto",
    seed: Seed = 0, cls_alone: Collection[str] = (),
) -> pd.DataFrame:  # fmt: skip
    """Time one batch of random token ids through copies of all models, by turns: a row per model and repeat.

    Each repeat starts with another model, so that a machine that slows down slows them all. latency_ms is by the clock;
    processor_ms is this process's (less if other programs had the core; on an accelerator, the launch alone);
    throughput_eps is in examples. cls_alone: names of models whose last layer is computed for [CLS] alone (`run`).
    """
    limit = min(model.config.max_position_embeddings for model in models.values())
    if not 1 <= length <= limit:
        raise ValueError(f"{length = }: must be between 1 and the models' {limit} positions")
    device, dtype = timing_setup(precision)
    vocabulary = min(model.config.vocab_size for model in models.values())
    ids = torch.randint(vocabulary, (batch_size, length), generator=torch.Generator().manual_seed(seed)).to(device)
    copies = {name: deepcopy(model).to(device, dtype).eval() for name, model in models.items()}
    calls = {name: partial(run, copy, {"input_ids": ids}, name in cls_alone) for name, copy in copies.items()}
    for name in np.repeat(list(calls), warmup):
        time_call(calls[name], device)
    rows = []
    for repeat in range(repeats):
        for name in np.roll(list(calls), -repeat):
            started = time.process_time()
            latency_ms = time_call(calls[name], device)
            processor_ms = 1000 * (time.process_time() - started)
            rows.append((name, models[name].config.num_hidden_layers, repeat + 1, latency_ms, processor_ms))
    table = pd.DataFrame(rows, columns=["model", "num_hidden_layers", "repeat", "latency_ms", "processor_ms"])
    return table.assign(throughput_eps=1000 * batch_size / table["latency_ms"])


def speedups(latencies: pd.DataFrame, baseline: str, time_column: str = "latency_ms") -> pd.DataFrame:
    """How many times as fast as `baseline` every model is, from ratios of times of the same repeat.

    latencies: as `measure_latency` gives them; time_column: "latency_ms", or "processor_ms" for a busy CPU. `speedup`
    is the geometric mean (2 and 1/2 are 1 together), low to high its 95 % interval (Student's t on the logarithms),
    `median` the middle ratio, `limit` the ratio of layers. ValueError when a model lacks a repeat.
    """
    pick("baseline", baseline, list(latencies["model"].unique()))
    by_repeat = latencies.pivot(index="repeat", columns="model", values=time_column)
    if by_repeat.isna().any(axis=None):
        raise ValueError(f"latencies: {by_repeat.isna().any().idxmax()} was not timed in every repeat")
    medians = [time_column, "throughput_eps"] if time_column == "latency_ms" else [time_column]
    shown = {"num_hidden_layers": "first"} | dict.fromkeys(medians, "median")
    table = latencies.groupby("model", sort=False).agg(shown)
    ratios = by_repeat.rdiv(by_repeat[baseline], axis=0)[table.index]  # (repeats, models)
    table[["speedup", "low", "high"]] = np.exp([mean_interval(np.log(ratios[model])) for model in table.index])
    layers = table["num_hidden_layers"]
    return table.assign(median=ratios.median(), repeats=len(ratios), limit=layers[baseline] / layers).reset_index()


@checked
def amdahl_speedup(
    layer_ratio: Annotated[float, Field(gt=0)], fixed_share: Annotated[float, Field(ge=0, le=1)]
) -> float:
    """Amdahl's law: the speed-up of layer_ratio times fewer layers; fixed_share in 0..1 is the time outside them."""
    return 1 / (fixed_share + (1 - fixed_share) / layer_ratio)


def benchmark_figures(folder: Path = ROOT / "data" / "results" / "benchmarks") -> pd.DataFrame:
    """The figures of `python -m tests.benchmarks NAME` that labels.json in `folder` names, in its order.

    A row per figure and device ("cpu" or "cuda"). group: "ratio", a whole distillation's time, times this kit's, or
    "other"; limit: what the benchmark itself expects of real tokens and layers alone, or NaN.
    """
    tables, named = [], folder / "labels.json"
    for path in sorted(set(folder.glob("*.json")) - {named}):
        recorded, device = json.loads(path.read_text(encoding="utf-8")), "cuda" if "_cuda" in path.stem else "cpu"
        provenance, table = recorded["provenance"], pd.DataFrame(recorded["figures"])
        table["name"] = table["name"].str.removesuffix("_cuda")
        limits = table["name"].str.removesuffix("_processor") + "_limit"
        table["limit"] = limits.map(table.set_index("name")["median"])
        machine = provenance["machine"]["device" if device == "cuda" else "cpu"]
        made = {"device": device, "machine": machine, "threads": provenance["threads"], "date": provenance["date"]}
        tables.append(table.assign(**made))
    groups = json.loads(named.read_text(encoding="utf-8"))
    rows = [(name, label, group.removesuffix("s")) for group, texts in groups.items() for name, label in texts.items()]
    return pd.DataFrame(rows, columns=["name", "label", "group"]).merge(pd.concat(tables))
