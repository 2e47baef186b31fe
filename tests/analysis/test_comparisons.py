"""Only like runs are compared: settings, doubled records, seeds, data and teachers."""

import json
import math
import re
import time
from itertools import permutations
from typing import Annotated

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdlib import ROOT, DistillConfig, FineTuneConfig, load_records, method_config, validate
from pkdlib import config as config_module
from pkdlib.analysis import comparisons as comparisons_module
from pkdlib.analysis.comparisons import (
    Comparison,
    all_differences,
    comparisons,
    main_comparisons,
    method_pairs,
    most_specific,
    sensitivities,
    setting_of,
    told_apart,
    unique_runs,
)
from pkdlib.analysis.statistics import holm, paired_difference
from pkdlib.config import METHODS
from pkdlib.engine.configs import Role
from pkdlib.records import RunRecord
from pkdlib.tasks import Task

BASE = validate(DistillConfig, num_hidden_layers=3)
DATA = {"train": "train-a", "dev": "dev-a"}


def run(method: str, seed: int, accuracy: float, data: dict | None = None, task: str = "rte", **changes) -> RunRecord:
    """A finished run; its fingerprints name its teacher, `changes` are its configuration's."""
    taught = {} if method == "teacher" else {"teacher_weights": changes.pop("teacher", "teacher-a")}
    if method == "teacher":
        config = validate(FineTuneConfig, num_hidden_layers=changes.pop("num_hidden_layers", 12), seed=seed)
        weights = changes.pop("weights", "teacher-a")
    else:
        config = method_config(method, BASE, seed=seed, **changes)
        weights = f"{method} {seed} {accuracy}"
    return RunRecord(
        run_id=f"{method}-{seed}-{sorted(changes.items())}-{data}", method=method, task=task, source="data",
        max_length=64, train_rows=100, seed=seed, config=config.model_dump(), layer_map=[], num_parameters=10,
        metrics={"dev": {"accuracy": accuracy, "loss": 1.0}}, best_epoch=1, history=[{"epoch": 1, "dev_accuracy": 0.5}],
        fingerprints={**DATA, **(data or {}), **taught, "weights": weights}, durations_s={"training": 1.0},
        device="cpu", threads=1, created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def shown(records: list[RunRecord]) -> list[tuple[dict[str, int], str]]:
    """Of every comparison the runs by method, and what tells it from its task's first one."""
    found = comparisons(records)
    mains = main_comparisons(found)
    return [
        (one.frame()["method"].value_counts(sort=False).to_dict(), told_apart(one.setting, mains[one.task].setting))
        for one in found
    ]


def test_a_student_stands_beside_all_that_agree_in_what_matters_to_it() -> None:
    records = [run("FT", 0, 0.5), run("KD", 0, 0.6), run("PKD-Skip", 0, 0.7)]
    records += [run("KD", 0, 0.6, temperature=20), run("PKD-Skip", 0, 0.7, temperature=20)]
    records += [run("PKD-Skip", 0, 0.65, beta=9)]
    assert shown(records) == [
        ({"FT": 1, "KD": 1, "PKD-Skip": 1}, ""),
        ({"FT": 1, "KD": 1, "PKD-Skip": 1}, "temperature 20"),
        ({"FT": 1, "KD": 1, "PKD-Skip": 1}, "beta 9"),
    ]


def test_the_main_setting_is_of_equals_the_best_on_dev_whatever_test_says() -> None:
    scores = {0.3: (0.5, 0.9), 3: (0.7, 0.6), 9: (0.6, 0.8)}  # beta -> on dev, on test
    for order in permutations(scores):
        records = [run("PKD-Skip", 0, scores[beta][0], beta=beta) for beta in order]
        records = [
            record.model_copy(update={"metrics": record.metrics | {"test": {"accuracy": scores[beta][1]}}})
            for record, beta in zip(records, order, strict=True)
        ]
        found = comparisons(records)
        assert main_comparisons(found)["rte"].setting["beta"] == 3
        assert [one.setting["beta"] for one in found] == [3, 9, 0.3]
    unknown = run("PKD-Skip", 0, 0.9, beta=0.3).model_copy(update={"metrics": {"dev": {"loss": 1.0}}})
    found = comparisons([unknown, run("PKD-Skip", 0, 0.1, beta=3)])
    assert [one.mean_on_dev for one in found] == [0.1, 0.0]
    more = [run("PKD-Skip", seed, 0.1, beta=0.3) for seed in (1, 2)]
    assert main_comparisons(comparisons([*records, *more]))["rte"].setting["beta"] == 0.3  # of most runs


@pytest.mark.parametrize("reverse", [False, True])
def test_a_run_scored_on_dev_alone_gives_way_to_the_same_scored_on_test_too(reverse: bool) -> None:
    dev = [run("FT", 0, 0.5), run("KD", 0, 0.6), run("KD", 1, 0.7), run("FT", 1, 0.5)]
    both = [
        record.model_copy(update={
            "metrics": record.metrics | {"test": {"accuracy": 0.4}}, "run_id": f"{record.run_id} on test too",
            "fingerprints": record.fingerprints | {"test": "test-a"}, "created_at": "2025-01-01T00:00:00+00:00",
        }) for record in dev[:3]
    ]  # fmt: skip
    kept = unique_runs([*both, *dev] if reverse else [*dev, *both])
    assert sorted(record.run_id for record in kept) == sorted(record.run_id for record in [*both, dev[3]])
    (comparison,) = comparisons(kept)
    assert comparison.metrics == ["dev_accuracy"]  # the one that all have
    (row,) = all_differences([comparison]).to_dict("records")
    assert (row["pairs"], row["difference"]) == (2, pytest.approx(0.15))


@pytest.mark.parametrize("change", [{"learning_rate": 0.5}, {"num_train_epochs": 9}, {"init": "teacher"}])
def test_a_setting_that_matters_to_all_parts_them(change: dict) -> None:
    records = [run("FT", 0, 0.5), run("PKD-Skip", 0, 0.7, **change)]
    assert sorted(name for methods, _ in shown(records) for name in methods) == ["FT", "PKD-Skip"]
    assert len(shown(records)) == 2


SEEDS = range(10)


@pytest.mark.parametrize("field", ["distance", "sharpness"])
def test_a_field_of_the_patience_term_leaves_ft_and_kd_beside_pkd(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sharper(DistillConfig):
        sharpness: Annotated[str, Role.PATIENCE] = "squared"  # a field that pkdlib does not have

    for module in (config_module, comparisons_module):
        monkeypatch.setattr(module, "DistillConfig", Sharper)
    records = []
    for method in METHODS:
        for seed in SEEDS:
            made = run(method, seed, 0.5)
            own = {field: "squared"} if seed % 2 else {}  # an older record lacks the field: it had the default
            own = {field: "another"} if method.startswith("PKD") else own
            config = {name: value for name, value in made.config.items() if name != field}
            records.append(made.model_copy(update={"config": config | own}))
    (one,) = comparisons(records)
    assert one.frame()["method"].value_counts().to_dict() == dict.fromkeys(METHODS, len(SEEDS))
    assert one.setting[field] == "another"
    (_, name, size, table), *_ = sensitivities(comparisons([*records, run("PKD-Skip", 10, 0.5)]))
    assert (name, size, set(table["method"])) == (field, 3, {"PKD-Skip"})


def test_a_task_of_one_s_own_is_compared_by_its_own_metrics_after_the_table_s() -> None:
    task = Task("a-task", ("text",), ("no", "yes"), metrics=("f1", "accuracy"))
    own = [
        run(method, seed, 0.5, task="a-task").model_copy(
            update={"task_definition": task, "metrics": {"dev": {"f1": score + seed / 10, "accuracy": 0.5}}}
        )
        for method, score in {"FT": 0.1, "KD": 0.3}.items()
        for seed in (0, 1)
    ]
    found = comparisons([*own, run("FT", 0, 0.5, task="sst2"), run("FT", 0, 0.5, task="rte")])
    assert [one.task for one in found] == ["sst2", "rte", "a-task"]
    assert found[-1].metrics == ["dev_f1", "dev_accuracy"]
    (row,) = all_differences(found).to_dict("records")
    assert (row["task"], row["metric"], row["difference"]) == ("a-task", "dev_f1", pytest.approx(0.2))


def test_other_dev_rows_tasks_and_lengths_are_never_mixed() -> None:
    ours = run("FT", 0, 0.5)
    assert len(comparisons([ours, run("KD", 0, 0.6, data={"dev": "dev-b"})])) == 2
    assert len(comparisons([ours, run("KD", 0, 0.6, task="sst2")])) == 2
    assert len(comparisons([ours, run("KD", 0, 0.6).model_copy(update={"max_length": 32})])) == 2
    assert len(comparisons([ours, run("KD", 0, 0.6).model_copy(update={"train_rows": 99})])) == 2
    assert len(comparisons([ours, run("KD", 0, 0.6)])) == 1


def test_equal_settings_with_other_training_rows_or_teachers_at_a_seed_are_parted() -> None:
    records = [run("FT", 0, 0.5), run("KD", 0, 0.6), run("KD", 0, 0.7, data={"train": "train-b"})]
    assert sorted(len(one.records) for one in comparisons(records)) == [1, 2]
    records = [run("teacher", seed, 0.9, weights=f"teacher-{seed}") for seed in (0, 1)]
    records += [run("KD", 0, 0.6, teacher="teacher-0"), run("KD", 0, 0.7, teacher="teacher-1"), run("FT", 0, 0.5)]
    assert [len(one.records) for one in comparisons(records)] == [2, 2]


def test_students_of_texts_without_labels_are_parted_from_those_of_labelled_rows_alone() -> None:
    recorded = load_records(ROOT / "data" / "results" / "mini-sentiment-3-unlabelled.jsonl")
    parts = [
        {(run.unlabelled_rows, run.config["num_train_epochs"]) for run in one.records} for one in comparisons(recorded)
    ]
    assert sorted(map(sorted, parts)) == [[(0, 6)], [(0, 30)], [(8000, 6)]]


def test_data_and_teacher_may_change_with_the_seed() -> None:
    records = [run("teacher", seed, 0.9, weights=f"teacher-{seed}") for seed in (0, 1)]
    records += [
        run(method, seed, 0.6, data={"train": f"train-{seed}"}, teacher=f"teacher-{seed}")
        for method in ("FT", "KD")
        for seed in (0, 1)
    ]
    (found,) = comparisons(records)
    assert len(found.records) == 4 and len(found.teachers) == 2


def test_teachers_of_other_depths_part_their_students() -> None:
    records = [run("teacher", 0, 0.9), run("teacher", 0, 0.9, weights="teacher-b", num_hidden_layers=24)]
    records += [run("KD", 0, 0.6), run("KD", 1, 0.6, teacher="teacher-b"), run("FT", 0, 0.5)]
    found = comparisons(records)
    assert [[teacher.config["num_hidden_layers"] for teacher in one.teachers] for one in found] == [[12], [24]]
    assert [len(one.records) for one in found] == [2, 2]  # plain fine-tuning needs neither


def test_a_run_recorded_twice_counts_once_and_the_latest_stands() -> None:
    first = run("KD", 0, 0.6)
    again = first.model_copy(update={"run_id": "again", "created_at": "2026-02-01T00:00:00+00:00"})
    older = run("FT", 0, 0.5, temperature=20)  # plain fine-tuning has no temperature
    assert unique_runs([first, older, again, run("FT", 0, 0.5)]) == [again, older]
    assert len(unique_runs([first, run("KD", 1, 0.6), run("KD", 0, 0.6, temperature=20)])) == 3
    defaults = {name: value for name, value in first.config.items() if name != "shuffle"}  # an older record
    assert unique_runs([first, first.model_copy(update={"config": defaults})]) == [first]


def test_of_teachers_with_equal_settings_each_stays_that_has_students() -> None:
    first, second, idle = (run("teacher", 0, 0.9, weights=f"teacher-{name}") for name in "abc")
    students = [run("KD", 0, 0.6), run("KD", 0, 0.7, teacher="teacher-b")]
    assert unique_runs([first, second, idle, *students]) == [first, second, idle, *students]
    assert unique_runs([first, second, students[0]]) == [first, second, students[0]]
    assert [len(one.teachers) for one in comparisons([first, second, *students])] == [1, 1]
    latest = idle.model_copy(update={"run_id": "again", "created_at": "2026-02-01T00:00:00+00:00"})
    assert unique_runs([idle, latest]) == [latest]  # neither has students


def test_runs_of_several_processes_or_of_teachers_told_apart_by_their_configuration_alone_count_each() -> None:
    base = [run(method, seed, 0.5 + seed / 10) for method in ("FT", "KD") for seed in (0, 1)]
    changes = [{"processes": 2}] + [
        {"fingerprints": base[2].fingerprints | {"teacher_config": name}} for name in ("relu", "gelu")
    ]
    for change in changes:
        others = [one.model_copy(update=change | {"created_at": "2027-01-01T00:00:00+00:00"}) for one in base[2:]]
        records = [run("teacher", 0, 0.9), *base, *others]
        assert unique_runs(records) == records
        found = comparisons(records)
        assert sorted(len(one.records) for one in found if "KD" in set(one.frame()["method"])) in ([2, 4], [4, 4])
        assert all(one.teachers == records[:1] for one in found if "KD" in set(one.frame()["method"]))
        all_differences(found)  # in none of them a seed stands twice


def test_scores_are_on_test_where_all_runs_have_them_and_else_on_dev() -> None:
    tested = [
        one.model_copy(update={"metrics": one.metrics | {"test": {"accuracy": 0.4}}, "task": "mrpc"})
        for one in (run("FT", 0, 0.5), run("KD", 0, 0.6))
    ]
    assert comparisons(tested)[0].metrics == ["test_f1", "test_accuracy"]
    mixed = Comparison("mrpc", {}, [tested[0], run("KD", 0, 0.6, task="mrpc")], [])
    assert mixed.metrics == ["dev_f1", "dev_accuracy"]


def test_sizes_fall_and_a_frame_is_sorted_by_method_alone() -> None:
    records = [run("KD", seed, 0.6, num_hidden_layers=size) for size in (3, 6, 2) for seed in range(20, 0, -1)]
    records += [run("FT", seed, 0.5) for seed in (2, 1)]
    one = Comparison("rte", {}, records, [])
    assert one.sizes == [6, 3, 2]
    whole = one.frame()
    assert whole.index.tolist() == list(range(62))
    assert whole["method"].tolist() == ["FT"] * 2 + ["KD"] * 60
    assert whole["seed"].tolist() == [2, 1, *list(range(20, 0, -1)) * 3]  # as they were given
    assert whole["num_hidden_layers"].tolist() == [3, 3] + [3] * 20 + [6] * 20 + [2] * 20
    assert one.frame(3)["seed"].tolist() == [2, 1, *range(20, 0, -1)]
    assert set(one.frame(6)["num_hidden_layers"]) == {6}


def test_a_setting_is_all_that_a_score_depends_on() -> None:
    patient = setting_of(run("PKD-Skip", 3, 0.7, data={"train": "t", "dev": "d"}, teacher="w", beta=9))
    assert patient.keys() >= {"temperature", "alpha", "beta", "normalize", "learning_rate", "init", "backbone"}
    assert not patient.keys() & {"seed", "num_hidden_layers", "strategy"}  # which name a run
    known = {"task": "rte", "source": "data", "max_length": 64, "train_rows": 100, "dev rows": "d", "beta": 9}
    known |= {"teacher": "weights w", "training rows": "t"}
    assert {name: patient[name] for name in known} == known
    kd = setting_of(run("KD", 3, 0.7))
    assert "teacher" in kd and "temperature" in kd and "beta" not in kd
    plain = setting_of(run("FT", 3, 0.7))
    assert not plain.keys() & {"teacher", "temperature", "beta"}
    assert setting_of(run("FT", 3, 0.7, init="teacher"))["teacher"] == "weights teacher-a"


def test_what_tells_settings_apart_is_short() -> None:
    setting = {"learning_rate": 0.00002, "backbone": "/a/long/path/bert", "max_length": 64, "strategy": [1, 2], "x": 1}
    other = {"learning_rate": 0.001, "backbone": "bert", "max_length": 32, "strategy": [1, 2]}
    assert told_apart(setting, other) == "learning rate 2e-05, backbone bert, max length 64"
    assert told_apart(setting, setting) == told_apart({}, other) == ""


def test_a_task_s_largest_comparison_comes_first_and_tasks_in_the_table_s_order() -> None:
    own = {name: {"task_definition": Task(name, ("text",), ("no", "yes"))} for name in ("b-task", "a-task")}
    records = [run("FT", 0, 0.5, task=name).model_copy(update=definition) for name, definition in own.items()]
    records.append(run("FT", 0, 0.5, task="rte"))
    records += [run("FT", 0, 0.5, learning_rate=0.5, task="sst2")]
    records += [run(method, seed, 0.5, task="sst2") for method in ("FT", "KD") for seed in (0, 1)]
    found = comparisons(records)
    assert [(one.task, len(one.records)) for one in found] == [
        ("sst2", 4), ("sst2", 1), ("rte", 1), ("a-task", 1), ("b-task", 1),
    ]  # fmt: skip
    mains = main_comparisons(found)
    assert list(mains) == ["sst2", "rte", "a-task", "b-task"] and mains["sst2"] is found[0]


def test_teachers_that_differ_in_their_seed_alone_are_one_setting_and_others_are_not() -> None:
    records = [run("teacher", seed, 0.9, weights=f"teacher-{seed}") for seed in (0, 1)]
    records += [run("KD", seed, 0.6, teacher=f"teacher-{seed}") for seed in (0, 1)]
    (one,) = comparisons(records)
    assert [teacher.seed for teacher in one.teachers] == [0, 1]
    assert re.fullmatch(r"12 layers of mini-bert-12 \([0-9a-f]{4}\)", one.setting["teacher"])
    other = records[1].model_copy(update={"config": records[1].config | {"learning_rate": 0.5}})
    assert [len(one.records) for one in comparisons([records[0], other, *records[2:]])] == [1, 1]
    unknown = comparisons(records[2:])  # without the teachers' records their weights alone tell them apart
    assert [len(one.records) for one in unknown] == [1, 1] and unknown[0].teachers == []


def test_pairs_are_against_ft_kd_and_last() -> None:
    assert method_pairs(["FT", "KD", "PKD-Last", "PKD-Skip"]) == [
        ("KD", "FT"), ("PKD-Last", "FT"), ("PKD-Skip", "FT"), ("PKD-Last", "KD"), ("PKD-Skip", "KD"),
        ("PKD-Skip", "PKD-Last"),
    ]  # fmt: skip
    assert method_pairs(["PKD-Skip", "FT"]) == [("PKD-Skip", "FT")]
    assert method_pairs(["FT"]) == []
    assert method_pairs(iter(["FT", "KD", "FT", "KD"])) == [("KD", "FT")]


def test_differences_are_those_of_equal_seeds_each_once_and_corrected_by_task() -> None:
    scores = {"FT": (0.50, 0.52, 0.51), "KD": (0.60, 0.60, 0.64), "PKD-Skip": (0.61, 0.66, 0.60)}
    records = [run(method, seed, score) for method, found in scores.items() for seed, score in enumerate(found)]
    records += [run("PKD-Skip", seed, 0.55 + seed / 100, beta=9) for seed in range(3)]
    records += [run(method, seed, 0.5 + seed / 50, task="sst2") for method in ("FT", "KD") for seed in (0, 1)]
    found = all_differences(comparisons(records))
    rte = found[found["task"] == "rte"]
    named = list(rte[["setting", "method", "baseline"]].itertuples(index=False, name=None))
    assert named == [
        ("main", "KD", "FT"), ("main", "PKD-Skip", "FT"), ("main", "PKD-Skip", "KD"),
        ("beta 9", "PKD-Skip", "FT"), ("beta 9", "PKD-Skip", "KD"),
    ]  # fmt: skip
    frame = pd.DataFrame(
        [{"method": m, "seed": s, "score": score} for m, found in scores.items() for s, score in enumerate(found)]
    )
    expected = paired_difference(frame, "score", "PKD-Skip", "KD")
    assert {name: rte.iloc[2][name] for name in expected} == pytest.approx(expected)
    assert rte["p_holm"].tolist() == pytest.approx(holm(rte["p"]).tolist())
    assert found[found["task"] == "sst2"]["p_holm"].tolist() == [1.0]  # of one test alone


def test_methods_without_a_shared_seed_have_no_difference() -> None:
    assert all_differences(comparisons([run("FT", 0, 0.5), run("KD", 1, 0.6)])).empty
    assert all_differences([]).empty


def test_the_table_of_differences_has_these_columns() -> None:
    records = [run(method, seed, 0.5 + seed / 10) for method in ("FT", "KD") for seed in (0, 1)]
    records += [run(method, 0, 0.5, num_hidden_layers=2) for method in ("FT", "KD")]
    records[0] = records[0].model_copy(update={"eval_rows": {"dev": 277, "test": 3}})
    found = all_differences(comparisons(records))
    assert found.columns.tolist() == [
        "task", "metric", "setting", "num_hidden_layers", "method", "baseline", "difference", "low", "high", "p",
        "p_holm", "pairs", "detectable", "rows", "warning",
    ]  # fmt: skip
    assert found["num_hidden_layers"].tolist() == [3, 2] and found["pairs"].tolist() == [2, 1]
    assert found["rows"].tolist() == [277, 277] and str(found["rows"].dtype) == "Int64"
    assert found["metric"].tolist() == ["dev_accuracy"] * 2 and found["setting"].tolist() == ["main"] * 2


def test_rows_come_from_the_record_and_without_them_there_is_no_warning() -> None:
    records = [run("FT", 0, 150 / 277), run("KD", 0, 151 / 277)]
    (unknown,) = all_differences(comparisons(records)).to_dict("records")
    assert pd.isna(unknown["rows"]) and unknown["warning"] == ""
    counted = [record.model_copy(update={"eval_rows": {"dev": 277}}) for record in records]
    (known,) = all_differences(comparisons(counted)).to_dict("records")
    assert known["rows"] == 277 and known["warning"].startswith("too few rows: 277 cannot tell")


def test_sensitivities_are_of_one_field_and_the_methods_it_concerns() -> None:
    records = [run(method, 0, 0.5) for method in ("FT", "KD", "PKD-Skip")]
    records += [run(method, 0, 0.6, temperature=20) for method in ("KD", "PKD-Skip")]
    records += [run("PKD-Skip", 0, 0.7, temperature=20, beta=9)]
    records += [run("FT", 0, 0.4, num_hidden_layers=2)]
    found = {(name, size): table for _, name, size, table in sensitivities(comparisons(records))}
    assert set(found) == {("temperature", 3), ("beta", 3), ("num_hidden_layers", None)}
    table = found["temperature", 3]
    values = table.groupby("method")["temperature"].apply(sorted).to_dict()
    assert values == {"KD": [5.0, 20.0], "PKD-Skip": [5.0, 20.0]}
    beta = found["beta", 3]  # at temperature 20, where nothing but beta differs
    assert sorted(beta[["method", "beta", "temperature"]].values.tolist()) == [
        ["PKD-Skip", 0.3, 20], ["PKD-Skip", 9, 20],
    ]  # fmt: skip


def test_a_comparison_in_which_a_field_does_not_vary_is_passed_over() -> None:
    """The largest comes first: two seeds of settings that no other run shares."""
    records = [run("FT", seed, 0.5, learning_rate=0.1, num_train_epochs=2) for seed in (0, 1)]
    records += [run("FT", 0, 0.5, learning_rate=0.1, num_train_epochs=epochs, weight_decay=0.5) for epochs in (3, 4)]
    ((one, field, size, table),) = sensitivities(comparisons(records))
    assert (one.setting["weight_decay"], field, size) == (0.5, "num_train_epochs", 3)
    assert sorted(table["num_train_epochs"]) == [3, 4]


def test_a_field_that_is_off_is_shown_as_none_and_sizes_fall() -> None:
    records = [
        run("FT", 0, 0.5, dropout_epochs=epochs, num_hidden_layers=size) for size in (2, 6, 3) for epochs in (None, 1)
    ]
    found = sensitivities(comparisons(records))
    named = [(one.setting["dropout_epochs"], name, size) for one, name, size, _ in found]
    assert named == [(None, "dropout_epochs", size) for size in (6, 3, 2)] + [(None, "num_hidden_layers", None)]
    assert [table["dropout_epochs"].tolist() for *_, table in found[:3]] == [["none", 1]] * 3
    assert [set(table["num_hidden_layers"]) for *_, table in found] == [{6}, {3}, {2}, {2, 3, 6}]


def test_neither_tasks_nor_rows_are_a_field_that_varies() -> None:
    records = [run("FT", 0, 0.5), run("FT", 0, 0.6, data={"dev": "dev-b", "train": "train-b"})]
    records += [run(method, 0, 0.5, task="sst2", data={"of": "sst2"}) for method in ("FT", "KD")]
    assert len({one.run_id for one in records}) == 4
    assert sensitivities(comparisons(records)) == []


def test_a_slice_has_its_methods_in_their_order() -> None:
    records = [run(method, 0, 0.5, learning_rate=rate) for rate in (0.1, 0.2) for method in reversed(METHODS)]
    ((_, field, size, table),) = sensitivities(comparisons(records))
    assert (field, size) == ("learning_rate", 3)
    assert table["method"].tolist() == [method for method in sorted(METHODS) for _ in range(2)]


def test_a_slice_has_the_runs_that_stand_beside_patient_ones_too() -> None:
    """As in the paper's search: KD at every temperature, patience at the best one alone."""
    records = [run("KD", 0, 0.5, temperature=temperature) for temperature in (5, 10, 20)]
    records += [run("PKD-Skip", 0, 0.6, temperature=20, beta=beta) for beta in (1, 9)]
    found = [(name, table) for _, name, _, table in sensitivities(comparisons(records))]
    assert sorted(name for name, _ in found) == ["beta", "temperature"]  # each once
    table = dict(found)["temperature"]
    assert table[["method", "temperature"]].values.tolist() == [["KD", 20], ["KD", 5], ["KD", 10]]
    assert set(dict(found)["beta"]["method"]) == {"PKD-Skip"}


def test_the_recorded_runs_make_like_comparisons_only() -> None:
    records = unique_runs(load_records(ROOT / "data" / "results"))
    for one in comparisons(records):
        frame = one.frame()
        assert not frame.duplicated(["method", "num_hidden_layers", "seed"]).any()
        assert frame["learning_rate"].nunique() == frame["num_train_epochs"].nunique() == 1
        assert frame["backbone"].nunique() == frame["init"].nunique() == frame["train_rows"].nunique() == 1
        taught = frame[frame["method"] != "FT"]
        assert taught["temperature"].nunique() <= 1 and taught["alpha"].nunique() <= 1
        assert taught[taught["method"] != "KD"]["beta"].nunique() <= 1
    assert not math.isnan(all_differences(comparisons(records))["difference"].sum())


# ---------------------------------------------------------------------------------------------------- many settings
SETTINGS = st.lists(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([None, 0, 1, [2]]), max_size=4), max_size=12
)


@given(SETTINGS)
def test_the_most_specific_settings_are_those_that_comparing_all_pairs_finds(settings: list[dict]) -> None:
    distinct = {json.dumps(one, sort_keys=True): one for one in settings}.values()
    expected = [
        (one, [other for other in settings if other.items() <= one.items()])
        for one in distinct
        if not any(one.items() < other.items() for other in distinct)
    ]
    assert most_specific(settings, lambda one: one) == expected


def test_two_thousand_settings_take_seconds() -> None:
    """All pairs of settings, as they were compared before, took 35 s in one function."""
    records = [run("FT", seed, 0.5 + seed / 50) for seed in (0, 1)]
    for number in range(200):
        records += [run("KD", seed, 0.6 + seed / 50, temperature=1 + number) for seed in (0, 1)]
        records += [run("PKD-Skip", 0, 0.7, temperature=1 + number, beta=0.1 * (1 + beta)) for beta in range(10)]
    started = time.process_time()
    found = comparisons(records)
    differences, varied = all_differences(found), sensitivities(found)
    seconds = time.process_time() - started
    assert len(found) == 2000 and {len(one.records) for one in found} == {5}
    assert len(differences) == 200 + 2 * 2000  # KD and FT at every temperature, PKD and both everywhere
    assert sorted({name for _, name, _, _ in varied}) == ["beta", "temperature"]
    assert len(varied) == 200 + 10  # beta at every temperature, temperature at every beta
    assert seconds < 20, f"{seconds:.1f} s of processor time"
