"""One complete record per run, written last and whole: a run without it did not finish."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pkdlib.engine.files import write_text
from pkdlib.engine.machine import installed_versions, timestamp
from pkdlib.tasks import Task, get_task

RESULT_FILE = "result.json"


class RunRecord(BaseModel):
    """Everything needed to say what a run was and what came out."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")  # JSON itself has no NaN

    run_id: str
    method: str  # "teacher", "FT", "KD", "PKD-Skip", "PKD-Last", "PKD-" and the map, or an own objective's name
    task: str
    task_definition: Task | None = None  # None in older records, of a task of the table
    source: str  # where the rows were read
    max_length: int
    train_rows: int  # without the unlabelled
    eval_rows: dict[str, int] = Field(default_factory=dict)  # of the scored splits
    subset_seed: int = 0  # of the training rows, where they are fewer than the split's
    bad_rows: str = "error"  # what was done with unreadable rows
    dataset_config: str = ""  # of a dataset that has several
    dev_fraction: float = 0.0  # of the training rows, drawn as dev
    unlabelled: str = ""  # where further training rows were read, without labels
    unlabelled_rows: int = 0
    seed: int
    config: dict[str, Any]  # validated
    layer_map: list[int]
    num_parameters: int
    metrics: dict[str, dict[str, float]]  # split -> metric -> fraction in 0..1, of the best epoch
    majority: dict[str, dict[str, float]] = Field(default_factory=dict)  # split -> metric -> of the most frequent class
    best_epoch: int
    history: list[dict[str, float]]  # per epoch
    fingerprints: dict[str, str]  # of the splits, the teacher's weights and the trained weights
    durations_s: dict[str, float]
    device: str
    threads: int
    processes: int = 1
    versions: dict[str, str] = Field(default_factory=installed_versions)
    created_at: str = Field(default_factory=timestamp)

    def get_task(self) -> Task:
        """The task as the run had it; ValueError when a record without a definition names no task of the table."""
        return self.task_definition or get_task(self.task)


def save_result(record: RunRecord, folder: Path) -> Path:
    """Write the record as `folder`/result.json; its path."""
    path = Path(folder) / RESULT_FILE
    write_text(path, record.model_dump_json(indent=1) + "\n")
    return path
