"""What a task is: its text columns, its classes, its metrics."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pkdlib.engine.configs import distinct_names, pick


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of right predictions; both are class indices, (rows,)."""
    return float((labels == predictions).mean())


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1, as GLUE defines it for MRPC and QQP: 2 TP / (2 TP + FP + FN), 0 where class 1 is nowhere."""
    right = int(((labels == 1) & (predictions == 1)).sum())
    named = int((labels == 1).sum() + (predictions == 1).sum())
    return 2 * right / named if named else 0.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"accuracy": accuracy, "f1": f1}


@dataclass(frozen=True)
class Task:
    """One classification task, of the table below or of your own. Its first metric selects the best epoch.

    Raises ConfigError when a field has too few names or too many, or one of them twice, or a metric is unknown.
    """

    name: str
    columns: tuple[str, ...]  # one or two text columns
    label_names: tuple[str, ...]  # class index -> name; GLUE's tasks have GLUE's order
    metrics: tuple[str, ...] = ("accuracy",)  # names of METRICS

    def __post_init__(self) -> None:
        distinct_names("columns", self.columns, 1, 2)
        distinct_names("label_names", self.label_names, 2)
        for name in distinct_names("metrics", self.metrics, 1):
            pick("metrics", name, METRICS)

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    def compute_metrics(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Every metric of the task as a fraction in 0..1; labels and predictions are class indices, (rows,)."""
        return {name: METRICS[name](labels, predictions) for name in self.metrics}

    def majority_scores(self, labels: np.ndarray) -> dict[str, float]:
        """`compute_metrics` of a model that names the most frequent of the labels (rows,) for every row."""
        return self.compute_metrics(labels, np.full_like(labels, np.bincount(labels).argmax()))


PAIR = ("sentence1", "sentence2")
_NLI3 = ("entailment", "neutral", "contradiction")
_NLI2 = ("entailment", "not_entailment")
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("sst2", ("sentence",), ("negative", "positive")),
        Task("mrpc", PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy")),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
        Task("mnli", ("premise", "hypothesis"), _NLI3),  # scored on the matched rows
        Task("mnli-mm", ("premise", "hypothesis"), _NLI3),  # on the mismatched
        Task("qnli", ("question", "sentence"), _NLI2),
        Task("rte", PAIR, _NLI2),
        Task("mini-sentiment", ("sentence",), ("negative", "positive")),
        Task("mini-inference", PAIR, _NLI3),
    )
}


def get_task(name: str | Task) -> Task:
    """The task of that name, or the task given; ValueError lists the known names otherwise."""
    return name if isinstance(name, Task) else pick("task", name, TASKS)
