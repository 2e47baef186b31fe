"""The notebooks keep to their template and run, small, from the first cell to the last."""

import ast
import base64
import json
import re

import matplotlib
import nbformat
import pandas as pd
import pytest
from helpers import FEW_ROWS, save_hub_dataset, small_data, small_parameters

from pkdlib import ROOT
from pkdlib.analysis.similarity import SIMILARITIES
from pkdlib.analysis.tables import load_results
from pkdlib.reports.pages import WIDGET, drop_widgets
from pkdlib.reports.tutorial import write_page
from pkdlib.sweeps.notebooks import code_fingerprint, run_notebook
from pkdlib.tasks import TASKS

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# exercise -> (right answer, wrong answer), evaluated in the notebook itself
ANSWERS = {
    "00_start_here": {"answer_1": ("[2, 4, 6, 8, 10]", "[2, 4, 6, 8, 10, 12]"), "answer_2": ("1", "0")},
    "01_finetune_teacher": {
        "answer_1": ("float(torch.tensor(2.0).log())", "0.5"),
        "answer_2": ("history['dev_accuracy'].max() - history['dev_accuracy'].iloc[-1]", "0.4"),
    },
    "02_distill_last_vs_skip": {
        "answer_1": ("[6, 12, 18]", "[21, 22, 23]"),
        "answer_2": ("1000 / 3840", "1000"),
    },
    "03_inside_the_loss": {"answer_1": ("100 / 3", "100"), "answer_2": ("20", "10")},
    "04_better_teacher": {
        "answer_1": ("[4, 8, 12, 16, 20]", "[19, 20, 21, 22, 23]"),
        "answer_2": ("768 * 1024", "768"),
    },
    "05_speed_benchmark": {
        "answer_1": ("10", "4.0"),
        "answer_2": ("(31.5 + 12 * 7.09 - 7.09) / 31.5", "12"),
    },
    "06_cls_similarity": {
        "answer_1": ("1.0", "2.0"),
        "answer_2": ("['rsa', 'cka']", "['cka', 'rsa', 'cosine']"),
    },
    "07_ablations": {"answer_1": ("51", "108"), "answer_2": ("4", "2")},
    "08_reproduce_the_paper": {
        "answer_1": ("1000 / (2 * 768)", "1000"),
        "answer_2": ("[4, 8]", "[10, 11]"),
        "answer_3": ("2", "19"),
    },
}

PLACES = {"teacher_dir", "large_teacher_dir", "students_dir", "output_dir", "model_a", "model_b", "backbone",
          "large_backbone", "source", "texts", "sizes"}  # fmt: skip
# notebook, parameter, bad value, the line that says so
BAD_VALUES = [
    ("00", "student_layers", 1, "student_layers = 1: must be greater than or equal to 2"),
    ("00", "student_layers", 13, "student_layers = 13: must be less than or equal to 12"),
    ("00", "task", "sst", f"task = 'sst': must be one of {', '.join(TASKS)}"),
    ("00", "train_rows", -1, "train_rows = -1: must be greater than or equal to 0"),
    ("01", "max_length", 7, "max_length = 7: must be greater than or equal to 8"),
    ("01", "output_dir", "", "output_dir = '': must name a folder"),
    ("02", "alpha", 7, "alpha = 7: must be less than or equal to 1"),
    (
        "02", "student_layers", [6, 1],
        "methods = ['FT', 'KD', 'PKD-Skip', 'PKD-Last']: "
        "a student of one layer has no layer to match; it can learn by FT and KD alone",
    ),
    ("02", "teacher_dir", "", "teacher_dir = '': must name a folder"),
    ("03", "batch_rows", 0, "batch_rows = 0: must be greater than or equal to 1"),
    ("03", "student_layers", 1, "student_layers = 1: must be greater than or equal to 2"),
    ("04", "student_layers", 1, "student_layers = 1: must be greater than or equal to 2"),
    ("04", "teacher_epochs", 0, "num_train_epochs = 0: must be greater than or equal to 1"),
    ("05", "precision", "fp12", "precision = 'fp12': must be 'auto', 'fp32', 'bf16' or 'fp16'"),
    ("06", "metric", "ckaa", "metric = 'ckaa': must be one of centered_cosine, cosine, cka, rsa"),
    ("06", "students_dir", 3, "students_dir = 3: must be a valid string"),
    (
        "07", "metric", "nonsense",
        "metric = 'nonsense': must be one of dev_accuracy, dev_f1, dev_loss, test_accuracy, test_f1, test_loss",
    ),
    ("07", "sizes", "", "sizes = '': must name a folder"),
    ("08", "learning_rate_scale", 1e6, "learning_rate = 20.0: must be less than or equal to 1"),
    (
        "08", "student_layers", [4],
        "task = 'sst2', num_hidden_layers = 4: the authors' settings are for mnli 3, mnli 6, mrpc 3, mrpc 6, qnli 3, "
        "qnli 6, qqp 3, qqp 6, race 6, rte 3, rte 6, sst2 3, sst2 6",
    ),
]  # fmt: skip


def read(path):
    return nbformat.read(path, as_version=4)


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_number(cells, tag):
    (number,) = [number for number, cell in enumerate(cells) if tag in cell.metadata.get("tags", [])]
    return number


def run_settings(path, **changes):
    """Run a notebook's imports, its parameters, changed, and its settings in this process; no other cell."""
    cells = code_cells(read(path))
    values = {}
    with matplotlib.rc_context():
        for cell in cells[: cell_number(cells, "parameters") + 1]:
            exec(cell.source, values)
        assert set(changes) <= set(values)
        exec(cells[cell_number(cells, "settings")].source, values | changes)


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def with_answers(path, folder):
    """A copy of the notebook whose exercises are followed by themselves, answered rightly and then wrongly."""
    notebook, cells = read(path), []
    for cell in notebook.cells:
        cells.append(cell)
        exercise = re.match(r"(answer_\d) = None", cell.source) if cell.cell_type == "code" else None
        if exercise:
            for kind, answer in zip(("right", "wrong"), ANSWERS[path.stem][exercise[1]], strict=True):
                source = cell.source.replace("= None", f"= {answer}", 1)
                cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": [kind]}))
    notebook.cells = cells
    copy = folder / f"{path.stem}-answered.ipynb"
    nbformat.write(notebook, copy)
    return copy


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Every notebook, run by papermill on a few rows, one after the other as a learner would."""
    out = tmp_path_factory.mktemp("course")
    for path in NOTEBOOKS:
        run_notebook(with_answers(path, out), out / path.name, small_parameters(out)[path.stem])
    return out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_to_the_template(path):
    notebook = read(path)
    assert len(notebook.cells) <= 40
    assert notebook.cells[0].source.startswith(f"# {path.name[:2]} · ")
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not re.search(r"^\s*class ", cell.source, re.MULTILINE)
    assert len([cell for cell in code_cells(notebook) if cell.source.startswith("answer_")]) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_a_few_plain_literals_with_help(path):
    (cell,) = [cell for cell in code_cells(read(path)) if "parameters" in cell.metadata.get("tags", [])]
    assert len(cell.source.splitlines()) <= 12
    for line in cell.source.splitlines():
        assignment, help_text = line.split("  # ")
        (statement,) = ast.parse(assignment).body
        ast.literal_eval(statement.value)
        assert help_text and "=" not in help_text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_settings_cell_follows_the_parameters_cell(path):
    cells = read(path).cells
    assert cell_number(cells, "settings") == cell_number(cells, "parameters") + 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_settings_are_checked_where_there_is_nothing_to_read(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells, parameters = code_cells(read(path)), {}
    exec(cells[cell_number(cells, "parameters")].source, parameters)
    nowhere = {name: str(tmp_path / name) for name in PLACES & set(parameters)}  # reading any of them would fail
    if "sources" in parameters:
        nowhere["sources"] = [str(tmp_path / "sources")]
    run_settings(path, **nowhere)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "parameter", "value", "line"), BAD_VALUES)
def test_a_bad_value_is_one_line_of_the_settings_cell(name, parameter, value, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    with pytest.raises(ValueError) as raised:
        run_settings(path, **{parameter: value})
    assert str(raised.value) == line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_those_of_the_code_and_small(path):
    notebook = read(path)
    assert notebook.metadata.get("outputs_of_code") == code_fingerprint(notebook), "older than the code: make notebooks"
    assert path.stat().st_size <= 300 * 1024
    assert all(cell.execution_count for cell in code_cells(notebook))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [output for output in outputs(notebook) if WIDGET in output.get("data", {})]
    assert "widgets" not in notebook.metadata
    assert str(ROOT) not in path.read_text(encoding="utf-8")


def test_outputs_of_changed_code_are_seen_to_be_old():
    notebook = read(NOTEBOOKS[0])
    recorded = notebook.metadata["outputs_of_code"]
    code_cells(notebook)[-1].source += " "
    assert code_fingerprint(notebook) != recorded


def test_every_notebook_runs_and_leaves_its_results(executed):
    teacher = load_results(executed / "teacher")
    assert teacher["method"].tolist() == ["teacher"] and teacher["train_rows"].item() == FEW_ROWS["train_rows"]
    students = load_results(executed / "students")
    assert sorted(students["method"]) == sorted(["FT", "KD", "PKD-Skip", "PKD-Last"] * 2)
    assert set(students["learning_rate"]) == {2e-5} and set(students["num_hidden_layers"]) == {3}
    assert (executed / "students" / "similarity.json").is_file()


def test_the_similarity_files_hold_every_metric_and_every_student(executed):
    written = json.loads((executed / "similarity" / "similarity.json").read_text())
    assert written["settings"]["rows"] == 60
    assert sorted(written["layers_b_by_layers_a"]) == sorted(SIMILARITIES)
    assert all(len(matrix) == 3 and len(matrix[0]) == 12 for matrix in written["layers_b_by_layers_a"].values())
    table = pd.read_csv(executed / "similarity" / "similarity.csv")
    assert len(table) == len(SIMILARITIES) * 3 * 12
    row = table[(table["metric"] == "cka") & (table["layer_b"] == 3) & (table["layer_a"] == 12)]
    assert row["similarity"].item() == pytest.approx(written["layers_b_by_layers_a"]["cka"][2][11])
    matched = pd.read_csv(executed / "similarity" / "matched.csv")
    assert len(matched) == 4 * 2 * 2 * 2  # methods, seeds, maps, matched layers
    assert set(matched["method"]) == {"FT", "KD", "PKD-Skip", "PKD-Last"}


def test_the_benchmark_s_files_hold_every_timing_and_every_marker_of_the_chart(executed):
    written = json.loads((executed / "speed" / "speed.json").read_text())
    assert written["settings"]["layers"] == [4, 2] and written["settings"]["batch_size"] == 2
    assert len(written["latencies"]) == 2 * 2
    assert written["parameters"]["4 layers"]["transformer"] == 2 * written["parameters"]["2 layers"]["transformer"]
    assert {"machine", "versions", "created_at", "precision"} <= set(written)
    assert all([row["limit"] for row in rows] == [1, 2] for rows in written["speedups"].values())
    chart = pd.read_csv(executed / "speed" / "latency_accuracy.csv")
    assert sorted(chart["num_hidden_layers"]) == [3] * 4 + [6] * 4 + [12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "ckaa"}, r"metric = 'ckaa': must be one of centered_cosine, cosine, cka, rsa"),
        ({"rows": 3}, r"rows = 3: must be 0 for all rows or at least 4"),
    ],
)
def test_a_bad_comparison_of_layers_is_one_clear_line_before_any_work(changes, message, tmp_path):
    with pytest.raises(Exception, match=message):
        run_notebook(
            ROOT / "notebooks" / "06_cls_similarity.ipynb", tmp_path / "bad.ipynb",
            {"output_dir": str(tmp_path / "out")} | changes,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_the_paper_s_experiment_runs_on_a_local_folder_in_the_hub_s_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the kernel inherits both
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    pairs = small_data("mini-inference", train=32, dev=20, test=8).splits  # RTE's columns, three labels made two
    splits = {}
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        labels = [-1] * len(pairs[split]) if pairs[split].labels is None else (pairs[split].labels > 0).astype(int)
        columns = dict(zip(("sentence1", "sentence2"), pairs[split].texts, strict=True))
        splits[name] = pd.DataFrame(columns | {"label": labels, "idx": range(len(labels))})
    source = save_hub_dataset(tmp_path / "glue", "rte", splits)
    run_notebook(
        ROOT / "notebooks" / "08_reproduce_the_paper.ipynb", tmp_path / "rte.ipynb",
        {
            "task": "rte", "source": str(source), "preset_of": "", "student_layers": [6, 3], "seeds": [0, 1],
            "methods": ["FT", "PKD-Last"], "learning_rate_scale": 1, "output_dir": str(tmp_path / "out"),
        },
    )  # fmt: skip
    runs = load_results(tmp_path / "out" / "comparison.jsonl")
    assert len(runs) == 1 + 2 * 2 * 2 and set(runs["source"]) == {str(source)}
    settings = runs.groupby(["num_hidden_layers", "method"])[["learning_rate", "beta", "dev_accuracy"]].mean()
    assert settings["learning_rate"].to_dict() == {
        (12, "teacher"): 2e-5, (6, "FT"): 1e-5, (6, "PKD-Last"): 1e-5, (3, "FT"): 5e-5, (3, "PKD-Last"): 5e-5,
    }  # fmt: skip
    assert settings["beta"][6, "PKD-Last"] == pytest.approx(500 * 64 / 768)  # normalised states of width 64
    assert settings["beta"][3, "PKD-Last"] == 100 and settings["beta"][3, "FT"] == 0
    table = pd.read_csv(tmp_path / "out" / "beside_the_paper.csv", header=[0, 1], index_col=[0, 1])
    assert list(table.columns.get_level_values(0).unique()) == ["ours: rte, dev", "theirs: rte, for orientation only"]
    theirs = table["theirs: rte, for orientation only"]
    assert theirs.loc[(12, "teacher")].tolist() == [69.1, 69.4]
    assert theirs.loc[(6, "FT")].tolist() == [63.6, 66.1] and theirs.loc[(6, "PKD-Last")].tolist() == [65.0, 66.8]
    assert theirs.loc[(3, "FT")].tolist() == [55.2, 58.3] and theirs.loc[(3, "PKD-Last")].isna().all()
    ours = table["ours: rte, dev"].loc[(3, "FT")]
    assert ours["mean"] == pytest.approx(100 * settings["dev_accuracy"][3, "FT"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset_of": ""}, r"preset_of = '': must be one of sst2, mrpc, qqp, mnli, mnli-mm, qnli, rte"),
        ({"student_layers": [4]}, r"task = 'sst2', num_hidden_layers = 4: the authors' settings are for"),
    ],
)
def test_a_bad_reproduction_is_one_clear_line_before_any_work(changes, message, tmp_path):
    with pytest.raises(Exception, match=message):
        run_notebook(
            ROOT / "notebooks" / "08_reproduce_the_paper.ipynb", tmp_path / "bad.ipynb",
            {"output_dir": str(tmp_path / "out")} | changes,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_the_same_runs_are_in_the_notebooks_collected_file(executed):
    collected = load_results(executed / "students" / "comparison.jsonl")
    one_by_one = load_results(executed / "students")
    assert sorted(collected["run_id"]) == sorted(one_by_one["run_id"])


def test_batch_runs_print_a_line_per_epoch_and_no_bars(executed):
    lines = "".join(printed(cell) for cell in code_cells(read(executed / "02_distill_last_vs_skip.ipynb")))
    assert len(re.findall(r"epoch 1/1, train loss", lines)) == 8
    assert "it/s" not in lines


@pytest.mark.parametrize("name", ANSWERS)
def test_exercises_accept_the_right_answer_and_refuse_wrong_and_missing_ones(executed, name):
    cells = code_cells(read(executed / f"{name}.ipynb"))
    answered = {kind: [c for c in cells if kind in c.metadata.get("tags", [])] for kind in ("right", "wrong")}
    missing = [cell for cell in cells if re.match(r"answer_\d = None", cell.source)]
    assert len(answered["right"]) == len(answered["wrong"]) == len(missing) == len(ANSWERS[name])
    assert all(printed(cell) == "right\n" for cell in answered["right"])
    assert all(printed(cell) == "not yet\n" for cell in answered["wrong"] + missing)


def test_a_bad_parameter_stops_the_notebook_with_one_clear_line(executed, tmp_path):
    with pytest.raises(Exception, match=r"alpha = 1\.5: must be less than or equal to 1"):
        run_notebook(
            ROOT / "notebooks" / "02_distill_last_vs_skip.ipynb",
            tmp_path / "bad.ipynb",
            {"teacher_dir": str(executed / "teacher"), "output_dir": str(tmp_path / "out"), "alpha": 1.5},
        )
    assert not (tmp_path / "out").exists()


def test_the_page_holds_every_plot_and_fetches_nothing(executed, tmp_path):
    notebooks = [executed / path.name for path in NOTEBOOKS]
    page = tmp_path / "index.html"
    write_page(notebooks, page, "A title")
    html = page.read_text(encoding="utf-8")
    found = [output.get("data", {}) for path in notebooks for output in outputs(read(path))]
    plots = [data["image/png"] for data in found if "image/png" in data]
    shown = re.findall(r'<img[^>]*src="data:image/png;base64,([^"]+)"', html)
    assert len(plots) >= 8 and [base64.b64decode(image) for image in shown] == [base64.b64decode(p) for p in plots]
    assert not re.search(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)[^"]+"', html)
    assert "<title>A title</title>" in html
    assert html.count("<math") >= 4 and "\\frac" not in html


def test_pages_and_committed_outputs_leave_the_widgets_out(executed, tmp_path):
    path = executed / "00_start_here.ipynb"
    notebook = read(path)
    live = [output for output in outputs(notebook) if WIDGET in output.get("data", {})]
    assert live and "widgets" in notebook.metadata
    kept = [output for output in outputs(notebook) if output not in live]
    left = drop_widgets(notebook)
    assert outputs(left) == kept and "widgets" not in left.metadata
    write_page([path], tmp_path / "page.html", "A title")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert live[0].data["text/plain"][:9] == "Explorer(" and "Explorer(" not in html
    assert live[0].data[WIDGET]["model_id"] not in html
