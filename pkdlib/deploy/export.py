"""A student as an ONNX file, which runs without torch; checked, measured, and described in export.json."""

import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pkdlib.data import READING, Split, encode_split
from pkdlib.deploy.predict import check_columns
from pkdlib.deploy.students import INT8_FILE, ONNX_FILE, Student, load_onnx, load_student, predict_onnx
from pkdlib.deploy.tables import read_rows
from pkdlib.engine.batches import Batch
from pkdlib.engine.files import here, write_text
from pkdlib.engine.last_layer import run
from pkdlib.engine.machine import installed_versions
from pkdlib.engine.progress import say
from pkdlib.readers.sources import load_task
from pkdlib.readers.teachers import record_of

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of a logit, between PyTorch and ONNX in float32
BATCHES, LENGTH, REPEATS = (1, 32), 64, 5  # of the latency
EXAMPLES = [
    "It works.", "A warm and honest film, with a cast that never puts a foot wrong.", "Who would have thought?",
    "The plot is thin, the jokes are old, and after half an hour nobody in the room was laughing any more.",
    "Not bad at all", "12.5 % of 2,000 is 250; see https://example.org for the rest.", "Ça va? Grüße aus Zürich!",
    "Rain is expected in the north, while the south stays dry; towards the weekend it will be warmer everywhere.",
]  # fmt: skip


def export_onnx(
    student: str | Path, out: str | Path, int8: bool = False, check: str | Path | None = None,
    text_columns: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Write the classifier's ONNX file, tokenizer and config.json to a new folder; what export.json says of them.

    The graph takes input_ids, attention_mask and, where the tokenizer gives them, token_type_ids, (batch, length) of
    any size, and gives logits (batch, classes). Its last layer is computed for [CLS] alone where `last_layer.run` can.
    int8: a second file, whose weights have 8 bits. check: a file of rows to check with, and its text_columns; without
    it the dev rows of the student's record, else a few examples, which a line says.

    Raises ValueError when the logits differ from PyTorch's by more than TOLERANCE; then nothing is left in `out`.
    """
    for name in PACKAGES:  # before any work
        __import__(name)
    out = Path(out).resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"onnx = {str(out)!r}: must be a new or an empty folder")
    if not out.parent.is_dir():
        raise ValueError(f"onnx = {str(out)!r}: must lie in a folder that is there")
    if bool(check) != bool(text_columns):
        raise ValueError("check and text_column: must be given together")
    ours = load_student(student)
    if ours.model is None:
        raise ValueError(f"student = {str(student)!r}: must be a folder of weights, not an export")
    where, rows = _rows_to_check(student, ours, Path(check) if check else None, text_columns)
    split = encode_split(rows, ours.tokenizer, ours.max_length)
    inputs = [name for name in split[[0]] if name not in ("rows", "labels")]
    expected, model = ours.predict(split, 128), ours.model.cpu()
    part = out.with_name(f".{out.name}.{token_hex(8)}.part")
    part.mkdir()
    try:
        files = {"onnx": part / ONNX_FILE}
        _write_graph(model, inputs, files["onnx"])
        if int8:
            files["int8"] = part / INT8_FILE
            _quantize(files["onnx"], files["int8"])
        sessions = {name: load_onnx(file) for name, file in files.items()}
        models = {"pytorch": {"size_mb": sum(one.nbytes for one in model.parameters()) / 1e6}}
        models |= {name: {"size_mb": file.stat().st_size / 1e6} for name, file in files.items()}
        for name, figures in models.items():
            logits = predict_onnx(sessions[name], split) if name in sessions else expected
            figures |= _scores(logits, expected, rows)
        if not (difference := models["onnx"]["max_difference"]) <= TOLERANCE:  # nor NaN
            line = f"logits of ONNX and PyTorch differ by {difference:.2g} on {where}"
            raise ValueError(f"{student}: {line}: must be at most {TOLERANCE}")
        length = min(LENGTH, ours.max_length)
        for size in BATCHES:
            for name, milliseconds in _latencies(model, sessions, example_batch(inputs, size, length)).items():
                models[name][f"latency_ms_{size}"] = milliseconds
        report = {
            "student": Path(student).resolve().name if here(student) else str(student), "max_length": ours.max_length,
            "inputs": inputs, "classes": ours.names, "checked_on": where, "models": models,
            "latency": {"length": length, "repeats": REPEATS, "threads": torch.get_num_threads()},
            "versions": installed_versions() | {name: version(name) for name in PACKAGES},
        }  # fmt: skip
        ours.tokenizer.model_max_length = ours.max_length  # whoever reads it cuts rows as in training
        ours.tokenizer.save_pretrained(part)
        model.config.save_pretrained(part)
        write_text(part / "export.json", json.dumps(report, indent=1) + "\n")
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def table(report: Mapping[str, Any]) -> str:
    """An export's sizes, latencies and scores, a line per model."""
    rows = pd.DataFrame.from_dict(report["models"], orient="index")
    made = report["latency"]
    return (
        f"Checked on {report['checked_on']}; latency of {made['length']} tokens, {made['threads']} threads\n"
        f"{rows.to_string(na_rep='', float_format='{:.4g}'.format)}"
    )


# ------------------------------------------------------------------------------------------------------ the check
def _rows_to_check(
    student: str | Path, ours: Student, check: Path | None, text_columns: Sequence[str]
) -> tuple[str, Split]:
    """The rows, and what they are."""
    if check:
        check_columns(ours, text_columns, student)
        rows = read_rows(check, text_columns, "check")[1]
        return f"{len(rows)} rows of {check.name}", rows
    record, reason = record_of(student, "student"), "it has no record"
    if record:
        try:
            reading = {name: getattr(record, name) for name in READING if name != "unlabelled"}
            rows = load_task(record.get_task(), **reading).splits["dev"]
            if rows.fingerprint == record.fingerprints.get("dev"):
                return f"{len(rows)} dev rows of {record.task}", rows
            reason = f"those of {record.source} have changed since"
        except (OSError, ValueError, ModuleNotFoundError) as error:
            reason = str(error)
    say(f"{student}: checked on {len(EXAMPLES)} example texts, not on its dev rows: {reason}")
    texts = (EXAMPLES, EXAMPLES[::-1])[: max(1, len(ours.columns))]
    return f"{len(EXAMPLES)} example texts", Split("example", texts, None)


def _scores(logits: Tensor, expected: Tensor, rows: Split) -> dict[str, float]:
    """Against PyTorch's logits, and, of classes where the rows have labels, against the labels."""
    scores = {"max_difference": (logits - expected).abs().max().item()}
    if logits.shape[1] > 1:
        predictions = logits.argmax(dim=-1)
        scores["agreement"] = (predictions == expected.argmax(dim=-1)).double().mean().item()
        if rows.labels is not None:
            scores["accuracy"] = float((predictions.numpy() == rows.labels).mean())
    return scores


def _latencies(model: PreTrainedModel, sessions: Mapping[str, Any], batch: Batch) -> dict[str, float]:
    """Milliseconds of a batch on the CPU, the median of REPEATS after one that does not count, all models in turn."""
    feeds = {name: tensor.numpy() for name, tensor in batch.items()}
    calls: dict[str, Callable[[], Any]] = {"pytorch": lambda: run(model, batch, cls_alone=True)}
    calls |= {name: partial(session.run, None, feeds) for name, session in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for name in [*calls] * (1 + REPEATS):
            started = time.perf_counter()
            calls[name]()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: median(spent[1:]) for name, spent in times.items()}


# ------------------------------------------------------------------------------------------------------ the files
class Logits(nn.Module):
    """A classifier that takes its inputs in the order of their names and gives its logits alone."""

    def __init__(self, model: PreTrainedModel, inputs: list[str]):
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *tensors: Tensor) -> Tensor:
        return run(self.model, dict(zip(self.inputs, tensors, strict=True)), cls_alone=True).logits


def example_batch(inputs: list[str], size: int, length: int) -> Batch:
    """A batch of one token, repeated; (size, length) each."""
    return {name: torch.full((size, length), int(name != "token_type_ids")) for name in inputs}


def _write_graph(model: PreTrainedModel, inputs: list[str], file: Path) -> None:
    batch = tuple(example_batch(inputs, 2, 8).values())  # two or more of each: torch takes 1 for a constant
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with _silent():
        program = torch.onnx.export(
            Logits(model, inputs).eval(), batch, dynamo=True, input_names=inputs, output_names=["logits"],
            dynamic_shapes={"tensors": (sizes,) * len(inputs)}, verbose=False,
        )  # fmt: skip
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces, as large as a small model, with this machine's paths
        program.save(file)


def _quantize(file: Path, out: Path) -> None:
    """Weights of 8 bits, a scale for each column; reduce_range, as processors without VNNI add two products in 16."""
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_name("prepared.onnx")
    with _silent():
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, out, per_channel=True, reduce_range=True)
    prepared.unlink()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep torch's exporter and onnxruntime from telling of packages and axes that do not matter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
