"""The paper's figures and the authors' settings: spot values, sources, shapes, and what is refused."""

import pandas as pd
import pytest

from pkdlib import DistillConfig, FineTuneConfig, convert_beta, validate
from pkdlib.analysis.paper import (
    PAPER,
    differences_beside_paper,
    later_table,
    paper_length,
    paper_preset,
    paper_presets,
    paper_table,
    paper_teacher,
    reference_rows,
)
from pkdlib.tasks import TASKS

START = ("random", "copied")  # weights of the later study's students
TABLES = ["table_1", "table_2", "table_3", "table_4", "table_5", "dev"]
PAPERS = [name for name in TASKS if not name.startswith("mini-") and name not in ("cola", "stsb")]  # the paper's
GLUE = [name for name in PAPERS if name != "race"]


@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [
        ("table_1", "BERT12 (teacher)", "SST-2", 94.3),
        ("table_1", "BERT6-PKD", "QQP F1", 70.7),
        ("table_1", "BERT6-PKD", "QQP accuracy", 88.9),
        ("table_1", "BERT3-PKD", "RTE", 58.2),
        ("table_2", "PKD-Last", "MNLI-m", 80.9),
        ("table_3", "BERT6-PKD", "All", 60.34),
        ("table_4", "BERT3", "time, s", 27.35),
        ("table_5", "#4: 24 to 6 [Large], PKD", "MRPC accuracy", 68.3),
        ("dev", "6-PKD-Skip", "RTE", 68.2),
        ("dev", "24 to 6 [Large], PKD", "RTE", 59.2),
    ],
)
def test_figures_are_the_paper_s(table: str, row: str, column: str, value: float) -> None:
    assert paper_table(table).loc[row, column] == value


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_a_title_a_source_and_a_figure_or_a_gap_per_cell(name: str) -> None:
    entry = PAPER[name]
    assert all(len(row) == len(entry["columns"]) for row in entry["rows"].values())
    table = paper_table(name)
    assert table.shape == (len(entry["rows"]), len(entry["columns"]))
    assert table.attrs["title"] and ("1908.09355" in table.attrs["source"] or "9e9e860" in table.attrs["source"])
    assert set(map(str, table.dtypes)) == {"float64"}


def test_glue_tables_agree_with_each_other() -> None:
    first, second, fifth = (paper_table(f"table_{number}") for number in (1, 2, 5))
    assert list(first.columns) == list(second.columns) == list(fifth.columns)
    assert second.loc["PKD-Skip"].tolist() == first.loc["BERT6-PKD"].tolist()
    unequal = first.columns[first.loc["BERT6-KD"] != fifth.loc["#1: 12 to 6 [Base], KD"]]
    assert list(unequal) == ["MNLI-m", "MNLI-mm"]  # the paper's own contradiction, which Table 5's note tells


def test_missing_figures_are_nan() -> None:
    gaps = paper_table("dev").isna()
    lacking = ["Teacher24", "6-KD", "6-PKD-Last", *(name for name in gaps.index if name.startswith("24 to 6"))]
    assert list(gaps.index[gaps["RACE"]]) == lacking and len(lacking) == 6
    assert not gaps.drop(columns="RACE").any(axis=None)
    assert paper_table("table_4").loc["BERT12"].isna().tolist() == [False, False, False, True, False, True]


def test_the_table_from_memory_says_so_and_what_is_confirmed() -> None:
    assert "from memory" in paper_table("table_3").attrs["source"] and "60.34" in paper_table("table_3").attrs["source"]


def test_a_changed_table_does_not_change_the_next() -> None:
    table = paper_table("table_1")
    table.loc["BERT6-FT", "RTE"] = 0.0
    assert paper_table("table_1").loc["BERT6-FT", "RTE"] == 63.6


# --------------------------------------------------------------------------------------- works after the paper
@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [
        ("matching", "random weights, none", "SST-2", 81.1),
        ("matching", "random weights, all to one", "MNLI-m", 74.0),
        ("matching", "copied weights, reverse", "QNLI", 83.2),
        ("replications", "BERT-of-Theseus, GLUE dev, average", "PKD", 79.2),
        ("replications", "PaddleNLP, RTE dev", "KD", 63.18),
        ("replications", "bzantium, QNLI dev", "PKD", 86.42),
        ("tinybert", "without hidden states", "dev average", 72.9),
    ],
)
def test_later_figures_are_those_of_their_sources(table: str, row: str, column: str, value: float) -> None:
    found = later_table(table)
    assert found.loc[row, column] == value
    assert found.attrs["title"] and "arXiv" in found.attrs["source"] and found.attrs["read"].startswith(("in ", "BERT"))


def test_the_study_of_2025_finds_that_matching_helps_from_either_start_and_most_from_random_weights() -> None:
    found = later_table("matching")
    for matching in ("forward", "reverse", "all to one"):
        gains = [found.loc[f"{start} weights, {matching}"] - found.loc[f"{start} weights, none"] for start in START]
        assert (gains[0] > gains[1]).all() and (gains[1] >= 0).all()
    assert (found.loc["random weights, all to one"] > found.loc["random weights, forward"]).any()  # not always Skip's


def test_the_replications_with_kd_put_patience_above_it_and_kd_above_fine_tuning() -> None:
    found = later_table("replications").dropna()
    assert len(found) == 4 and (found["FT"] < found["KD"]).all() and (found["KD"] < found["PKD"]).all()


# ------------------------------------------------------------------------------------------------- presets
def test_the_preset_of_rte_with_six_layers() -> None:
    assert paper_preset("rte", 6) == {
        "num_hidden_layers": 6, "learning_rate": 1e-5, "temperature": 10, "alpha": 0.7, "beta": 500, "normalize": True,
        "train_batch_size": 32, "num_train_epochs": 4, "weight_decay": 0.01, "warmup_ratio": 0.1,
        "form": "official", "t_squared": True, "strategy": "skip",
    }  # fmt: skip


@pytest.mark.parametrize("layers", [6, 3])
@pytest.mark.parametrize("task", PAPERS)
def test_every_task_has_a_valid_preset_of_both_sizes(task: str, layers: int) -> None:
    preset = paper_preset(task, layers)
    config = validate(DistillConfig, **preset)
    assert config.num_hidden_layers == layers and config.form == "official" and config.strategy == "skip"
    assert {name: getattr(config, name) for name in preset} == preset


def test_the_mismatched_task_has_the_matched_one_s_preset() -> None:
    assert paper_preset("mnli-mm", 3) == paper_preset("mnli", 3)
    assert paper_preset("mnli", 3)["beta"] == 1000


def test_beta_keeps_its_weight_on_normalised_states_of_another_width() -> None:
    assert paper_preset("sst2", 6)["beta"] == 100
    narrow = paper_preset("sst2", 6, hidden_size=384)["beta"]
    assert narrow == 50
    assert convert_beta(narrow, 5, 384, "official", "paper") == pytest.approx(
        convert_beta(100, 5, 768, "official", "paper")
    )
    assert paper_preset("qnli", 6, hidden_size=384)["beta"] == 100  # of raw states


def test_presets_are_listed_with_their_sources() -> None:
    table = paper_presets()
    assert len(table) == 14 and not table.duplicated(["task", "num_hidden_layers"]).any()
    assert table["source"].str.contains("commit 9e9e860").all()
    small = table["num_hidden_layers"] == 3
    assert (
        table.loc[small, "note"].str.contains("Last").all() and not table.loc[~small, "note"].str.contains("Last").any()
    )
    row = table[(table["task"] == "mrpc") & small].iloc[0]
    assert (row["learning_rate"], row["temperature"], row["alpha"], row["beta"]) == (2e-5, 5, 0.7, 10)


def test_the_teacher_s_settings_are_valid() -> None:
    config = validate(FineTuneConfig, **paper_teacher())
    assert (config.learning_rate, config.num_train_epochs, config.train_batch_size) == (2e-5, 4, 32)


@pytest.mark.parametrize(("task", "layers"), [("mini-sentiment", 3), ("rte", 4), ("race", 4)])
def test_a_missing_preset_is_refused_with_those_there_are(task: str, layers: int) -> None:
    with pytest.raises(ValueError) as error:
        paper_preset(task, layers)
    assert str(error.value).startswith(f"task = {task!r}, num_hidden_layers = {layers}: the authors' settings are for ")
    assert "mrpc 3, mrpc 6" in str(error.value) and "race 6" in str(error.value)


# ------------------------------------------------------------------------------------------- beside the paper
def figures(task: str, metric: str = "accuracy") -> dict[tuple[int, str], tuple[float, float]]:
    rows = reference_rows(task, metric)
    return {(row.num_hidden_layers, row.method): (row.paper_test, row.authors_dev) for row in rows.itertuples()}


def test_reference_rows_of_rte() -> None:
    rows = figures("rte")
    assert len(rows) == 9
    assert rows[12, "teacher"] == (69.1, 69.4)
    assert rows[6, "FT"] == (63.6, 66.1) and rows[6, "KD"] == (64.7, 67.5)
    assert rows[6, "PKD-Skip"] == (65.5, 68.2) and rows[6, "PKD-Last"] == (65.0, 66.8)
    assert rows[3, "PKD-Skip"] == (58.2, 62.1)
    assert all(map(pd.isna, rows[3, "PKD-Last"]))


def test_reference_rows_are_of_one_metric() -> None:
    assert figures("mrpc")[6, "KD"] == (80.6, 82.8)
    test, dev = figures("mrpc", "f1")[6, "KD"]
    assert test == 86.2 and pd.isna(dev)  # the authors' dev figures are accuracies
    test, dev = figures("mnli-mm")[6, "KD"]
    assert test == 79.8 and pd.isna(dev)  # and of the matched split


@pytest.mark.parametrize("task", GLUE)
def test_every_task_has_a_test_figure_of_each_model_but_one(task: str) -> None:
    missing = reference_rows(task).query("paper_test.isna()")
    assert list(zip(missing["num_hidden_layers"], missing["method"], strict=True)) == [(3, "PKD-Last")]


def test_race_stands_in_table_3_alone_and_has_longer_rows() -> None:
    rows = figures("race")
    assert rows[12, "teacher"] == (65.3, 67.5) and rows[6, "PKD-Skip"] == (60.34, 60.9)
    assert rows[3, "PKD-Skip"][1] == 51.3 and pd.isna(rows[3, "PKD-Skip"][0]) and pd.isna(rows[6, "PKD-Last"][0])
    assert paper_length("race") == 512 and paper_length("rte") == paper_length("mini-sentiment") == 128


@pytest.mark.parametrize(("layers", "temperature", "alpha", "beta"), [(6, 5, 0.5, 100), (3, 10, 0.7, 1000)])
def test_the_presets_of_race_do_not_normalise(layers: int, temperature: int, alpha: float, beta: int) -> None:
    found = paper_preset("race", layers, 64)
    values = (found["learning_rate"], found["temperature"], found["alpha"], found["beta"], found["normalize"])
    assert values == (5e-5, temperature, alpha, beta, False)


def test_differences_stand_beside_the_paper_s() -> None:
    scores = {"FT": (0.80, 0.82), "KD": (0.81, 0.85), "PKD-Skip": (0.83, 0.85)}
    frame = pd.DataFrame(
        [
            {"method": method, "num_hidden_layers": 6, "seed": seed, "dev_accuracy": score}
            for method, found in scores.items()
            for seed, score in enumerate(found)
        ]
        + [{"method": "teacher", "num_hidden_layers": 12, "seed": 0, "dev_accuracy": 0.9}]
    )
    found = differences_beside_paper(frame, "dev_accuracy", "rte").set_index("method")
    assert list(found.index) == ["KD", "PKD-Skip"] and set(found["pairs"]) == {2}
    assert found["difference"].tolist() == pytest.approx([0.02, 0.03])
    assert found["paper_test"].tolist() == pytest.approx([0.011, 0.019])
    assert found["authors_dev"].tolist() == pytest.approx([0.014, 0.021])


def test_a_size_the_paper_does_not_have_stands_alone() -> None:
    frame = pd.DataFrame(
        {"method": ["FT", "KD"], "num_hidden_layers": 4, "seed": 0, "test_accuracy": [0.5, 0.6]},
    )
    found = differences_beside_paper(frame, "test_accuracy", "sst2").iloc[0]
    assert found["difference"] == pytest.approx(0.1) and pd.isna(found["paper_test"]) and pd.isna(found["authors_dev"])
