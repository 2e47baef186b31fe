"""A classifier's parameters by part, the time that it takes for one batch, and the figures of recorded benchmarks."""

import json
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from pkdlib.analysis.settings import HEAD_WIDTH
from pkdlib.analysis.statistics import mean_interval
from pkdlib.config import ConfigError
from pkdlib.engine.files import ROOT
from pkdlib.engine.machine import make_accelerator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def random_classifier(num_hidden_layers: int, hidden_size: int = 768, num_labels: int = 2,
                      seed: int = 0) -> PreTrainedModel:  # fmt: skip
    """A classifier of BERT-base's proportions, heads of width 64, with random weights; leaves torch's random state."""
    config = BertConfig(num_hidden_layers=num_hidden_layers, num_attention_heads=hidden_size // HEAD_WIDTH,
                        hidden_size=hidden_size, intermediate_size=4 * hidden_size, num_labels=num_labels)  # fmt: skip
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
    if chosen not in DTYPES:
        raise ConfigError(f"precision = {precision!r}: must be one of auto, {', '.join(DTYPES)}")
    if chosen == "fp16" and device.type != "cuda":
        raise ConfigError("precision = 'fp16': needs a CUDA device; allowed here: auto, fp32, bf16")
    return device, DTYPES[chosen]


def time_call(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Milliseconds of one call, without gradients, to the end of the work that it puts into the device's queue."""
    device = torch.device(device)
    wait = (lambda: None) if device.type == "cpu" else partial(torch.accelerator.synchronize, device)
    with torch.inference_mode():
        wait()
        started = time.perf_counter()
        function()
        wait()
        return 1000 * (time.perf_counter() - started)


def measure_latency(models: Mapping[str, PreTrainedModel], *, batch_size: int = 128, length: int = 128,
                    repeats: int = 5, warmup: int = 1, precision: str = "auto",
                    seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """Time one batch through copies of all models on `timing_setup(precision)`: a row per model and repeat.

    All read the same random token ids (batch_size, length). Each repeat starts with another model, so that a machine
    that slows down slows them all. `warmup` calls of each come first and are not kept.
    Columns: model, num_hidden_layers, repeat (from 1), latency_ms by the clock, processor_ms of this process (less if
    other programs had the core in between; on an accelerator, the launch alone) and throughput_eps, in examples.
    Raises ValueError when there is no model or one has fewer positions than `length`.
    """
    if not models:
        raise ValueError("models: at least one is needed")
    for name, model in models.items():
        if length > model.config.max_position_embeddings:
            raise ValueError(f"length = {length}: {name} has {model.config.max_position_embeddings} positions")
    device, dtype = timing_setup(precision)
    vocabulary = min(model.config.vocab_size for model in models.values())
    ids = torch.randint(vocabulary, (batch_size, length), generator=torch.Generator().manual_seed(seed)).to(device)
    calls = {name: partial(deepcopy(model).to(device, dtype).eval(), input_ids=ids) for name, model in models.items()}
    for name in np.repeat(list(calls), warmup):
        time_call(calls[name], device)
    rows, order = [], list(calls)
    for repeat in range(1, repeats + 1):
        for name in order:
            started = time.process_time()
            latency_ms = time_call(calls[name], device)
            processor_ms = 1000 * (time.process_time() - started)
            rows.append((name, models[name].config.num_hidden_layers, repeat, latency_ms, processor_ms))
        order.append(order.pop(0))
    table = pd.DataFrame(rows, columns=["model", "num_hidden_layers", "repeat", "latency_ms", "processor_ms"])
    return table.assign(throughput_eps=1000 * batch_size / table["latency_ms"])


def speedups(latencies: pd.DataFrame, baseline: str, time_column: str = "latency_ms") -> pd.DataFrame:
    """How many times as fast as `baseline` every model is, from ratios of times of the same repeat.

    latencies: as `measure_latency` gives them; time_column: "latency_ms", or "processor_ms" for a busy CPU. A row per
    model: num_hidden_layers, the median time (and throughput_eps, by the clock), the geometric mean `speedup` (an
    arithmetic one leans upwards: 2 and 1/2 are 1 together) with its 95 % interval low to high (Student's t on the
    logarithms), the `median` ratio, the number of repeats, and `limit`, the ratio of layer counts.
    Raises ValueError when the baseline is not among the models or a model lacks a repeat of it.
    """
    if baseline not in set(latencies["model"]):
        raise ValueError(f"baseline = {baseline!r}: must be one of {', '.join(latencies['model'].unique())}")
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


def amdahl_speedup(layer_ratio: float, fixed_share: float) -> float:
    """Amdahl's law: the speed-up of layer_ratio times fewer layers; fixed_share in 0..1 is the time outside them."""
    return 1 / (fixed_share + (1 - fixed_share) / layer_ratio)


def benchmark_figures(folder: Path = ROOT / "data" / "results" / "benchmarks") -> pd.DataFrame:
    """Every recorded figure of `python -m tests.benchmarks NAME`, a row each, of the files in `folder`.

    Columns: benchmark, name (without its ending), device ("cpu" or "cuda"), median, low and high in `unit`, `limit`
    (what the benchmark itself expects of real tokens and layers alone, or NaN), the machine (CPU or GPU), threads and
    date; `label` and `group` ("ratio": a whole distillation's time, times this kit's; or "other") as labels.json has
    them, in its order, and NaN in the other figures, which come last.
    """
    tables, named = [], Path(folder) / "labels.json"
    for path in sorted(set(named.parent.glob("*.json")) - {named}):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        provenance, (benchmark, cuda, _) = recorded["provenance"], path.stem.partition("_cuda")
        table = pd.DataFrame(recorded["figures"]).assign(benchmark=benchmark, device="cuda" if cuda else "cpu")
        table["name"] = table["name"].str.removesuffix("_cuda")
        table["limit"] = (table["name"] + "_limit").map(table.set_index("name")["median"])
        machine = provenance["machine"]["device" if cuda else "cpu"]
        tables.append(table.assign(machine=machine, threads=provenance["threads"], date=provenance["date"]))
    groups = json.loads(named.read_text(encoding="utf-8")) if named.is_file() else {}
    rows = [(name, label, group.removesuffix("s")) for group, texts in groups.items() for name, label in texts.items()]
    labels, figures = pd.DataFrame(rows, columns=["name", "label", "group"]), pd.concat(tables)
    return pd.concat([labels.merge(figures), figures[~figures["name"].isin(labels["name"])]], ignore_index=True)
