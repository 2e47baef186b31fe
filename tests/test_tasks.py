"""The task table: metrics against hand-counted values, labels by name and number, refusals."""

import math
import re

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import matthews_corrcoef

from pkdlib.engine.configs import ConfigError
from pkdlib.readers.sources import label_index
from pkdlib.tasks import METRICS, TASKS, Task, get_task

# 8 rows, counted by hand: 3 true positives, 1 false positive, 2 false negatives, 2 true negatives.
LABELS = np.array([1, 1, 1, 1, 1, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 1, 0, 0, 1, 0, 0])


def test_the_tasks_are_the_paper_s_and_the_two_embedded_ones() -> None:
    assert set(TASKS) == {
        "sst2", "mrpc", "qqp", "mnli", "mnli-mm", "qnli", "rte", "cola", "stsb", "mini-sentiment",
        "mini-inference", "race",
    }  # fmt: skip
    assert all(get_task(name).name == name for name in TASKS)


def test_classes_are_in_glue_s_order() -> None:
    assert get_task("sst2").label_names == ("negative", "positive")
    assert get_task("mrpc").label_names == ("not_equivalent", "equivalent")
    assert get_task("qqp").label_names == ("not_duplicate", "duplicate")
    assert get_task("mnli").label_names == get_task("mnli-mm").label_names
    assert get_task("mnli").label_names == ("entailment", "neutral", "contradiction")
    assert get_task("qnli").label_names == get_task("rte").label_names == ("entailment", "not_entailment")


@pytest.mark.parametrize("name", ["mrpc", "qqp"])
def test_mrpc_and_qqp_report_f1_of_class_1_and_accuracy(name: str) -> None:
    metrics = get_task(name).compute_metrics(LABELS, PREDICTIONS)
    assert metrics == pytest.approx({"f1": 2 * 3 / (2 * 3 + 1 + 2), "accuracy": 5 / 8})
    assert list(metrics) == ["f1", "accuracy"]  # the first selects the best epoch


@pytest.mark.parametrize("name", sorted(TASKS.keys() - {"mrpc", "qqp", "cola", "stsb"}))
def test_the_other_tasks_report_accuracy(name: str) -> None:
    assert get_task(name).compute_metrics(LABELS, PREDICTIONS) == pytest.approx({"accuracy": 5 / 8})


def test_cola_and_sts_b_are_scored_as_scikit_learn_and_scipy_do() -> None:
    cola = get_task("cola").compute_metrics(LABELS, PREDICTIONS)
    assert cola == pytest.approx({"mcc": (3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4), "accuracy": 5 / 8})
    assert cola["mcc"] == pytest.approx(matthews_corrcoef(LABELS, PREDICTIONS))
    values, predictions = np.array([0.0, 2.5, 5.0, 4.0]), np.array([0.1, 3.0, 9.0, 3.5])
    scores = get_task("stsb").compute_metrics(values, predictions)
    assert list(scores) == ["pearson", "spearman"]
    assert scores["pearson"] == pytest.approx(stats.pearsonr(values, predictions).statistic)
    assert scores["spearman"] == pytest.approx(1.0)  # the same order
    assert get_task("stsb").compute_metrics(values, np.ones(4)) == {"pearson": 0.0, "spearman": 0.0}
    assert get_task("stsb").majority_scores(values) == {}


def test_macro_f1_is_the_classes_mean() -> None:
    task = Task("mine", ("text",), ("a", "b", "c"), ("macro_f1",))
    labels, predictions = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    assert task.compute_metrics(labels, predictions) == pytest.approx({"macro_f1": (2 / 3 + 1 / 2 + 0) / 3})


def test_metrics_are_plain_floats_between_0_and_1() -> None:
    metrics = get_task("mrpc").compute_metrics(LABELS, 1 - LABELS)
    assert metrics == {"f1": 0.0, "accuracy": 0.0}
    assert get_task("mrpc").compute_metrics(LABELS, LABELS) == {"f1": 1.0, "accuracy": 1.0}
    assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize(
    "label", [2, "2", "2.0", 2.0, "contradiction", " contradiction ", "Contradiction", "CONTRADICTION", np.int64(2)]
)
def test_a_label_is_read_by_name_or_number(label: object) -> None:
    assert label_index(get_task("mnli"), label) == 2


@pytest.mark.parametrize("label", ["", "maybe", -1, 3, "0.5", "nan", "inf", None, True])
def test_any_other_label_is_refused_with_what_is_allowed(label: object) -> None:
    with pytest.raises(ValueError) as error:
        label_index(get_task("mnli"), label)
    allowed = "0 (entailment), 1 (neutral), 2 (contradiction)"
    assert str(error.value) == f"label {str(label)!r}: must be one of {allowed}"


@pytest.mark.parametrize(
    ("names", "label", "index"),
    [
        (("no", "yes"), "YES", 1),
        (("false", "true"), True, 1),
        (("Very bad", "good"), "very-bad", 0),
        (("US", "us"), "us", 1),  # the name as it is written comes first
        (("US", "us"), "Us", None),
        (("1", "2", "3"), 1, 0),  # numbers are names here,
        (("1", "2", "3"), 1.0, 0),
        (("1", "2", "3"), "2.0", 1),
        (("1", "2", "3"), 0, None),  # and no positions
        (("-1", "1"), -1, 0),
        (("-1", "1"), 0, None),
        (("0", "1"), -1, None),  # the dash is a sign there, no spelling
    ],
)
def test_names_come_before_numbers(names: tuple[str, ...], label: object, index: int | None) -> None:
    task = Task("mine", ("text",), names)
    if index is None:
        with pytest.raises(ValueError, match=f"^label '{label}': must be one of 0 "):
            label_index(task, label)
    else:
        assert label_index(task, label) == index


def test_an_unknown_task_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"task = 'sst-2': must be one of sst2, mrpc, .*, mini-inference"):
        get_task("sst-2")
    for other in (3, None, ["sst2"], {}):
        with pytest.raises(ValueError, match=r"^task = .*: must be one of sst2, "):
            get_task(other)


def test_the_majority_s_scores_are_those_of_the_most_frequent_class() -> None:
    labels = np.array([1, 1, 0, 1])
    assert get_task("mrpc").majority_scores(labels) == {"f1": 6 / 7, "accuracy": 0.75}
    assert get_task("mrpc").majority_scores(1 - labels) == {"f1": 0.0, "accuracy": 0.75}
    assert get_task("mnli").majority_scores(np.array([2, 2, 0])) == {"accuracy": 2 / 3}


def test_f1_is_0_where_class_1_is_nowhere() -> None:
    zeros = np.zeros(3, int)
    assert get_task("mrpc").compute_metrics(zeros, zeros) == {"f1": 0.0, "accuracy": 1.0}
    assert get_task("mrpc").majority_scores(zeros) == {"f1": 0.0, "accuracy": 1.0}


def test_a_metric_takes_the_labels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy and F1 do not mind; a metric of one's own may."""
    monkeypatch.setitem(METRICS, "recall", lambda labels, predictions: float(predictions[labels == 1].mean()))
    task = Task("own", ("text",), ("no", "yes"), metrics=("recall",))
    assert task.compute_metrics(LABELS, PREDICTIONS) == {"recall": 3 / 5}
    assert task.majority_scores(np.array([1, 0, 1])) == {"recall": 1.0}
    assert task.majority_scores(np.array([1, 0, 0])) == {"recall": 0.0}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"columns": "text"}, "columns = 'text': must be a tuple of 1 or 2 different names"),
        ({"columns": ("a", "b", "c")}, "columns = ('a', 'b', 'c'): must be a tuple of 1 or 2 different names"),
        ({"columns": ("a", "a")}, "columns = ('a', 'a'): must be a tuple of 1 or 2 different names"),
        ({"columns": ()}, "columns = (): must be a tuple of 1 or 2 different names"),
        ({"label_names": ("no",)}, "metrics = 'accuracy': must be one of pearson, spearman"),
        ({"label_names": ()}, "label_names = (): must be a tuple of at least 1 different names"),
        ({"label_names": ("no", "no")}, "label_names = ('no', 'no'): must be a tuple of at least 1 different names"),
        ({"label_names": (0, 1)}, "label_names = (0, 1): must be a tuple of at least 1 different names"),
        ({"label_names": ["no", "yes"]}, "label_names = ['no', 'yes']: must be a tuple of at least 1 different names"),
        ({"metrics": ()}, "metrics = (): must be a tuple of at least 1 different names"),
        ({"metrics": ("recall",)}, "metrics = 'recall': must be one of accuracy, f1, macro_f1, mcc"),
        ({"metrics": ("accuracy", "pearson")}, "metrics = 'pearson': must be one of accuracy, f1, macro_f1, mcc"),
    ],
)
def test_a_task_of_one_s_own_is_checked_when_it_is_made(changes: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
        Task(**{"name": "mine", "columns": ("text",), "label_names": ("no", "yes")} | changes)


def test_a_task_has_as_many_labels_as_names() -> None:
    assert Task("mine", ("one", "two"), ("no", "yes", "maybe")).num_labels == 3
    assert get_task("rte").num_labels == 2
