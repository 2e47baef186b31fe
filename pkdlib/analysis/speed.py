"""A classifier's parameters by part, the time that it takes for one batch, and the figures of recorded benchmarks."""

import copy
import json
import time
from collections.abc import Callable, Mapping
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


def random_classifier(
    num_hidden_layers: int, hidden_size: int = 768, num_labels: int = 2, seed: int = 0
) -> PreTrainedModel:
    """A classifier of BERT-base's vocabulary and proportions with random weights, which take as long as trained ones.

    hidden_size: a multiple of 64, the width of a head; 768 is BERT-base's. Torch's random state is left as it was.
    """
    config = BertConfig(
        num_hidden_layers=num_hidden_layers, hidden_size=hidden_size, intermediate_size=4 * hidden_size,
        num_attention_heads=hidden_size // HEAD_WIDTH, num_labels=num_labels,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_config(config).eval()


def parameters_by_part(model: PreTrainedModel) -> dict[str, int]:
    """Numbers of parameters of a classifier: embedding, transformer, pooler, classifier (all of the head), total.

    A shared parameter counts once, a part that the architecture lacks is 0.
    """
    counts = dict.fromkeys(("embedding", "transformer", "pooler", "classifier"), 0)
    for name, parameter in model.named_parameters():
        first, _, rest = name.partition(".")
        part = {"embeddings": "embedding", "pooler": "pooler"}.get(rest.split(".")[0], "transformer")
        counts[part if first == model.base_model_prefix else "classifier"] += parameter.numel()
    return counts | {"total": sum(counts.values())}


def timing_setup(precision: str = "auto") -> tuple[torch.device, torch.dtype]:
    """The device and the precision to time in: "auto" is fp16 on CUDA and float32 elsewhere.

    Raises ConfigError for an unknown precision and for fp16 without CUDA.
    """
    if precision not in ("auto", *DTYPES):
        raise ConfigError(f"precision = {precision!r}: must be one of auto, {', '.join(DTYPES)}")
    device = make_accelerator().device
    on_cuda = device.type == "cuda"
    if precision == "fp16" and not on_cuda:
        raise ConfigError("precision = 'fp16': needs a CUDA device; allowed here: auto, fp32, bf16")
    return device, DTYPES["fp16" if on_cuda else "fp32"] if precision == "auto" else DTYPES[precision]


def time_call(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Milliseconds of one call, without gradients; the device's queue is empty before and after.

    An accelerator only queues the work when it is called: without the second wait, the clock would miss it.
    """
    device = torch.device(device)
    wait = (lambda: None) if device.type == "cpu" else (lambda: torch.accelerator.synchronize(device))
    with torch.inference_mode():
        wait()
        started = time.perf_counter()
        function()
        wait()
        return 1000 * (time.perf_counter() - started)


def measure_latency(
    models: Mapping[str, PreTrainedModel],
    *,
    batch_size: int = 128,
    length: int = 128,
    repeats: int = 5,
    warmup: int = 1,
    precision: str = "auto",
    seed: int = 0,
) -> pd.DataFrame:
    """Time one batch through every model: a row per model and repeat, in the order of timing.

    All read the same (batch_size, length) random token ids, without padding. Every repeat times each model once,
    and each repeat starts with another of them, so that a machine that slows down slows them all. `warmup` calls
    of each come first and are not kept. The models are copied to `timing_setup(precision)`; the given ones stay.

    Columns: model, num_hidden_layers, repeat (from 1), latency_ms (by the clock), processor_ms (of this process, all
    threads together) and throughput_eps (examples per second). On a CPU with one thread, a processor_ms far below
    latency_ms means that other programs had the core in between; on an accelerator it is the time to launch the work.
    Raises ValueError, before any work, when there is no model or one has fewer positions than `length`.
    """
    if not models:
        raise ValueError("models: at least one is needed")
    for name, model in models.items():
        if length > model.config.max_position_embeddings:
            raise ValueError(f"length = {length}: {name} has {model.config.max_position_embeddings} positions")
    device, dtype = timing_setup(precision)
    vocabulary = min(model.config.vocab_size for model in models.values())
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(vocabulary, (batch_size, length), generator=generator).to(device)  # (batch, length)
    copies = {name: copy.deepcopy(model).to(device, dtype).eval() for name, model in models.items()}
    calls = {name: partial(model, input_ids=input_ids) for name, model in copies.items()}
    for call in calls.values():
        for _ in range(warmup):
            time_call(call, device)
    rows, names = [], list(copies)
    for repeat in range(1, repeats + 1):
        first = (repeat - 1) % len(names)
        for name in names[first:] + names[:first]:
            started = time.process_time()
            latency_ms = time_call(calls[name], device)
            processor_ms = 1000 * (time.process_time() - started)
            row = {"model": name, "num_hidden_layers": models[name].config.num_hidden_layers, "repeat": repeat}
            row |= {"latency_ms": latency_ms, "processor_ms": processor_ms}
            rows.append(row | {"throughput_eps": 1000 * batch_size / latency_ms})
    return pd.DataFrame(rows)


def speedups(latencies: pd.DataFrame, baseline: str, time_column: str = "latency_ms") -> pd.DataFrame:
    """How many times as fast as `baseline` every model is, from ratios of times of the same repeat.

    latencies: as `measure_latency` gives them; time_column: "latency_ms", or "processor_ms" for a busy CPU. A row per
    model: num_hidden_layers, the median time (and throughput_eps, by the clock), the geometric mean `speedup` with
    its 95 % interval (low, high: Student's t on the logarithms), the `median` ratio, the number of repeats, and
    `limit`, the ratio of layer counts: the speed-up if all time went to the layers. (The arithmetic mean of ratios
    would lean upwards: 2 and 1/2 are 1 together, not 5/4.)

    Raises ValueError when the baseline is not among the models or a model lacks a repeat of it.
    """
    if baseline not in set(latencies["model"]):
        raise ValueError(f"baseline = {baseline!r}: must be one of {', '.join(latencies['model'].unique())}")
    by_repeat = latencies.pivot(index="repeat", columns="model", values=time_column)
    if by_repeat.isna().any(axis=None):
        raise ValueError(f"latencies: {by_repeat.isna().any().idxmax()} was not timed in every repeat")
    layers = latencies.groupby("model")["num_hidden_layers"].first()
    shown = [time_column, *(["throughput_eps"] if time_column == "latency_ms" else [])]
    medians = latencies.groupby("model")[shown].median()
    rows = []
    for model in latencies["model"].unique():
        ratios = by_repeat[baseline] / by_repeat[model]
        speedup, low, high = np.exp(mean_interval(np.log(ratios))).tolist()
        row = {"model": model, "num_hidden_layers": int(layers[model]), **medians.loc[model], "speedup": speedup}
        row |= {"low": low, "high": high, "median": ratios.median(), "repeats": len(ratios)}
        rows.append(row | {"limit": layers[baseline] / layers[model]})
    return pd.DataFrame(rows)


def amdahl_speedup(layer_ratio: float, fixed_share: float) -> float:
    """Amdahl's law: the speed-up of layer_ratio times fewer layers, when fixed_share of the baseline's time is fixed.

    1 / (fixed_share + (1 - fixed_share) / layer_ratio); fixed_share in 0..1 is the time outside the layers.
    """
    return 1 / (fixed_share + (1 - fixed_share) / layer_ratio)


def benchmark_figures(folder: Path = ROOT / "data" / "results" / "benchmarks") -> pd.DataFrame:
    """Every recorded figure of `python -m tests.benchmarks NAME`, a row each, of the files in `folder`.

    Columns: benchmark, name (without its ending), device ("cpu" or "cuda"), median, low and high in `unit`, `limit`
    (what the benchmark itself expects of real tokens and layers alone, or NaN), the cpu or GPU, threads and date, and
    `label` and `group` ("ratio": a whole distillation's time, times this kit's; or "other") as labels.json has them.
    Figures without a label have NaN there and come last, the others stand in that file's order.
    """
    folder = Path(folder)
    named = folder / "labels.json"
    groups = json.loads(named.read_text(encoding="utf-8")) if named.is_file() else {}
    labels = {name: (label, group[:-1]) for group, texts in groups.items() for name, label in texts.items()}
    rows = []
    for path in sorted(set(folder.glob("*.json")) - {named}):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        provenance = recorded["provenance"]
        benchmark, cuda, _ = path.stem.partition("_cuda")
        device, machine = ("cuda", "device") if cuda else ("cpu", "cpu")
        source = {"machine": provenance["machine"][machine], **{name: provenance[name] for name in ("threads", "date")}}
        figures = {one["name"].removesuffix("_cuda"): one for one in recorded["figures"]}
        for name, one in figures.items():
            limit = figures.get(f"{name}_limit", {}).get("median", np.nan)
            label, group = labels.get(name, (np.nan, np.nan))
            row = {"benchmark": benchmark, **one, "name": name, "device": device, "limit": limit, **source}
            rows.append(row | {"label": label, "group": group})
    places = {name: place for place, name in enumerate(labels)}
    return pd.DataFrame(sorted(rows, key=lambda row: places.get(row["name"], len(places))))
