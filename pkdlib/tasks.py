"""What a task is: its text columns, its classes, its metrics."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pkdlib.engine.configs import distinct_names, pick
from pkdlib.engine.metrics import METRICS, OF_VALUES


@dataclass(frozen=True)
class Task:
    """One task, of the table below or of your own. Its first metric selects the best epoch.

    Of a single label name it is regression: labels are numbers, and the model gives one. Where each label names a
    column behind the first, it is multiple choice: which of these texts goes with the first? Raises ConfigError when a
    field has too few names or too many, or one of them twice, or a metric is unknown or of another kind of task.
    """

    name: str
    columns: tuple[str, ...]  # one or two text columns; or a passage's and one for each choice
    label_names: tuple[str, ...]  # class index -> name; GLUE's tasks have GLUE's order
    metrics: tuple[str, ...] = ("accuracy",)  # names of METRICS
    label_column: str = "label"

    def __post_init__(self) -> None:
        distinct_names("label_names", self.label_names, 1)
        distinct_names("columns", self.columns, 1, None if self.choices else 2)
        for name in distinct_names("metrics", self.metrics, 1):
            known = [one for one in METRICS if (one in OF_VALUES) == self.is_regression]
            pick("metrics", name, ["accuracy"] if self.choices else known)  # a place is no class

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    @property
    def is_regression(self) -> bool:
        return self.num_labels == 1

    @property
    def choices(self) -> int:
        """How many choices a row has; 0 unless it is multiple choice."""
        return self.num_labels if not self.is_regression and self.columns[1:] == self.label_names else 0

    def decide(self, logits: Tensor) -> np.ndarray:
        """The likeliest class of every row, or its value in regression, (rows,); logits: (rows, classes)."""
        return (logits[:, 0] if self.is_regression else logits.argmax(dim=-1)).numpy()

    def show(self, label: float) -> str:
        """A label for people: its class's name, or its value."""
        return f"{label:g}" if self.is_regression else self.label_names[int(label)]

    def compute_metrics(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Every metric of the task as a fraction; labels and predictions are class indices, or values, (rows,)."""
        return {name: METRICS[name](labels, predictions) for name in self.metrics}

    def majority_scores(self, labels: np.ndarray) -> dict[str, float]:
        """`compute_metrics` of a model that names the most frequent of the labels (rows,) for every row.

        Values have none: a constant correlates with nothing.
        """
        if self.is_regression:
            return {}
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
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("mcc", "accuracy")),
        Task("stsb", PAIR, ("similarity",), ("pearson", "spearman"), "score"),  # 0..5
        Task("race", ("article", *"ABCD"), (*"ABCD",), label_column="answer"),  # A to D: the question with a choice
        Task("mini-sentiment", ("sentence",), ("negative", "positive")),
        Task("mini-inference", PAIR, _NLI3),
    )
}


def get_task(name: str | Task) -> Task:
    """The task of that name, or the task given; ValueError lists the known names otherwise."""
    return name if isinstance(name, Task) else pick("task", name, TASKS)
