"""GLUE's archive from tiny students and GLUE-shaped test files; what is wrong with one is refused in one line."""

import re
import zipfile
from pathlib import Path

import pytest
from analysis.test_comparisons import run
from helpers import bert_config, permuted, save_backbone, save_model

from pkdlib import build_student, load_backbone, load_classifier, load_tokenizer, predict
from pkdlib.__main__ import main
from pkdlib.data import encode_split
from pkdlib.readers.sources import load_split, read_tsv
from pkdlib.records import save_result
from pkdlib.reports.archive import ALL_FILES, check_archive, format_labels, predictions, write_archive
from pkdlib.tasks import get_task

# task -> folder, test files' stems, header of the download, its first rows
SHAPES = {
    "sst2": ("SST-2", ["test"], "index\tsentence", '{n}\ta fine {n} "film'),
    "mrpc": ("MRPC", ["test"], "index\t#1 ID\t#2 ID\t#1 String\t#2 String", "{n}\t1{n}\t2{n}\tthe cat {n}\tthe dog"),
    "qqp": ("QQP", ["test"], "id\tquestion1\tquestion2", "{n}\twhat is {n} ?\twho is it ?"),
    "mnli": ("MNLI", ["test_matched", "test_mismatched"], "index\tgenre\tsentence1\tsentence2", "{n}\tx\ta {n}\tb"),
    "qnli": ("QNLI", ["test"], "index\tquestion\tsentence", "{n}\twho ?\tthe man {n}"),
    "rte": ("RTE", ["test"], "index\tsentence1\tsentence2", "{n}\tthe man\tthe man {n}"),
    "cola": ("CoLA", ["test"], "index\tsentence", '{n}\tthe {n} "man'),
    "stsb": ("STS-B", ["test"], "index\tgenre\tsentence1\tsentence2", "{n}\tx\tthe man\tthe man {n}"),
}
ROWS = {"test": 7, "test_matched": 5, "test_mismatched": 6}
NAMES = {"sst2": "SST-2", "mrpc": "MRPC", "qqp": "QQP", "mnli": "MNLI-m", "qnli": "QNLI", "rte": "RTE",
         "cola": "CoLA", "stsb": "STS-B"}  # fmt: skip


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GLUE's layout with test files of a few rows, which have no labels."""
    source = tmp_path_factory.mktemp("glue")
    for folder, stems, header, row in SHAPES.values():
        (source / folder).mkdir()
        for stem in stems:
            lines = [header, *(row.format(n=n) for n in range(ROWS[stem]))]
            (source / folder / f"{stem}.tsv").write_text("\n".join(lines) + "\n")
    return source


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student of each task: a checkpoint of random weights and a record."""
    out = tmp_path_factory.mktemp("students")
    backbone = save_backbone(out / "backbone", bert_config(2))
    for task in SHAPES:
        model = build_student(load_backbone(backbone), 1, get_task(task).label_names, seed=3)
        model.save_pretrained(out / task)
        load_tokenizer(backbone).save_pretrained(out / task)
        save_result(run("FT", 0, 0.5, task=task), out / task)
    return {task: out / task for task in SHAPES}


@pytest.fixture
def archive(glue: Path, students: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "glue.zip"
    write_archive(path, students.values(), glue, any_size=True)
    return path


def changed(archive: Path, name: str, change) -> Path:
    """The archive with one of its files' texts changed."""
    with zipfile.ZipFile(archive) as old:
        texts = {entry: old.read(entry).decode() for entry in old.namelist()}
    texts[name] = change(texts[name])
    with zipfile.ZipFile(archive, "w") as new:
        for entry, text in texts.items():
            new.writestr(entry, text)
    return archive


def test_the_archive_holds_every_task_s_file_with_the_students_predictions(
    archive: Path, glue: Path, students: dict[str, Path]
) -> None:
    from transformers import AutoModelForSequenceClassification

    assert check_archive(archive, glue, any_size=True) == [
        "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv", "RTE.tsv", "CoLA.tsv",
        "STS-B.tsv",
    ]  # fmt: skip
    for task, name in [*NAMES.items(), ("mnli-mm", "MNLI-mm")]:
        header, rows = read_tsv(zipfile.Path(archive, f"{name}.tsv"))
        folder = students["mnli" if task == "mnli-mm" else task]
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        split = load_split(task, glue, "test")
        logits = predict(model, encode_split(split, load_tokenizer(folder), 64))
        labels = [format_labels(get_task(task))[label] for label in logits.argmax(dim=-1).tolist()]
        if task == "stsb":
            labels = [f"{min(5, max(0, value)):.3f}" for value in logits[:, 0].tolist()]
        assert header == ["index", "prediction"]
        assert [index for index, _ in rows] == [str(n) for n in range(len(split))]
        assert [label for _, label in rows] == labels
    with zipfile.ZipFile(archive) as held:
        assert held.read("RTE.tsv").startswith(b"index\tprediction\n0\t")
    assert not list(archive.parent.glob(".*"))


def test_values_are_clipped_to_the_scale_of_the_test_file(
    glue: Path, students: dict[str, Path], tmp_path: Path
) -> None:
    task, model = get_task("stsb"), load_classifier(students["stsb"])
    for bias, text in ((9.0, "5.000"), (-9.0, "0.000")):
        model.classifier.bias.data.fill_(bias)
        save_model(model, tmp_path / text)
        save_result(run("FT", 0, 0.5, task="stsb"), tmp_path / text)
        assert predictions(tmp_path / text, task, glue) == [text] * 7


def test_a_student_whose_classes_stand_in_another_order_predicts_the_same(
    students: dict[str, Path], glue: Path, tmp_path: Path
) -> None:
    task = get_task("mnli")
    other = save_model(permuted(load_classifier(students["mnli"]), [2, 0, 1]), tmp_path)
    save_result(run("FT", 0, 0.5, task="mnli"), other)
    assert predictions(other, task, glue) == predictions(students["mnli"], task, glue)


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(
    students: dict[str, Path], glue: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("another's")
    (tmp_path / ".out.zip.part").symlink_to(tmp_path / "other")
    write_archive(tmp_path / "out.zip", [students["rte"]], glue, any_size=True)
    assert (tmp_path / "other").read_text() == "another's" and zipfile.is_zipfile(tmp_path / "out.zip")
    assert {file.name for file in tmp_path.iterdir()} == {"other", ".out.zip.part", "out.zip"}


def test_labels_are_the_format_s() -> None:
    assert format_labels(get_task("mnli-mm")) == ["entailment", "neutral", "contradiction"]
    assert format_labels(get_task("qnli")) == format_labels(get_task("rte")) == ["entailment", "not_entailment"]
    assert [format_labels(get_task(name)) for name in ("sst2", "mrpc", "qqp")] == [["0", "1"]] * 3


def test_the_test_file_s_own_index_is_used(students: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / "test.tsv").write_text("index\tsentence1\tsentence2\n17\ta\tb\n4\tc\td\n")
    write_archive(tmp_path / "out.zip", [students["rte"]], tmp_path, any_size=True)
    _, rows = read_tsv(zipfile.Path(tmp_path / "out.zip", "RTE.tsv"))
    assert [index for index, _ in rows] == ["17", "4"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("RTE.tsv", lambda text: "".join(text.splitlines(keepends=True)[:-1]),
         "RTE.tsv: index 6 is missing: 6 rows where the test file has 7"),
        ("RTE.tsv", lambda text: text.replace("\n3\t", "\n2\t"), "RTE.tsv: index 2 stands there twice: 7 rows where"),
        ("RTE.tsv", lambda text: text + "7\tentailment\n", "RTE.tsv: index 7 is not in the test file: 8 rows where"),
        ("RTE.tsv", lambda text: text.replace("index\t", "id\t"), "the header is id, prediction: must be index, "),
        ("RTE.tsv", lambda text: text + "8", "RTE.tsv, line 9: 1 columns where the header has 2"),
        ("MNLI-mm.tsv", lambda text: text.splitlines()[0] + "\n0\tnot_entailment\n1\tneutral\n" + "".join(
            f"{n}\tneutral\n" for n in range(2, 6)),
         "MNLI-mm.tsv: index 0: label 'not_entailment': must be one of entailment, neutral, contradiction"),
        ("SST-2.tsv", lambda text: text.replace("0\t1", "0\tpositive").replace("0\t0", "0\tpositive"),
         "SST-2.tsv: index 0: label 'positive': must be one of 0, 1"),
        ("SST2.tsv", lambda text: "", "must be some of SST-2.tsv, "),
        ("CoLA.tsv", lambda text: text.replace("\n0\t", "\n0\t-"), "CoLA.tsv: index 0: label '-"),
        *[
            ("STS-B.tsv", lambda text, value=value: re.sub(r"\n0\t.*", f"\n0\t{value}", text),
             f"STS-B.tsv: index 0: label '{value}': must be a number from 0.000 to 5.000")
            for value in ("5.001", "-0.100", "nan", "3.2", "1e-3", "")
        ],
    ],
)  # fmt: skip
def test_a_wrong_archive_is_refused_in_one_line(name: str, change, message: str, archive: Path, glue: Path) -> None:
    if name == "SST2.tsv":
        with zipfile.ZipFile(archive, "a") as held:
            held.writestr(name, "")
    else:
        changed(archive, name, change)
    with pytest.raises(ValueError) as refused:
        check_archive(archive, glue, any_size=True)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_test_files_of_another_size_are_refused_unless_told(
    glue: Path, students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["submit", str(tmp_path / "out.zip"), "--students", str(students["rte"]), "--source", str(glue)]
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith("RTE.tsv: 7 rows where the benchmark's test file has 3000\n")
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "--any-size"]) == 0
    checked, missing = capsys.readouterr().out.splitlines()
    assert checked == f"{tmp_path / 'out.zip'}: RTE.tsv: checked"
    assert missing.split(": ")[1].split(", ") == [name for name in ALL_FILES if name != "RTE.tsv"]
    assert missing.endswith("STS-B.tsv, WNLI.tsv, AX.tsv")


def test_students_that_cannot_predict_are_refused(
    glue: Path, students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, mini = str(tmp_path / "out.zip"), tmp_path / "mini"
    save_result(run("FT", 0, 0.5, task="mini-sentiment"), mini)
    (mini / "model.safetensors").touch()
    wrong = tmp_path / "wrong"
    model = build_student(load_backbone(students["rte"]), 1, get_task("sst2").label_names)
    model.save_pretrained(wrong)
    load_tokenizer(students["rte"]).save_pretrained(wrong)
    save_result(run("FT", 0, 0.5, task="rte"), wrong)
    capsys.readouterr()
    for folders, message in (
        ([tmp_path], "no trained student: it needs result.json and model.safetensors"),
        ([mini], "task = 'mini-sentiment': must be one of sst2, mrpc, "),
        ([students["rte"], students["rte"]], "task rte has a student already"),
        ([wrong], "its classes are negative, positive: must be entailment, not_entailment, in any order"),
    ):
        assert main(["submit", out, "--students", *map(str, folders), "--source", str(glue), "--any-size"]) == 2
        *bars, line = capsys.readouterr().err.splitlines()
        assert message in line and not any(bar.strip() and "it/s]" not in bar for bar in bars)  # transformers' own
    assert main(["submit", out, "--students", str(students["rte"]), "--source", str(tmp_path), "--any-size"]) == 2
    assert not Path(out).exists()
