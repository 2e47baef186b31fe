"""Scores of predictions against labels, by name; scikit-learn's and scipy's where they have them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]  # of labels and predictions, (rows,)


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of right predictions; both are class indices, (rows,)."""
    return float((labels == predictions).mean())


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1, as GLUE defines it for MRPC and QQP: 2 TP / (2 TP + FP + FN), 0 where class 1 is nowhere."""
    right = int(((labels == 1) & (predictions == 1)).sum())
    named = int((labels == 1).sum() + (predictions == 1).sum())
    return 2 * right / named if named else 0.0


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The mean F1 of the classes that are among the labels or the predictions."""
    from sklearn.metrics import f1_score  # here, because it takes a second to import

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def mcc(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Matthews' correlation of classes, in -1..1, as GLUE scores CoLA; 0 where one class is named for all rows."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _correlation(name: str, values: np.ndarray, predictions: np.ndarray) -> float:
    """scipy's correlation of two lists of values, in -1..1; 0 where one of them is constant, which has none."""
    from scipy import stats

    if np.ptp(values) == 0 or np.ptp(predictions) == 0:
        return 0.0
    statistic: Any = getattr(stats, name)(values, predictions).statistic
    return float(statistic)


OF_VALUES = ("pearson", "spearman")  # in regression; all others are of classes
METRICS: dict[str, Metric] = {
    "accuracy": accuracy, "f1": f1, "macro_f1": macro_f1, "mcc": mcc,
    "pearson": partial(_correlation, "pearsonr"), "spearman": partial(_correlation, "spearmanr"),
}  # fmt: skip
