"""The task table: columns, labels and metrics of every task, and where its splits lie."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of right predictions; both are class indices, (rows,)."""
    return float((labels == predictions).mean())


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1, as GLUE defines it for MRPC and QQP: 2 TP / (2 TP + FP + FN), 0 where class 1 is nowhere."""
    found = int(((labels == 1) & (predictions == 1)).sum())
    named = int((labels == 1).sum() + (predictions == 1).sum())
    return 2 * found / named if named else 0.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"accuracy": accuracy, "f1": f1}


@dataclass(frozen=True)
class Task:
    """One classification task, of the table below or of your own. Its first metric selects the best epoch."""

    name: str
    columns: tuple[str, ...]  # one or two text columns, by their name in headered files and hub datasets
    label_names: tuple[str, ...]  # class index -> name; GLUE's tasks have GLUE's order
    folder: str = ""  # of the GLUE download
    config: str | None = None  # of the hub dataset; None: its only one
    metrics: tuple[str, ...] = ("accuracy",)  # names of METRICS
    splits: dict[str, str] = field(  # split -> file stem of the GLUE download
        default_factory=lambda: {"train": "train", "dev": "dev", "test": "test"}
    )
    hub_splits: dict[str, str] = field(  # split -> split of the hub dataset
        default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"}
    )
    tsv_columns: tuple[str, ...] = ()  # text columns of the GLUE download where they differ from `columns`
    tsv_label: str = "label"

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    def compute_metrics(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Every metric of the task as a fraction in 0..1; labels and predictions are class indices, (rows,)."""
        return {name: METRICS[name](labels, predictions) for name in self.metrics}


PAIR = ("sentence1", "sentence2")
_NLI3 = ("entailment", "neutral", "contradiction")
_NLI2 = ("entailment", "not_entailment")


def _mnli(name: str, suffix: str) -> Task:
    splits = {"train": "train", "dev": f"dev_{suffix}", "test": f"test_{suffix}"}
    hub = {"train": "train", "dev": f"validation_{suffix}", "test": f"test_{suffix}"}
    return Task(
        name, ("premise", "hypothesis"), _NLI3, "MNLI", "mnli",
        splits=splits, hub_splits=hub, tsv_columns=PAIR, tsv_label="gold_label",
    )  # fmt: skip


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("sst2", ("sentence",), ("negative", "positive"), "SST-2", "sst2"),
        Task(
            "mrpc", PAIR, ("not_equivalent", "equivalent"), "MRPC", "mrpc", ("f1", "accuracy"),
            tsv_columns=("#1 String", "#2 String"), tsv_label="Quality",
        ),
        Task(
            "qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), "QQP", "qqp", ("f1", "accuracy"),
            tsv_label="is_duplicate",
        ),
        _mnli("mnli", "matched"),
        _mnli("mnli-mm", "mismatched"),
        Task("qnli", ("question", "sentence"), _NLI2, "QNLI", "qnli"),
        Task("rte", PAIR, _NLI2, "RTE", "rte"),
        Task("mini-sentiment", ("sentence",), ("negative", "positive"), "mini-sentiment", "mini-sentiment"),
        Task("mini-inference", PAIR, _NLI3, "mini-inference", "mini-inference"),
    )
}  # fmt: skip


def get_task(name: str | Task) -> Task:
    """The task of that name, or the task given; ValueError lists the known names otherwise."""
    if isinstance(name, Task):
        return name
    if name not in TASKS:
        raise ValueError(f"task = {name!r}: must be one of {', '.join(TASKS)}")
    return TASKS[name]


def label_index(task: Task, label: str | int | float) -> int:
    """Class index of a label given by name or number; ValueError names what is allowed."""
    text = str(label).strip()
    if text in task.label_names:
        return task.label_names.index(text)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number not in range(task.num_labels):
        allowed: Sequence[str] = [f"{index} ({name})" for index, name in enumerate(task.label_names)]
        raise ValueError(f"label {text!r}: must be one of {', '.join(allowed)}")
    return int(number)
