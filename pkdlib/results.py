"""One complete record per run, written atomically and last; folders of them read into tidy tables."""

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pkdlib.config import VERSION, DistillConfig

RESULT_FILE = "result.json"
PACKAGES = ("torch", "transformers", "accelerate", "numpy")


def installed_versions() -> dict[str, str]:
    return {"python": platform.python_version(), "pkdlib": VERSION, **{name: version(name) for name in PACKAGES}}


def machine() -> dict[str, str]:
    """What this machine has: processors, torch's threads, and the accelerator's name and memory."""
    found = {"processors": f"{os.cpu_count()} ({platform.machine()})", "torch threads": str(torch.get_num_threads())}
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return found | {"device": f"{torch.cuda.get_device_name()}, {memory:.0f} GiB"}
    return found | {"device": "cpu"}


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunRecord(BaseModel):
    """Everything needed to say what a run was and what came out."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")  # JSON itself has no NaN

    run_id: str
    method: str  # "teacher", "FT", "KD", "PKD-Skip", "PKD-Last" or "PKD-" and the map
    task: str
    source: str  # where the rows were read
    max_length: int
    train_rows: int
    eval_rows: dict[str, int] = Field(default_factory=dict)  # of the scored splits; older records lack it
    subset_seed: int = 0  # of the training rows, where they are fewer than the split's
    bad_rows: str = "error"  # what was done with unreadable rows
    seed: int
    config: dict[str, Any]  # validated
    layer_map: list[int]
    num_parameters: int
    metrics: dict[str, dict[str, float]]  # split -> metric -> fraction in 0..1, of the best epoch
    best_epoch: int
    history: list[dict[str, float]]  # per epoch
    fingerprints: dict[str, str]  # of the splits, the teacher's weights and the trained weights
    durations_s: dict[str, float]
    device: str
    threads: int
    versions: dict[str, str] = Field(default_factory=installed_versions)
    created_at: str = Field(default_factory=timestamp)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def write_text(path: Path, text: str) -> None:
    """The whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_result(record: RunRecord, folder: Path) -> Path:
    """Write the record as `folder`/result.json: a run without this file did not finish."""
    path = Path(folder) / RESULT_FILE
    write_text(path, record.model_dump_json(indent=1) + "\n")
    return path


def save_records(records: Iterable[RunRecord], path: Path) -> None:
    """Write records to one JSON-lines file, ordered by run id."""
    ordered = sorted(records, key=lambda record: record.run_id)
    write_text(Path(path), "".join(record.model_dump_json() + "\n" for record in ordered))


def load_records(folder: Path) -> list[RunRecord]:
    """Every record of a folder (its result.json files at any depth, else its .jsonl files) or of one .jsonl file.

    Raises FileNotFoundError when there is none, ValueError naming a file that is not a complete record.
    """
    folder = Path(folder)
    files = [folder] if folder.is_file() else sorted(folder.rglob(RESULT_FILE)) or sorted(folder.glob("*.jsonl"))
    records = []
    for file in files:
        content = file.read_bytes()  # as str, splitlines() would also split at rarer line ends inside a text
        for number, line in enumerate(content.splitlines() if file.suffix == ".jsonl" else [content], start=1):
            try:
                records.append(RunRecord.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "content"
                raise ValueError(f"{file}, record {number}: {where}: {first['msg']}") from None
    if not records:
        raise FileNotFoundError(f"{folder}: no result files")
    return records


def students_of(teacher_dir: Path, students_dir: Path) -> list[tuple[Path, RunRecord]]:
    """(folder, record) of every student below students_dir that this very teacher taught; none is no error."""
    teacher_file = Path(teacher_dir) / RESULT_FILE
    if not teacher_file.is_file():
        return []
    weights = load_records(teacher_file)[0].fingerprints["weights"]
    files = sorted(Path(students_dir).rglob(RESULT_FILE))
    found = [(file.parent, load_records(file)[0]) for file in files]
    return [(folder, record) for folder, record in found if record.fingerprints.get("teacher_weights") == weights]


def matching(records: Iterable[RunRecord], config: DistillConfig) -> list[RunRecord]:
    """The distillations that were run with `config` but for the seed; what an older record lacks was its default."""
    return varied(records, config, "seed")


def varied(records: Iterable[RunRecord], config: DistillConfig, field: str) -> list[RunRecord]:
    """The distillations that differ from `config` in one field, whatever their seed; `config`'s own are among them.

    field: a name of DistillConfig's, or train_rows. A run of another method than `config`'s is one that the field
    alone makes so: beta = 0 is KD. Raises ValueError for another name.
    """
    known = (*DistillConfig.model_fields, "train_rows")
    if field not in known:
        raise ValueError(f"field = {field!r}: must be one of {', '.join(known)}")
    defaults, free = DistillConfig().model_dump(), {field: None, "seed": None}
    wanted = {**config.model_dump(), **free}
    taught = [record for record in records if record.method != "teacher"]  # whose settings a student's might equal
    return [record for record in taught if {**defaults, **record.config, **free} == wanted]


def load_results(folder: Path) -> pd.DataFrame:
    """A row per run: what it was, its configuration's fields, and "<split>_<metric>" columns in 0..1."""
    return results_frame(load_records(folder))


def results_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    rows = []
    for record in records:
        row = record.model_dump(
            include={"run_id", "method", "task", "source", "train_rows", "max_length", "best_epoch"}
        )
        row |= {"num_parameters": record.num_parameters, "layer_map": record.layer_map} | record.config
        row |= {f"{split}_{name}": value for split, found in record.metrics.items() for name, value in found.items()}
        row |= {f"{name}_s": seconds for name, seconds in record.durations_s.items()}
        rows.append(row | {"device": record.device, "created_at": record.created_at})
    return pd.DataFrame(rows)


def history_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """A row per epoch of every run: method, num_hidden_layers, seed, epoch and its figures."""
    rows = []
    for r in records:
        key = {
            "run_id": r.run_id,
            "method": r.method,
            "num_hidden_layers": r.config["num_hidden_layers"],
            "seed": r.seed,
        }
        rows += [key | epoch for epoch in r.history]
    return pd.DataFrame(rows)
