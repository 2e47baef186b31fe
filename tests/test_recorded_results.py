"""What the README, the guide and the notebooks say of the recorded runs is what the committed files hold."""

import json
import re
import sys

import pandas as pd
import pytest
import torch
import yaml

from pkdlib import ROOT, DistillConfig, layer_map, load_records, validate
from pkdlib.analysis.paper import reference_rows
from pkdlib.analysis.similarity import most_similar_layers
from pkdlib.analysis.statistics import decide, differences_by, mean_interval, paired_difference
from pkdlib.analysis.tables import history_frame, load_results, variant_names

RESULTS = ROOT / "data" / "results"
GRIDS = ROOT / "notebooks" / "grids"
sys.path.insert(0, str(ROOT / "data"))
import tables  # noqa: E402

MINI = ("mini-sentiment-3-tuned.jsonl", "mini-sentiment-3-short.jsonl")


def students_of(file):
    frame = load_results(RESULTS / file)
    return frame[frame["method"] != "teacher"]


def interval(students, method, baseline, metric="test_accuracy"):
    """(low, high) of the paired differences."""
    pair = paired_difference(students, metric, method, baseline)
    return pair["low"], pair["high"]


def test_every_table_stands_on_one_page_and_is_that_of_the_records():
    made = tables.tables()
    shown = {}
    for page in tables.PAGES:
        for name, table in re.findall(r"<!-- (\S+) -->\n(.*?)\n<!-- /\1 -->", page.read_text("utf-8"), re.DOTALL):
            assert name not in shown, f"{page.name}: the table {name} stands twice"
            shown[name] = table
    assert shown == made


def test_filling_a_page_twice_changes_nothing():
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.fill(text) == text


def test_every_student_with_a_teacher_stands_above_fine_tuning_as_the_readme_says():
    students = students_of(MINI[0])
    assert all(interval(students, method, "FT")[0] > 0 for method in ("KD", "PKD-Last", "PKD-Skip"))


def test_skip_stands_above_last_and_not_above_kd():
    for file in MINI:
        low, high = interval(students_of(file), "PKD-Skip", "KD")
        assert low <= 0 <= high and interval(students_of(file), "PKD-Skip", "PKD-Last")[0] > 0
    for _, students in students_of("mini-sentiment-3-sizes.jsonl").groupby("train_rows"):
        low, high = interval(students, "PKD-Skip", "KD")
        assert low <= 0 <= high


def test_no_student_size_shows_a_gain_of_patience_and_all_pairs_together_a_small_loss():
    *sizes, everything = tables.patience_table("test_accuracy").splitlines()[2:]
    intervals = [[float(bound) for bound in re.findall(r"[-+][\d.]+(?=[,\]])", row)] for row in [*sizes, everything]]
    assert all(low <= 0 <= high for low, high in intervals[:-1]) and intervals[-1][1] < 0
    assert [row.split(" | ")[1] for row in [*sizes, everything]] == ["5", "10", "5", "5", "25"]


def test_the_pooled_students_share_their_teacher_and_settings():
    records = [
        record
        for layers, file in tables.SIZES.items()
        for record in load_records(RESULTS / file)
        if record.method in ("KD", "PKD-Skip") and record.config["num_hidden_layers"] == layers
    ]
    settings = [validate(DistillConfig, **record.config).model_dump() for record in records]
    # The ablations hold a run of 3 layers per varied value; those of 2 and 4 layers vary nothing else.
    same = {json.dumps({**one, "num_hidden_layers": 0, "seed": 0, "beta": 0}) for one in settings}
    assert len(records) == 50 and len(same) == 1
    assert {record.config["beta"] for record in records} == {0.0, 0.3}
    for content in ("teacher_weights", "train", "test"):
        assert len({record.fingerprints[content] for record in records}) == 1


def test_what_the_better_teacher_and_the_larger_start_do():
    records = load_records(RESULTS / "mini-sentiment-better-teacher.jsonl")
    layers = {
        one.fingerprints["weights"]: one.config["num_hidden_layers"] for one in records if one.method == "teacher"
    }
    scores = {}  # (method, teacher's layers, size of the start) -> accuracy by seed
    for one in records:
        if one.method != "teacher":
            start = int(one.config["backbone"].rpartition("-")[2])
            key = (one.method, layers.get(one.fingerprints.get("teacher_weights")), start)
            scores.setdefault(key, {})[one.seed] = one.metrics["test"]["accuracy"]

    def difference(first, second):  # (low, high)
        return mean_interval([scores[first][seed] - scores[second][seed] for seed in sorted(scores[first])])[1:]

    assert all(sorted(by_seed) == [0, 1, 2, 3, 4] for by_seed in scores.values())
    assert difference(("KD", 24, 12), ("KD", 12, 12))[0] > 0
    for method, teacher in (("FT", None), ("KD", 12), ("KD", 24)):
        assert difference((method, teacher, 24), (method, teacher, 12))[0] > 0
    for teacher, start in ((24, 12), (12, 24)):  # of another width
        assert difference(("PKD-Skip", teacher, start), ("KD", teacher, start))[1] < 0


@pytest.mark.parametrize("method", ["KD", "PKD-Skip"])
def test_texts_without_labels_add_less_than_the_updates_they_bring(method):
    records = [one for one in load_records(RESULTS / "mini-sentiment-3-unlabelled.jsonl") if one.method == method]
    scores = {
        (one.unlabelled_rows, one.config["num_train_epochs"], one.seed): one.metrics["test"]["accuracy"]
        for one in records
    }
    assert len(scores) == 15
    mean, low, _ = mean_interval([scores[8000, 6, seed] - scores[0, 6, seed] for seed in range(5)])
    assert low > 0 and 0.025 < mean < 0.035  # "three points"
    mean, low, high = mean_interval([scores[8000, 6, seed] - scores[0, 30, seed] for seed in range(5)])
    assert low < 0 < high and mean < 0.005  # "less than half a point"


@pytest.mark.parametrize("file", ["sst2-3.jsonl", "rte-3.jsonl"])
def test_the_real_runs_settle_nothing_about_the_methods(file):
    for method, baseline in tables.PAIRS:
        low, high = interval(students_of(file), method, baseline, "dev_accuracy")
        assert low <= 0 <= high


@pytest.mark.parametrize(("task", "seen", "theirs"), [("sst2", 1.7, 0.6), ("rte", 3.8, 2.0)])
def test_what_the_real_runs_could_have_seen_is_as_the_guide_says(task, seen, theirs):
    pair = paired_difference(students_of(f"{task}-3.jsonl"), "dev_accuracy", "PKD-Skip", "KD")
    figures = reference_rows(task).set_index(["num_hidden_layers", "method"])["paper_test"]
    assert round(100 * pair["detectable"], 1) == seen
    assert round(figures[3, "PKD-Skip"] - figures[3, "KD"], 1) == theirs


def test_which_differences_in_accuracy_of_the_speed_page_are_decided():
    figures = json.loads((RESULTS / "benchmarks" / "accuracy.json").read_text())["figures"]
    figures = {one["name"].removeprefix("dev_accuracy_"): one for one in figures}
    scores = [(name, *score) for name, one in figures.items() for score in enumerate(one.get("values", []))]
    scores = pd.DataFrame(scores, columns=["method", "seed", "percent"])
    pairs = [name.split("_minus_") for name in figures if "_minus_" in name]
    table = decide(pd.DataFrame([paired_difference(scores, "percent", *pair) for pair in pairs]))
    assert len(table) == 6 and (table["difference"] < 0).all()
    decided = table.loc[table["decided"], ["method", "baseline"]].apply(tuple, axis=1)
    assert set(decided) == {("kit", "authors"), ("kit", "trainer"), ("kit", "trainer_precomputed")}
    assert 0 < -table.loc[table["baseline"] == "trainer", "difference"].item() < 0.5  # "a few dev rows of 1,000"


def test_a_teacher_of_one_epoch_is_nearly_as_good_and_so_are_its_students():
    weaker = load_results(RESULTS / "mini-sentiment-weaker-teacher.jsonl").set_index("method")["test_accuracy"]
    assert weaker["teacher"] > 0.995 and len(weaker["KD"]) == 5


@pytest.mark.parametrize("setting", ["tuned", "short"])
def test_ten_seeds_put_fine_tuning_below_distillation_and_the_teacher_above_all(setting):
    frame = load_results(RESULTS / f"mini-sentiment-3-{setting}.jsonl")
    students = frame[frame["method"] != "teacher"]
    for method in ("KD", "PKD-Skip"):
        found = paired_difference(students, "test_accuracy", method, "FT")
        assert found["pairs"] == 10 and found["low"] > 0
    assert students["test_accuracy"].max() < frame.loc[frame["method"] == "teacher", "test_accuracy"].item()


def near(similarity, layers):
    """How many matched student layers have their most similar teacher layer at most one layer from the map's."""
    return sum(abs(one - other) <= 1 for one, other in zip(most_similar_layers(similarity), layers, strict=False))


def test_patient_students_of_six_layers_stand_where_their_map_puts_them():
    entries = json.loads((RESULTS / "mini-sentiment-6-similarity.json").read_text())
    mean = {
        method: torch.tensor([entry["centered_cosine"] for entry in entries if entry["method"] == method]).mean(dim=0)
        for method in ("FT", "PKD-Skip", "PKD-Last")
    }
    for strategy in ("skip", "last"):
        layers = layer_map(12, 6, strategy)
        assert near(mean[f"PKD-{strategy.capitalize()}"], layers) >= 4
        assert near(mean["FT"], layers) < 4


def test_students_that_match_no_layer_do_late_layers_work_along_axes_of_their_own():
    """Notebook 02's reading: by CKA their last layer is like a late one of the teacher's, by cosine like none."""
    entries = json.loads((RESULTS / "mini-sentiment-3-similarity.json").read_text())
    assert len(entries) == 4 * 5
    of = {  # (method, measure) -> a matrix per seed
        (entry["method"], measure): [
            torch.tensor(other[measure]) for other in entries if other["method"] == entry["method"]
        ]
        for entry in entries
        for measure in ("cka", "centered_cosine")
    }
    for method in ("FT", "KD"):
        for cka, cosine in zip(of[method, "cka"], of[method, "centered_cosine"], strict=True):
            first, second, third = most_similar_layers(cka)
            assert first == 1 and second >= 8 and third >= 8 and cka[2].max() > 0.8
            assert most_similar_layers(cosine)[0] == 1 and most_similar_layers(cosine)[1] <= 2
            assert cosine[2].max() < 0.3
        assert most_similar_layers(torch.stack(of[method, "cka"]).mean(dim=0)) == [1, 8, 10]
    for strategy in ("skip", "last"):  # patience asks for axes too
        layers, method = layer_map(12, 3, strategy), f"PKD-{strategy.capitalize()}"
        for cka, cosine in zip(of[method, "cka"], of[method, "centered_cosine"], strict=True):
            assert all(abs(most_similar_layers(matrix)[1] - layers[1]) <= 1 for matrix in (cka, cosine))
            assert cosine[1].max() > 0.7


def test_skip_starts_below_kd_and_comes_up_to_it_but_not_past_it():
    """Notebook 02's reading of the learning curves of ten seeds."""
    history = history_frame(load_records(RESULTS / "mini-sentiment-3-tuned.jsonl"))
    lead = differences_by(history, "dev_accuracy", "epoch", [("PKD-Skip", "KD"), ("KD", "FT")])
    table = decide(lead).set_index(["method", "epoch"])
    assert table.loc[("PKD-Skip", 1), "decided"] and not table.loc[("PKD-Skip", 6), "decided"]
    skip, kd = (table.loc[method, "difference"] for method in ("PKD-Skip", "KD"))
    assert (skip < 0).all() and skip.idxmin() == 1 and skip.loc[6] > skip.loc[1] / 10
    assert (kd > 0).all() and kd.idxmax() == 1 and table.loc["KD", "decided"].all()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_recorded_runs_are_complete_and_their_seeds_paired(path):
    records = load_records(path)
    assert len({record.run_id for record in records}) == len(records)
    assert all(record.versions and record.fingerprints["weights"] and record.history for record in records)
    seeds = {}
    for record in records:
        if record.method != "teacher":
            key = (record.method, record.config["num_hidden_layers"], record.config["learning_rate"])
            seeds.setdefault(key, set()).add(record.seed)
    assert len({frozenset(found) for found in seeds.values()}) == bool(seeds)  # a file may hold a teacher alone
    assert all(len(found) >= 3 for found in seeds.values())


def test_with_more_epochs_skip_s_lead_grows_from_random_weights_and_shrinks_from_the_first_layers() -> None:
    study = [load_results(RESULTS / "study" / f"{name}.jsonl") for name in ("students", "controls")]
    steps = study[1].query("num_train_epochs != 12")
    alike = ["init", "teacher", "seed", "method"]
    frame = pd.concat([study[0].merge(steps[alike].drop_duplicates()), steps])
    means = frame.pivot_table("test_accuracy", ["init", "num_train_epochs"], "method")
    leads = means["PKD-Skip"] - means["KD"]
    assert leads.loc["random"].index.tolist() == [6, 12, 24] and leads.loc["random"].is_monotonic_increasing
    assert leads.loc["pretrained"].is_monotonic_decreasing and (leads > 0).all()


def test_from_random_weights_skip_is_ahead_with_every_backbone_and_from_the_first_layers_it_is_not() -> None:
    frame = load_results(RESULTS / "study" / "students.jsonl").query("task == 'mini-sentiment'")
    means = frame.pivot_table("test_accuracy", ["init", "backbone"], "method")
    ahead = means[["KD", "PKD-Last", "PKD-One", "PKD-Reverse"]].rsub(means["PKD-Skip"], axis=0)
    of_random = ahead.loc["random"].drop(columns="PKD-Reverse")
    assert len(of_random) == 8 and (of_random > 0).all(axis=None)
    assert (ahead.loc["random", "PKD-Reverse"] > 0).sum() == 7  # of all but one, as the guide says
    assert ahead.loc["pretrained", "KD"].max() > 0.01 > -0.01 > ahead.loc["pretrained", "KD"].min()


def test_every_other_distance_and_map_has_the_beta_that_was_best_of_those_tried() -> None:
    tried, used = (students_of(f"beyond/{name}.jsonl") for name in ("tuning", "variants"))
    tried, used = (frame.assign(method=variant_names(frame)) for frame in (tried, used))
    means = tried.groupby(["init", "method", "beta"])["dev_accuracy"].mean().unstack("beta")
    best = means.idxmax(axis=1)
    taken = used.set_index(["init", "method"])["beta"]
    assert (taken == best.reindex(taken.index)).all() and set(taken.index) == set(best.index)
    ends = {one for one, row in means.iterrows() if best[one] in (row.dropna().index.min(), row.dropna().index.max())}
    assert ends == {("pretrained", "cka")}  # where next to no patience is the best
    grids = {name: yaml.safe_load((GRIDS / f"{name}.yaml").read_text("utf-8")) for name in ("beyond", "beyond_tuning")}
    listed = {
        name: {(one.get("init"), one["distance" if one["methods"] == "PKD-Skip" else "methods"], one["beta"]) for one in
               grid["list"]} for name, grid in grids.items()
    }  # fmt: skip
    plain = best.drop(index="TinyBERT", level="method")
    assert listed["beyond"] == {(*key, beta) for key, beta in plain.items()}
    betas = means.loc["random"].drop(index="TinyBERT").stack().dropna()
    assert listed["beyond_tuning"] == {(None, *key) for key in betas.index}


@pytest.mark.parametrize("name, of_layers, of_random", [
    ("mini-study", ["KD − FT"], ["KD − FT", "PKD-Skip − KD", "PKD-Skip − PKD-Last", "PKD-Skip − PKD-One"]),
    ("mini-beyond", [], ["cka"]),
    ("real-tasks", [], None),
])  # fmt: skip
def test_what_the_guide_calls_decided_is_bold_in_its_table(name, of_layers, of_random) -> None:
    rows = [line.strip("| ").split(" | ") for line in tables.tables()[name].splitlines()[2:]]
    bold = [[row[0] for row in rows if row[column].startswith("**")] for column in range(1, len(rows[0]))]
    assert bold == [of_layers, of_random] if of_random else bold == [of_layers]
