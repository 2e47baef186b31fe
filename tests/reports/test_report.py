"""The page says what the result files hold: its tables are parsed and compared with the records themselves."""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from analysis.test_comparisons import run
from scipy import stats

from pkdlib import ROOT, load_records
from pkdlib.__main__ import main
from pkdlib.analysis.comparisons import comparisons, main_comparisons, unique_runs
from pkdlib.analysis.paper import paper_table
from pkdlib.engine.files import write_text
from pkdlib.readers.records import save_records
from pkdlib.records import RESULT_FILE, RunRecord, save_result
from pkdlib.reports.layouts import as_latex, model_table, sensitivity_figures, settings_table, teacher_table
from pkdlib.reports.pages import write_page
from pkdlib.reports.report import file_name, read_folder, tidy_runs, write_report

RESULTS = ROOT / "data" / "results"
ERROR = "ValueError: <train> has no row"


class Page(HTMLParser):
    """The cells of every table under its heading, the other text, and what would be fetched."""

    def __init__(self, path: Path):
        super().__init__()
        self.alternatives: list[str | None] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.heading, self.text, self.fetched, self.inside = "", "", [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.inside.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href")]
        if tag == "img":
            self.alternatives.append(dict(attributes).get("alt"))
        if tag == "h2":
            self.heading = ""
        if tag == "table":
            self.tables.setdefault(self.heading, []).append([])
        if tag == "tr":
            self.tables[self.heading][-1].append([])
        if tag in ("td", "th"):
            self.tables[self.heading][-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:  # img and meta have no end
            pass

    def handle_data(self, data: str) -> None:
        self.text += data
        if "h2" in self.inside:
            self.heading += data
        if {"td", "th"} & set(self.inside):
            self.tables[self.heading][-1][-1][-1] += data

    def rows(self, heading: str, number: int = 0) -> dict[str, list[str]]:
        """The rows by their first cell."""
        (found,) = [tables for name, tables in self.tables.items() if heading in name]
        return {row[0]: row[1:] for row in found[number]}


def percent(values: list[float]) -> str:
    """Written anew, from scipy's own interval."""
    mean = np.mean(values)
    low, high = stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}] ({len(values)})"


def of(records: list[RunRecord], method: str) -> list[RunRecord]:
    return sorted((record for record in records if record.method == method), key=lambda record: record.seed)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of data/results as it is, which holds runs that stand in several files."""
    out = tmp_path_factory.mktemp("recorded")
    assert main(["report", str(RESULTS), "--out", str(out)]) == 0
    return out


def test_the_tables_equal_the_recorded_files(recorded: Path) -> None:
    page = Page(recorded / "index.html")
    models, header = page.rows("Table 1"), page.tables["Models, as in the paper's Table 1"][0][0]
    assert header[1:] == ["sst2, dev accuracy", "rte, dev accuracy", "mini-sentiment, test accuracy"]
    assert models["BERT6 teacher"][3] == "57.8 (1)"
    table_1, dev = paper_table("table_1"), paper_table("dev")
    for method, theirs, authors in (("FT", "BERT3-FT", "3-FT"), ("KD", "BERT3-KD", "3-KD")):
        cells = models[f"BERT3-{method}"]
        for file, split, place in (
            ("sst2-3-all", "dev", 0),
            ("rte-3", "dev", 3),
            ("mini-sentiment-3-tuned", "test", 6),
        ):
            found = of(load_records(RESULTS / f"{file}.jsonl"), method)
            found = [record for record in found if record.config["init"] == "pretrained"]  # the better start on dev
            precisions = Counter(record.config["mixed_precision"] for record in found)  # a report keeps them apart
            ((most, _),) = precisions.most_common(1)
            found = [record for record in found if record.config["mixed_precision"] == most]
            assert cells[place] == percent([record.metrics[split]["accuracy"] for record in found])
        assert cells[4:6] == [f"{table_1.loc[theirs, 'RTE']}", f"{dev.loc[authors, 'RTE']}"]
        assert cells[1:3] == [f"{table_1.loc[theirs, 'SST-2']}", f"{dev.loc[authors, 'SST-2']}"]


def test_the_differences_equal_the_recorded_files(recorded: Path) -> None:
    page = Page(recorded / "index.html")
    rows = next(tables for name, tables in page.tables.items() if name == "Paired differences")[0]
    (row,) = [row for row in rows if row[:3] == ["rte, dev accuracy", "3", "PKD-Skip − FT"]]
    records = load_records(RESULTS / "rte-3.jsonl")
    ours, base = ([r.metrics["dev"]["accuracy"] for r in of(records, method)] for method in ("PKD-Skip", "FT"))
    found = stats.ttest_rel(ours, base)
    low, high = found.confidence_interval(0.95)
    mean = 100 * np.mean(np.subtract(ours, base))
    assert row[3:5] == [f"{mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] (3)", f"{found.pvalue:.3f}"]
    assert row[6:] == ["277", "too few rows: 277 cannot tell two runs less than 2.2 points apart"]
    table = pd.read_csv(recorded / "differences.csv")
    (line,) = table[(table.task == "rte") & (table.method == "PKD-Skip") & (table.baseline == "FT")].to_dict("records")
    assert (line["difference"], line["low"], line["p"]) == pytest.approx((mean / 100, low, found.pvalue))
    assert line["p_holm"] >= line["p"]


def test_last_against_skip_equals_the_recorded_file(recorded: Path) -> None:
    page = Page(recorded / "index.html")
    records = load_records(RESULTS / "mini-sentiment-6.jsonl")
    skip, last = ([r.metrics["test"]["accuracy"] for r in of(records, f"PKD-{name}")] for name in ("Skip", "Last"))
    rows, (_, *header) = page.rows("Table 2"), page.tables["Last against Skip, as in Table 2"][0][0]
    assert header[1] == "mini-sentiment, test accuracy, 6 layers"  # after RTE's; SST-2 has another beta for each method
    assert (rows["PKD-Skip"][3], rows["PKD-Last"][3]) == (percent(skip), percent(last))
    assert rows["Skip − Last, points"][3].startswith(f"{100 * (np.mean(skip) - np.mean(last)):+.1f} [")
    assert rows["p"][3] == f"{stats.ttest_rel(skip, last).pvalue:.3f}"


def test_the_better_teacher_equals_the_recorded_file(tmp_path: Path) -> None:
    records = load_records(RESULTS / "mini-sentiment-better-teacher.jsonl")
    save_records(records, tmp_path / "records" / "better.jsonl")
    assert main(["report", str(tmp_path / "records"), "--out", str(tmp_path / "out")]) == 0
    page = Page(tmp_path / "out" / "index.html")
    (large,) = [r.fingerprints["weights"] for r in of(records, "teacher") if r.config["num_hidden_layers"] == 24]
    chosen = [
        r.metrics["test"]["accuracy"]
        for r in of(records, "KD")
        if r.fingerprints["teacher_weights"] == large and r.config["backbone"].endswith("mini-bert-12")
    ]
    assert page.rows("Table 5")["24 → 6 [mini-bert-12], KD"] == [percent(chosen)]


def test_size_and_speed_equal_the_recorded_file(recorded: Path) -> None:
    record = json.loads((RESULTS / "speed-cpu.json").read_text())
    rows = Page(recorded / "index.html").rows("Table 4")
    parts, found = record["parameters"]["3 layers"], record["speedups"]["by the clock"][2]
    assert rows["3 layers"][:3] == [f"{parts[name] / 1e6:.2f}" for name in ("embedding", "transformer", "total")]
    assert rows["3 layers"][5] == f"{found['speedup']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    assert rows["3 layers"][-3:] == ["45.7", "27.35", "3.73"]


def test_the_page_fetches_nothing_and_shows_every_varied_setting(recorded: Path) -> None:
    page = Page(recorded / "index.html")
    assert all(address.startswith(("data:image/png", "#")) for address in page.fetched)
    source = paper_table("dev").attrs["source"]
    assert source in page.text.partition("Where the paper's and the authors' figures are from")[2]
    assert not re.search(r"@import|url\(|<script|<link|<iframe", (recorded / "index.html").read_text())
    assert page.alternatives and all(page.alternatives)
    for field in ("temperature", "alpha", "beta", "learning rate", "init", "train rows", "num hidden layers"):
        assert re.search(rf"mini-sentiment(, 3 layers)?: {field}\n?", page.text), field


def test_the_tidy_files_hold_every_run_once(recorded: Path) -> None:
    runs = pd.read_parquet(recorded / "runs.parquet")
    csv = pd.read_csv(recorded / "runs.csv")
    assert list(runs.columns) == list(csv.columns) and len(runs) == len(csv)
    identity = ["method", "num_hidden_layers", "task", "fingerprint_weights"]
    recorded_once = {
        (r.method, r.config["num_hidden_layers"], r.task, r.fingerprints["weights"]) for r in load_records(RESULTS)
    }
    assert not runs.duplicated(identity).any()
    assert set(runs[identity].itertuples(index=False, name=None)) == recorded_once
    assert "[4, 8]" in set(runs["layer_map"])
    assert runs["test_accuracy"].tolist() == pytest.approx(csv["test_accuracy"].tolist(), nan_ok=True)


def test_every_figure_is_a_vector_file_too(recorded: Path) -> None:
    page = Page(recorded / "index.html")
    files = {file.name: file.read_text() for file in (recorded / "figures").iterdir()}
    assert set(files) == {f"{file_name(caption)}.svg" for caption in page.alternatives}
    assert len(files) == len(page.alternatives) >= 20  # no two have one name
    assert all("<svg " in text and "<image" not in text and "<dc:date" not in text for text in files.values())


def test_every_table_is_latex_with_booktabs_too(recorded: Path) -> None:
    page = Page(recorded / "index.html")
    files = {file.stem: file.read_text() for file in (recorded / "tables").iterdir()}
    assert set(files) == {
        "counts", "models", "last-skip", "differences", "other-differences", "settings", "speed-cpu", "better-teacher",
        "provenance", "references",
    }  # fmt: skip
    assert len(files) == sum(map(len, page.tables.values()))
    for text in files.values():
        lines = text.splitlines()
        columns = re.fullmatch(r"\\begin{tabular}{([lr]+)}", lines[0])[1]
        assert (lines[1], lines[-2], lines[-1]) == (
            r"\toprule",
            r"\bottomrule",
            r"\end{tabular}",
        ) and r"\midrule" in lines
        for row in [line for line in lines[2:-2] if line != r"\midrule"]:
            spans = [int(number) - 1 for number in re.findall(r"\\multicolumn{(\d+)}", row)]
            assert row.endswith(r" \\") and len(re.findall(r"(?<!\\)&", row)) + sum(spans) == len(columns) - 1, row
            plain = re.sub(r"\$(-|<|>|\\rightarrow)\$|\\multicolumn{\d+}{c}|\\[%_&#$]", "", row.removesuffix(r" \\"))
            assert not re.search(r"[^\x20-\x7e]|[%_#$~^<>\\]", plain), row
    (row,) = [line for line in files["models"].splitlines() if line.startswith("BERT3-FT &")]
    shown = [cell.replace("–", "--") for cell in page.rows("Table 1")["BERT3-FT"]]
    assert row.removesuffix(r" \\").split(" & ")[1:] == shown
    assert r"Skip $-$ Last, points & " in files["last-skip"] and r" & KD $-$ FT & " in files["differences"]
    assert r"24 $\rightarrow$ 6 [mini-bert-12], KD & " in files["better-teacher"] and r"95 \%" in files["differences"]


def test_latex_s_own_signs_are_escaped() -> None:
    table = pd.DataFrame({("a_b & c", "50 %"): ["~x^2\\$", "{#}"]}, index=["p < 0.001", "1 → 2 − 3 – 4"])
    rows = as_latex(table).splitlines()
    assert r"a\_b \& c" in rows[2] and r"50 \%" in rows[3]
    assert rows[5] == r"p $<$ 0.001 & \textasciitilde x\textasciicircum 2\textbackslash \$ \\"
    assert rows[6] == r"1 $\rightarrow$ 2 $-$ 3 -- 4 & \{\#\} \\"


def test_a_long_caption_s_file_has_a_short_name_of_its_own() -> None:
    assert file_name("rte, 3 layers: alpha") == "rte-3-layers-alpha"
    first, second = (file_name("x" * 300 + end) for end in "ab")
    assert first != second and len(first) <= 80


# ------------------------------------------------------------------------------------------------------ sweeps
def write_plan(folder: Path, runs: Iterable[str]) -> None:
    plan = {"runs": [{"folder": f"runs/{name}"} for name in runs], "teachers": [{"folder": "teachers/t0"}]}
    write_text(folder / "sweep.json", json.dumps({"grid": "smoke", **plan}))


def write_sweep(folder: Path) -> Path:
    """A teacher and four runs: two finished, one failed, one killed after its notebook had written a result."""
    listed = {"ft": "FT", "kd": "KD", "broken": "PKD-Skip", "killed": "PKD-Last"}
    write_plan(folder, listed)
    places = {folder / "runs" / name: run(method, 0, 0.5 + 0.1 * len(name)) for name, method in listed.items()}
    places[folder / "teachers" / "t0"] = run("teacher", 0, 0.9)
    for place, record in places.items():
        write_text(place / "parameters.json", "{}")
        if place.name != "broken":
            save_result(record, place / "students" if place.name == "kd" else place)
        if place.name in ("ft", "kd", "t0"):
            write_text(place / "run.json", json.dumps({"id": place.name, "seconds": 1800.0}))
    failure = {"cause": "notebook", "error": ERROR, "notebook": "notebook.ipynb"}
    write_text(folder / "runs" / "broken" / "failure.json", json.dumps(failure))
    write_text(folder / "runs" / "broken" / "notebook.ipynb", "{}")
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep with its report, which a kernel makes in some seconds."""
    folder = write_sweep(tmp_path_factory.mktemp("reported") / "sweep")
    assert write_report(folder) == folder / "report" / "index.html"
    return folder


def test_a_sweep_s_counts_failures_and_unfinished_runs_are_shown(reported: Path) -> None:
    page = Page(reported / "report" / "index.html")
    rows = page.tables["What was run"][0]
    assert ["smoke", "run", "2", "1", "1", "4", "1.00"] in rows and ["teacher", "1", "0", "0", "1", "0.50"] in rows
    assert "1 not finished: killed." in page.text
    failures = page.text.partition("Failures")[2]
    assert "broken (smoke; cause: notebook)" in failures
    assert ERROR in failures and "runs/broken/notebook.ipynb" in failures
    assert "<train>" not in (reported / "report" / "index.html").read_text()  # escaped
    assert "&lt;train&gt;" in (reported / "report" / "index.html").read_text()


def test_a_run_that_the_grid_no_longer_lists_is_named_so(sweep: Path) -> None:
    write_plan(sweep, ["ft"])
    _, *rows = Page(write_report(sweep)).tables["What was run"][0]
    assert ["smoke", "run", "1", "0", "0", "1", "0.50"] in rows
    assert ["run of an earlier grid", "1", "0", "0", "1", "0.50"] in rows  # of the same grid: one cell for all


def test_a_killed_run_s_result_does_not_count(reported: Path, sweep: Path) -> None:
    assert {record.method for record in read_folder(sweep).records} == {"FT", "KD", "teacher"}
    models = Page(reported / "report" / "index.html").rows("Table 1")
    assert models["BERT3-FT"][0] == "70.0 (1)" and models["BERT12 teacher"][0] == "90.0 (1)"
    assert not any("PKD" in name for name in models)
    write_text(sweep / "runs" / "killed" / "run.json", json.dumps({"id": "killed", "seconds": 1}))
    models = model_table(main_comparisons(comparisons(read_folder(sweep).records)))
    assert models.loc["BERT3-PKD-Last"].tolist()[0] == "110.0 (1)"


def test_a_sweep_of_failures_alone_is_reported(sweep: Path) -> None:
    for name in ("runs/ft", "runs/kd", "runs/killed", "teachers/t0"):
        shutil.rmtree(sweep / name)
    page = write_report(sweep)
    assert "4 not finished</strong>: ft, kd, killed, t0." in page.read_text()
    assert ERROR.replace("<train>", "&lt;train&gt;") in page.read_text()
    assert Page(page).tables["What was run"][0][1:] == [
        ["smoke", "run", "0", "1", "3", "4", "0.00"], ["teacher", "0", "0", "1", "1", "0.00"]
    ]  # fmt: skip


def test_a_report_is_no_run_of_the_next_one(reported: Path) -> None:
    runs = (reported / "report" / "runs.csv").read_text()
    assert tidy_runs(unique_runs(read_folder(reported).records)).to_csv(index=False) == runs


def test_a_sweep_that_has_not_begun_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_plan(tmp_path, ["ft", "kd"])
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(f"The page: {tmp_path / 'report' / 'index.html'}\n")
    page = Page(tmp_path / "report" / "index.html")
    assert "0 finished runs, teachers included." in page.text and "3 not finished: ft, kd, t0." in page.text
    assert ["smoke", "run", "0", "0", "2", "2", "0.00"] in page.tables["What was run"][0]
    assert list(page.tables) == ["What was run"] and not page.alternatives
    headings = re.findall("<h2[^>]*>(.*?)</h2>", (tmp_path / "report" / "index.html").read_text())
    assert headings == ["What was run"]  # a text without tables or figures is left out
    assert [file.name for file in (tmp_path / "report" / "tables").iterdir()] == ["counts.tex"]
    assert pd.read_parquet(tmp_path / "report" / "runs.parquet").empty


def test_a_folder_of_speed_records_alone_is_reported(tmp_path: Path) -> None:
    shutil.copy(RESULTS / "speed-cpu.json", tmp_path)
    page = Page(write_report(tmp_path))
    assert list(page.tables) == ["Size and speed, as in Table 4", "Where the paper's and the authors' figures are from"]
    assert "0 finished runs, teachers included." in page.text


def test_a_folder_without_runs_gives_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert main(["report", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"{folder}: no runs there: no sweep.json, result.json or .jsonl file"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [RESULT_FILE, "sweep.json", "speed.json"])
def test_a_broken_file_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / name).write_text('{"grid": ')
    assert main(["report", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / name}")


def test_single_result_files_and_lists_make_tidy_rows(tmp_path: Path) -> None:
    records = [run("FT", 0, 0.5), run("PKD-Skip", 0, 0.6), run("PKD-Skip", 0, 0.7, strategy=[1, 2])]
    records[2] = records[2].model_copy(update={"method": "PKD-1,2", "run_id": "own map"})
    records[2] = records[2].model_copy(update={"config": {**records[2].config, "strategy": [1, 2]}})
    save_records(records, tmp_path / "runs.jsonl")
    records = unique_runs(read_folder(tmp_path).records)
    tidy_runs(records).to_parquet(tmp_path / "runs.parquet", index=False)
    assert model_table(main_comparisons(comparisons(records))).loc["BERT3-PKD-1,2"].tolist()[0] == "70.0 (1)"
    assert sorted(pd.read_parquet(tmp_path / "runs.parquet")["strategy"]) == ["[1, 2]", "skip", "skip"]
    assert tidy_runs([]).empty


def test_the_most_frequent_class_has_a_row_and_a_line_for_every_metric(tmp_path: Path) -> None:
    scores = {"metrics": {"dev": {"f1": 0.9, "accuracy": 0.8}}, "majority": {"dev": {"f1": 0.8122, "accuracy": 0.6838}}}
    records = [run(m, seed, 0.5, task="mrpc").model_copy(update=scores) for m in ("FT", "KD") for seed in (0, 1)]
    save_records([*records, run("FT", 0, 0.5, task="rte")], tmp_path / "runs.jsonl")
    models = Page(write_report(tmp_path)).rows("Table 1")
    assert models["most frequent class"][0] == "81.2" and "68.4" in models["most frequent class"]
    assert list(models)[-1] == "most frequent class" and models["most frequent class"][-1] == "–"  # RTE's record is old
    page = (tmp_path / "report" / "index.html").read_text()
    for caption in ("mrpc, 3 layers", "mrpc, 3 layers: dev accuracy"):
        assert f"<figcaption>{caption}</figcaption>" in page
        assert "majority" in (tmp_path / "report" / "figures" / f"{file_name(caption)}.svg").read_text()
    only = model_table(main_comparisons(comparisons([run("FT", 0, 0.5, task="rte")])))
    assert list(only.index) == ["BERT3-FT"]


def test_a_better_teacher_stands_beside_the_paper_s_by_depth_start_and_objective() -> None:
    records = [
        run("teacher", 0, 0.9, task="sst2"),
        run("teacher", 0, 0.9, task="sst2", weights="t24", num_hidden_layers=24),
    ]
    for method, teacher, size in (("KD", "teacher-a", "base"), ("KD", "t24", "base"), ("PKD-Skip", "t24", "large")):
        taught = {"teacher": teacher, "num_hidden_layers": 6, "backbone": f"hub/bert-{size}-uncased"}
        records += [run(method, seed, 0.8 + seed / 10, task="sst2", **taught) for seed in (0, 1)]
    records += [run("FT", 0, 0.7, task="sst2", num_hidden_layers=6, backbone="hub/bert-base-uncased")]
    table = teacher_table(comparisons(records))
    top = "sst2, dev accuracy"
    paper, dev = paper_table("table_5")["SST-2"], paper_table("dev")["SST-2"]
    rows = {
        "12 → 6 [bert-base-uncased], KD": (f"{paper['#1: 12 to 6 [Base], KD']}", "–"),
        "24 → 6 [bert-base-uncased], KD": (f"{paper['#2: 24 to 6 [Base], KD']}", f"{dev['24 to 6 [Base], KD']}"),
        "24 → 6 [bert-large-uncased], PKD-Skip": (
            f"{paper['#4: 24 to 6 [Large], PKD']}",
            f"{dev['24 to 6 [Large], PKD']}",
        ),
    }
    for name, theirs in rows.items():
        assert tuple(table.loc[name, [(top, "paper, test"), (top, "authors, dev")]]) == theirs
    assert table.loc["no teacher → 6 [bert-base-uncased], FT", (top, "ours")] == "70.0 (1)"
    assert table.loc["24 → 6 [bert-base-uncased], KD", (top, "ours")] == percent([0.8, 0.9])


def test_students_of_equally_deep_teachers_trained_for_other_epochs_have_rows_of_their_own() -> None:
    """Once they were averaged, and a teacher of one epoch was a part of the better teacher's students."""
    records = []
    for name, epochs in (("t5", 5), ("t1", 1)):
        teacher = run("teacher", 0, 0.9, weights=name, num_hidden_layers=24)
        records.append(teacher.model_copy(update={"config": teacher.config | {"num_train_epochs": epochs}}))
    for teacher, score in (("t5", 0.8), ("t1", 0.6)):
        records += [run("KD", seed, score + seed / 10, teacher=teacher, num_hidden_layers=6) for seed in (0, 1)]
    (ours,) = teacher_table(comparisons(records)).to_dict().values()
    assert ours == {
        "24 → 6 [mini-bert-12], KD": percent([0.8, 0.9]),
        "24 (num train epochs 1) → 6 [mini-bert-12], KD": percent([0.6, 0.7]),
    }


def test_two_thousand_settings_are_laid_out_in_seconds() -> None:
    """Comparing all pairs of settings took half a minute in the better-teacher table alone."""
    taught = {0: "teacher-a", 1: "t24"}
    records = [run("teacher", 0, 0.9), run("teacher", 0, 0.9, weights="t24", num_hidden_layers=24), run("FT", 0, 0.5)]
    for temperature in range(1, 101):
        for seed, teacher in taught.items():
            records.append(run("KD", seed, 0.6, temperature=temperature, teacher=teacher))
            changes = {"temperature": temperature, "teacher": teacher}
            records += [run("PKD-Skip", seed, 0.7, beta=1 + beta, **changes) for beta in range(10)]
    compared = comparisons(records)
    assert len(compared) == 2000
    started = time.process_time()
    better, settings = teacher_table(compared), settings_table(compared, main_comparisons(compared))
    seconds = time.process_time() - started
    assert better.shape == (5, 1000)  # FT, KD and PKD of either teacher; a column for every temperature and beta
    assert better.loc["24 → 3 [mini-bert-12], KD"].tolist() == ["60.0 (1)"] * 1000
    assert len(settings) == 2000 and set(settings["PKD-Skip"]) == {"70.0 (1)"}
    assert seconds < 20, f"{seconds:.1f} s of processor time"


def test_a_full_grid_shows_the_main_setting_s_plots_and_folds_the_others(tmp_path: Path) -> None:
    grid = [(temperature, alpha) for temperature in (5, 10, 20) for alpha in (0.2, 0.5)]
    records = [run("KD", seed, 0.5, temperature=t, alpha=a) for t, a in grid for seed in (0, 1)]
    records += [run("KD", 2, 0.5, temperature=10, alpha=0.5)]  # of most runs: the main setting
    save_records(records, tmp_path / "runs.jsonl")
    compared = comparisons(read_folder(tmp_path).records)
    found = sensitivity_figures(compared, main_comparisons(compared))
    captions = [[caption for caption, _ in found[part]] for part in ("main", "other")]
    assert [len(part) for part in captions] == [2, 3]  # either field through the main setting; 1 + 2 elsewhere
    assert all("; " not in caption for caption in captions[0]) and all("; " in caption for caption in captions[1])
    page = write_report(tmp_path).read_text().partition("What the outcome hangs on</h2>")[2]
    shown, folded, others = page.partition('<details open=""><summary>At the other settings</summary>')
    assert folded and "<details" not in shown + others
    for part, expected in zip((shown, others.partition("</details>")[0]), captions, strict=True):
        assert re.findall("<figcaption>(.*?)</figcaption>", part) == expected


def test_a_report_made_again_takes_away_what_it_no_longer_has_and_nothing_else(tmp_path: Path) -> None:
    save_records([run("KD", seed, 0.5, temperature=t) for t in (5, 10) for seed in (0, 1)], tmp_path / "runs.jsonl")
    out = write_report(tmp_path).parent
    first = {str(file.relative_to(out)) for kind in ("figures", "tables") for file in (out / kind).iterdir()}
    own = [out / "figures" / "of-a-reader.svg", out / "tables" / "of-a-reader.tex"]
    for file in own:
        file.write_text("mine")
    save_records([run("KD", seed, 0.5) for seed in (0, 1)], tmp_path / "runs.jsonl")
    write_report(tmp_path)
    second = {str(file.relative_to(out)) for kind in ("figures", "tables") for file in (out / kind).iterdir()}
    assert second < first | {str(file.relative_to(out)) for file in own} and all(file.is_file() for file in own)
    assert "figures/rte-3-layers-temperature.svg" in first - second and "tables/settings.tex" in first - second
    assert (out / "files.txt").read_text().split() == sorted(second - {str(file.relative_to(out)) for file in own})


def test_settings_are_shown_by_dev_and_only_the_main_one_by_test_too() -> None:
    records = []
    for beta, dev, test in ((0.3, 0.5, 0.9), (9, 0.6, 0.7)):
        one = run("PKD-Skip", 0, dev, beta=beta)
        records.append(one.model_copy(update={"metrics": one.metrics | {"test": {"accuracy": test}}}))
    compared = comparisons(records)
    table = settings_table(compared, main_comparisons(compared))
    assert table[["what was scored", "setting", "PKD-Skip"]].values.tolist() == [
        ["rte, dev accuracy", "main", "60.0 (1)"],
        ["rte, test accuracy", "main", "70.0 (1)"],
        ["rte, dev accuracy", "beta 0.3", "50.0 (1)"],
    ]


def test_a_fold_of_few_figures_is_open_and_an_empty_cell_has_none(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    for figures, metadata in ((2, {}), (12, {"folded": "More"}), (13, {"folded": "Many"})):
        output = nbformat.v4.new_output("display_data", {"text/html": "<figure></figure>" * figures})
        notebook.cells.append(nbformat.v4.new_code_cell(metadata=metadata, outputs=[output]))
    notebook.cells.append(nbformat.v4.new_code_cell(metadata={"folded": "None"}))
    write_page(notebook, tmp_path / "page.html", "Folds", show_code=False)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<details") == 2 and page.partition("<details")[0].count("<figure>") == 2
    assert '<details open=""><summary>More</summary>' in page and "<details><summary>Many</summary>" in page
