"""Records of runs as tidy tables, and the runs among them that belong together."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pkdlib.config import DistillConfig
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE, RunRecord


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
