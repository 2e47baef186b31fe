"""Rows of one's own and GLUE's other kinds of task, from files to students: notebooks, commands, grids, reports."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from datasets import Dataset
from helpers import bert_config, save_backbone
from matplotlib import rc_context
from readers.test_own import hub_folder, stsb, write_lines

from pkdlib import ROOT
from pkdlib.__main__ import main
from pkdlib.analysis.comparisons import all_differences, comparisons, unique_runs
from pkdlib.config import ConfigError
from pkdlib.engine.progress import say_once
from pkdlib.readers.records import load_records
from pkdlib.readers.teachers import load_teacher_data
from pkdlib.reports.report import NOTEBOOK
from pkdlib.sweeps.grid import GridError, read_grid
from pkdlib.sweeps.plan import plan

CLASSES = ["billing", "delivery", "other", "praise", "refund"]
METHODS = ["FT", "KD", "PKD-Skip", "PKD-Last"]
SMALL = {"num_train_epochs": 1, "max_length": 32}
STUDENTS = {"num_train_epochs": 1, "student_layers": [2]}


def run_cells(name: str, **parameters: object) -> dict:
    """The names that the cells of a notebook, or the report's, leave, run in this process; "drawn" are its figures."""
    (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb") if name != "report" else [NOTEBOOK]
    names: dict = {"display": lambda shown, **_: print(shown), "__name__": "__main__"}
    plt.close("all")
    with rc_context():
        for cell in [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]:
            exec(cell.source, names)
            if "parameters" in cell.metadata.get("tags", []):
                assert set(parameters) <= set(names)
                names |= parameters
    names["drawn"] = [plt.figure(number) for number in plt.get_fignums()]
    plt.close("all")
    return names


@pytest.fixture(autouse=True)
def say_again():
    say_once.cache_clear()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return str(save_backbone(tmp_path_factory.mktemp("backbone"), bert_config()))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """70 rows of five classes, of which one has 30, and of two tones."""
    labels = [CLASSES[0]] * 30 + [name for name in CLASSES[1:] for _ in range(10)]
    texts = [f"a {'good fine bad dull best'.split()[CLASSES.index(one)]} film {n}" for n, one in enumerate(labels)]
    tones = ["calm" if number % 3 else "angry" for number in range(70)]
    return pd.DataFrame({"text": texts, "label": labels, "tone": tones}).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def taught(rows, backbone, tmp_path_factory) -> dict:
    """The parameters of own rows in a CSV file, and the folder of notebook 01's teacher of them."""
    folder = tmp_path_factory.mktemp("taught")
    rows.to_csv(folder / "tickets.csv", index=False)
    named = {"task": "custom", "source": str(folder / "tickets.csv"), "dev_fraction": 0.2, "backbone": backbone}
    run_cells("01", **named, **SMALL, output_dir=str(folder / "teacher"))
    return {"named": named, "teacher": folder / "teacher", "folder": folder}


def reported(folder: Path) -> dict:
    """The tables of a folder's report, as LaTeX, by name, and its paired differences."""
    out = folder / "report"
    out.mkdir()
    run_cells("report", folder=str(folder), out=str(out))
    tables = {file.stem: file.read_text() for file in (out / "tables").glob("*.tex")}
    return tables | {"differences": pd.read_csv(out / "differences.csv")}


# ------------------------------------------------------------------------------------- from a file to its labels
def papermill(name: str, executed: Path, plain: dict, lists: str = "{}") -> None:
    """Papermill's own command, as a shell gives it."""
    (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    words = [word for item in plain.items() for word in ("-p", *map(str, item))]
    command = [sys.executable, "-m", "papermill", path, executed, "--cwd", path.parent, *words, "-y", lists]
    own = os.environ | {"PYTHONPATH": str(ROOT)}  # the kernel starts elsewhere
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


WRITERS = {
    "csv": lambda frame, file: frame.to_csv(file, index=False),
    "jsonl": lambda frame, file: frame.to_json(file, orient="records", lines=True),
    "parquet": lambda frame, file: frame.to_parquet(file, index=False),
    "hub": lambda frame, file: hub_folder(frame, file),
    "disk": lambda frame, file: Dataset.from_pandas(frame, preserve_index=False).save_to_disk(file),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_own_rows_become_a_teacher_four_students_and_labels(kind, rows, backbone, tmp_path, capsys):
    """A command each, and no file is edited; lists as comma text, or as YAML."""
    source = tmp_path / f"tickets.{kind}"
    WRITERS[kind](rows, source)
    teacher, students = tmp_path / "teacher", tmp_path / "students"
    named = {"task": "custom", "source": source, "dev_fraction": 0.2, "backbone": backbone, **SMALL}
    named |= {"text_columns": "text", "metrics": "macro_f1, accuracy", "class_weights": "1,2,2,2,2"}
    if kind == "csv":
        papermill("01", tmp_path / "01.ipynb", named | {"output_dir": teacher})
        of_students = {"teacher_dir": teacher, "output_dir": students, "num_train_epochs": 1}
        papermill("02", tmp_path / "02.ipynb", of_students, "{student_layers: [2], class_weights: [balanced]}")
    else:
        run_cells("01", **named | {"source": str(source), "output_dir": str(teacher)})
        run_cells("02", teacher_dir=str(teacher), output_dir=str(students), **STUDENTS)
        assert "the classes are billing (30 rows), delivery (10 rows), other" in capsys.readouterr().out
    (record,) = load_records(teacher)
    assert record.task == ("custom-tickets" if kind not in ("hub", "disk") else f"custom-tickets-{kind}")
    assert record.config["class_weights"] == [1, 2, 2, 2, 2]
    assert list(record.metrics["dev"]) == ["loss", "macro_f1", "accuracy"] and record.eval_rows == {"dev": 14}
    assert sorted(record.method for record in load_records(students)) == sorted(METHODS)
    new = rows[["text"]].head(23).assign(id=range(23))
    new.to_csv(tmp_path / "new.csv", index=False)
    command = ["predict", str(students / "KD-2-layers-seed-0"), str(tmp_path / "new.csv"), "--text-column", "text"]
    assert main([*command, "--out", str(tmp_path / "labelled.csv")]) == 0
    labelled = pd.read_csv(tmp_path / "labelled.csv")
    assert labelled["id"].tolist() == list(range(23)) and labelled["text"].tolist() == new["text"].tolist()
    assert set(labelled["label_predicted"]) <= {*CLASSES}


def test_a_teacher_of_others_on_own_rows_and_its_students_beside_it(taught, tmp_path, capsys):
    """Notebook 02 by parameters, then 06 on the dev rows that were drawn, or on a lone file's."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for file in taught["teacher"].glob("[!.]*"):
        if file.name != "result.json":
            (foreign / file.name).write_bytes(file.read_bytes())
    named = taught["named"]
    found = run_cells("02", teacher_dir=str(foreign), output_dir=str(tmp_path / "s"), **named, **SMALL,
                      student_layers=[2], methods=["KD"])  # fmt: skip
    (ours,) = load_records(taught["teacher"])
    assert found["teacher_record"].metrics["dev"] == pytest.approx(ours.metrics["dev"])
    assert found["runs"][0].fingerprints["train"] == ours.fingerprints["train"]
    models = {"model_a": str(foreign), "model_b": str(tmp_path / "s"), "students_dir": "", "rows": 0, "max_length": 32}
    task = {"task": "custom", "source": named["source"]}
    for split, share, rows in (("dev", 0.2, 14), ("train", 0.2, 56), ("dev", 0.0, 70), ("train", 0.0, 70)):
        if share or split == "train":
            values = models | task | {"split": split, "dev_fraction": share, "output_dir": str(tmp_path / "alike")}
            assert len(run_cells("06", **values)["drawn"]) >= 2
            assert json.loads((tmp_path / "alike" / "similarity.json").read_text())["settings"]["rows"] == rows


def test_the_same_rows_elsewhere_are_gone_on_with(rows, taught, backbone, tmp_path):
    first, second = tmp_path / "first" / "t.csv", tmp_path / "second" / "t.csv"
    for file in (first, second):
        file.parent.mkdir()
    rows.to_csv(first, index=False)
    named = taught["named"] | {"source": str(first), "backbone": backbone}
    teacher = str(tmp_path / "teacher")
    run_cells("01", **named, **SMALL, output_dir=teacher)
    first.rename(second)
    with pytest.raises(FileNotFoundError, match=r"first/t\.csv': no such folder"):
        load_teacher_data(teacher)
    data, _ = load_teacher_data(teacher, source=str(second))
    assert data.fingerprints["train"] == load_records(teacher)[0].fingerprints["train"]
    rows.assign(text=rows["text"].str.upper()).to_csv(second, index=False)
    with pytest.raises(
        ValueError, match=r"second/t.csv: the train split of custom-t is not the one of custom-t-teacher-"
    ):
        load_teacher_data(teacher, source=str(second))


# --------------------------------------------------------------------------------------- GLUE's other kinds of task
def mrpc(folder: Path) -> None:
    header = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    for split in ("train", "dev"):
        rows = [(int(number % 3 > 0), number, number, "a good film", "a film") for number in range(24)]
        write_lines(folder / "MRPC" / f"{split}.tsv", header, *rows)


def cola(folder: Path) -> None:
    rows = [("gj04", number % 2, "", ("They sang.", "Sang they the.")[number % 2]) for number in range(24)]
    for split in ("train", "dev"):
        write_lines(folder / "CoLA" / f"{split}.tsv", *rows)
    write_lines(folder / "CoLA" / "test.tsv", ("index", "sentence"), *enumerate(["Bill sang.", "Sang he.", "We sang."]))


def texts_of(figure: plt.Figure, label: str) -> list[list[str]]:
    """The texts within each of a figure's axes of that label."""
    return [[text.get_text() for text in ax.texts] for ax in figure.axes if ax.get_ylabel() == label]


def test_mrpc_shows_both_metrics_the_majority_and_what_names_one_class(backbone, tmp_path, capsys):
    mrpc(tmp_path)
    teacher = str(tmp_path / "teacher")
    run_cells("01", task="mrpc", source=str(tmp_path), backbone=backbone, **SMALL, output_dir=teacher)
    found = run_cells("02", teacher_dir=teacher, output_dir=str(tmp_path / "students"), **STUDENTS)
    assert list(found["table"]) == ["dev_f1", "dev_accuracy"]
    for column, score in (("dev_f1", 2 * 16 / (24 + 16)), ("dev_accuracy", 16 / 24)):  # 16 of 24 are equivalent
        assert list(found["table"][column].index) == [*METHODS, "majority", "teacher"]
        assert found["table"][column].loc["majority", 2] == pytest.approx(score)
        label = column.replace("_", " ")
        (texts,) = [texts for figure in found["drawn"] for texts in texts_of(figure, label) if texts]
        assert texts == ["teacher", "majority"]
    # All rows have the same texts, so that no model can but name one class.
    said = capsys.readouterr().out
    assert all(f"mrpc {one} seed 0: the model names one class for all 24 dev rows" in said
               for one in ("teacher 4 layers", *(f"{method} 2 layers" for method in METHODS)))  # fmt: skip


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_a_correlation_goes_through_notebooks_report_and_archive(task, backbone, tmp_path, capsys):
    stsb(tmp_path, 36)
    cola(tmp_path)
    large = str(save_backbone(tmp_path / "large", bert_config(5, 64)))
    teacher, students = str(tmp_path / "teacher"), str(tmp_path / "students")
    named, few = {"task": task, "source": str(tmp_path)}, STUDENTS | {"seeds": [0, 1], "methods": ["FT", "KD"]}
    run_cells("01", **named, backbone=backbone, **SMALL, output_dir=teacher)
    found = run_cells("02", teacher_dir=teacher, output_dir=students, **few)
    metric = {"cola": "mcc", "stsb": "pearson"}[task]
    assert ("majority" in found["table"][f"dev_{metric}"].index) == (task == "cola")
    values = {"student_layers": 2, "num_train_epochs": 1, "teacher_epochs": 1, "large_backbone": large}
    run_cells("04", teacher_dir=teacher, output_dir=str(tmp_path / "better"), **values)
    models = {"model_a": teacher, "model_b": f"{students}/KD-2-layers-seed-0", "students_dir": ""}
    run_cells("06", **named, **models, rows=0, max_length=32, output_dir=str(tmp_path / "alike"))
    if task == "stsb":
        assert "points of accuracy" not in capsys.readouterr().out
        with pytest.raises(ConfigError, match=r"^task = 'stsb': must be a task of classes, as this is about their"):
            run_cells("03", teacher_dir=teacher, student_layers=2, output_dir=str(tmp_path / "quirks"))
        for name in ("00", "08"):
            with pytest.raises(ConfigError, match=r"^task = 'stsb': must be a task of classes, not of values$"):
                run_cells(name, task="stsb", output_dir=str(tmp_path / "no"))
        assert not (tmp_path / "quirks").exists() and not (tmp_path / "no").exists()
        # Scores below zero, as a correlation may have, are reported as they are.
        file = Path(students) / "KD-2-layers-seed-0" / "result.json"
        content = json.loads(file.read_text())
        content["metrics"]["dev"] |= {"pearson": -0.25, "spearman": -0.5}
        file.write_text(json.dumps(content))
    report = reported(Path(students))
    for name in {"cola": ("mcc", "accuracy"), "stsb": ("pearson", "spearman")}[task]:
        assert f"{task}, dev {name}" in report["models"]
    assert ("most frequent class" in report["models"]) == (task == "cola")
    assert report["differences"]["metric"].tolist() == [f"dev_{metric}"]
    assert report["differences"]["warning"].isna().all()  # a row is worth 1 / rows of accuracy and F1 alone
    if task == "stsb":
        assert "-" in report["models"] and report["differences"]["difference"].item() < 0
    command = ["submit", str(tmp_path / "glue.zip"), "--students", f"{students}/KD-2-layers-seed-0", "--source"]
    assert main([*command, str(tmp_path), "--any-size"]) == 0
    assert f"{dict(cola='CoLA', stsb='STS-B')[task]}.tsv: checked" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ grids and reports
def test_a_grid_of_own_rows_is_interrupted_and_gone_on_with_and_reported(taught, tmp_path):
    weights = [[], ["balanced"]]
    grid = {
        "notebook": "02_distill_last_vs_skip", "seeds": [0, 1], "grid": {"class_weights": weights},
        "parameters": {"teacher_dir": str(taught["teacher"]), "methods": "KD"} | STUDENTS,
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(json.dumps(grid))
    out = tmp_path / "sweep"
    command = ["sweep", str(tmp_path / "own.yaml"), "--out", str(out), "--workers", "1", "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-m", "pkdlib", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list(out.glob("runs/*/run.json")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted: the same command goes on from there" in said
    ended = {file: file.stat().st_mtime_ns for file in out.glob("runs/*/run.json")}
    assert 1 <= len(ended) < 4  # on a busy machine more than one ends before the signal is heard
    assert main(command) == 0
    assert ended.items() <= {file: file.stat().st_mtime_ns for file in out.glob("runs/*/run.json")}.items()
    swept = {(one.seed, str(one.config["class_weights"])): one.fingerprints["weights"] for one in load_records(out)}
    assert len(swept) == 4
    for weighted in weights:
        alone = tmp_path / f"alone-{len(weighted)}"
        found = run_cells("02", teacher_dir=str(taught["teacher"]), **STUDENTS, methods=["KD"], seeds=[0, 1],
                          class_weights=weighted, output_dir=str(alone))  # fmt: skip
        for one in found["runs"]:
            assert swept[one.seed, str(weighted)] == one.fingerprints["weights"]
    # Beside it, another task of the same file, whose rows are other ones.
    named = taught["named"] | {"label_column": "tone"}
    run_cells("01", **named, **SMALL, output_dir=str(out / "tone" / "teacher"))
    run_cells("02", teacher_dir=str(out / "tone" / "teacher"), output_dir=str(out / "tone" / "students"), **STUDENTS,
              methods=["KD", "FT"], seeds=[0, 1])  # fmt: skip
    report = reported(out)
    for task in ("custom-tickets", "custom-tickets-tone"):
        assert f"{task}, dev accuracy" in report["models"] and f"{task}, dev macro\\_f1" in report["models"]
    assert "most frequent class" in report["models"]
    assert re.search(r"BERT2-FT .*\[[\d.-]+, [\d.-]+\] \(2\)", report["models"])  # with an interval
    assert "class weights" in report["settings"]
    for one in comparisons(unique_runs(load_records(out))):
        assert len({record.task for record in one.records}) == 1


def test_tasks_of_one_name_are_told_apart(taught):
    """By their metrics alone, or by their rows: neither runs nor teachers of theirs are mixed."""
    folder = taught["folder"]
    named = taught["named"] | {"metrics": ["macro_f1"]}
    run_cells("01", **named, **SMALL, output_dir=str(folder / "other" / "teacher"))
    for teacher, out in (("teacher", "students"), ("other/teacher", "other/students")):
        run_cells("02", teacher_dir=str(folder / teacher), output_dir=str(folder / out), **STUDENTS,
                  methods=["FT", "KD"], seeds=[0, 1])  # fmt: skip
    records = [*load_records(folder / "students"), *load_records(folder / "other")]
    compared = comparisons(unique_runs(records))
    assert {one.task: one.metrics for one in compared} == {
        "custom-tickets": ["dev_accuracy", "dev_macro_f1"],
        "custom-tickets (2: metrics macro_f1)": ["dev_macro_f1"],
    }
    assert {len(one.records) for one in compared} == {4}
    assert sorted(all_differences(compared)["metric"]) == ["dev_accuracy", "dev_macro_f1"]


REFUSED = {
    "a column": ({"label_column": ["label", "topic"]}, "grid.label_column = 'topic': .* no such column, but text, "),
    "a text": ({"text_columns": [["text"], ["body"]]}, "source = .*no column 'body'; it has text, label, tone"),
    "no dev split": ({"dev_fraction": [0.2, 0.0]}, "source = .*is one file, must be a folder .*; dev_fraction draws"),
    "weights": ({"class_weights": [[], [1.0, 2.0]]}, r"grid.class_weights = \[1.0, 2.0\]: must have one for each of "),
    "a teacher's weights": (
        {"teacher.class_weights": [[1.0, 2.0]]}, r"grid.teacher.class_weights = \[1.0, 2.0\]: must have one for each "),
    "unlabelled": ({"unlabelled": ["", "nowhere"]}, "grid.unlabelled = 'nowhere': no such file or folder"),
    "other unlabelled": ({"unlabelled": ["", "{folder}/other.csv"]}, "grid.unlabelled = .*: no column 'text'; it has "),
    "a metric": ({"metrics": [["accuracy"], ["recall"]]}, r"grid.metrics = \['recall'\]: must be some of accuracy, "),
    "both kinds": ({"metrics": [["pearson", "accuracy"]]}, "grid.metrics = 'accuracy': must be one of pearson, "),
}  # fmt: skip


@pytest.mark.parametrize("with_record", [False, True], ids=["planned teacher", "finished teacher"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_own_rows_do_not_allow_is_one_line_of_the_plan(case, with_record, taught, tmp_path):
    axes, line = REFUSED[case]
    if with_record and not {"class_weights", "unlabelled"} & {*axes}:
        pytest.skip("the teacher's record says it")
    pd.DataFrame({"words": ["a film"]}).to_csv(tmp_path / "other.csv", index=False)
    axes = json.loads(json.dumps(axes).replace("{folder}", str(tmp_path)))
    own = {"teacher_dir": str(taught["teacher"])} if with_record else taught["named"] | {"max_length": 32}
    parameters = {name: value for name, value in (own | STUDENTS).items() if name not in axes}
    (tmp_path / "g.yaml").write_text(
        json.dumps({"notebook": "02_distill_last_vs_skip", "parameters": parameters, "grid": axes})
    )
    grid = read_grid(tmp_path / "g.yaml")
    with pytest.raises(GridError, match=line) as refused:
        plan(grid, grid, "g.yaml")
    assert len(str(refused.value).splitlines()) == 1 and str(refused.value).startswith("g.yaml: ")
