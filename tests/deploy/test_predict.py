"""Labels for the rows of a file: every row and column is kept, in four formats; a bad input is one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import bert_config, mini_tokenizer, noisy_copy, read_task, save_backbone, save_model
from transformers import BertModel, pipeline

from pkdlib import FineTuneConfig, encode_task, fine_tune, load_classifier, load_task, load_tokenizer, predict, validate
from pkdlib.data import Split, encode_split
from pkdlib.deploy.predict import predict_file
from pkdlib.deploy.students import load_student
from pkdlib.deploy.tables import ENDINGS
from pkdlib.engine.files import ROOT
from pkdlib.reports.commands import main
from pkdlib.tasks import TASKS, Task

TEXTS = ["007", "NA", "", 'a "good", warm film', "it is bad , and not good at all", " null ", "Ünïcödé"]


def train_student(folder: Path, task: str) -> Path:
    """A model of two layers, trained on a few rows of an embedded task that lie as a task of one's own in `folder`."""
    mini = read_task(task)
    own = Task("mine", TASKS[task].columns, TASKS[task].label_names)
    for name, rows in (("train", 40), ("dev", 24)):
        split = mini.splits[name].take(np.arange(rows))
        frame = pd.DataFrame({**dict(zip(own.columns, split.texts, strict=True)), "label": split.labels})
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        frame.to_csv(folder / "rows" / f"{name}.csv", index=False)
    backbone = save_backbone(folder / "backbone", bert_config(2))
    data = encode_task(load_task(own, folder / "rows"), mini_tokenizer(), 32)
    config = validate(FineTuneConfig, backbone=str(backbone), num_train_epochs=2, learning_rate=1e-2)
    fine_tune(data, config, folder / "student")
    return folder / "student"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_student(tmp_path_factory.mktemp("sentiment"), "mini-sentiment")


def write(path: Path, frame: pd.DataFrame) -> Path:
    """The rows in the format of the file's ending, by pandas alone."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif path.suffix == ".tsv":
        path.write_text("".join("\t".join(row) + "\n" for row in [list(frame), *frame.values.tolist()]))
    else:
        frame.to_csv(path, index=False)
    return path


def read(path: Path) -> pd.DataFrame:
    """All of a file by pandas alone, every value as a text."""
    as_text = {"dtype": str, "keep_default_na": False}
    if path.suffix == ".parquet":
        return pd.read_parquet(path).astype(str)
    if path.suffix == ".jsonl":
        return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()]).astype(str)
    return pd.read_csv(path, **as_text, **({"sep": "\t", "quoting": 3} if path.suffix == ".tsv" else {}))


def expected(student: Path, *texts: list[str]) -> np.ndarray:
    """Probabilities (rows, classes) by the library's own functions."""
    split = encode_split(Split("x", texts, None), load_tokenizer(student), 32)
    return predict(load_classifier(student), split).softmax(dim=-1).numpy()


@pytest.mark.parametrize("written", ENDINGS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_row_and_column_is_kept_in_every_format(ending: str, written: str, student: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["001", "NaN", "", "1e3", "true", "x", "2020-01-01"], "text": TEXTS})
    file, out = write(tmp_path / f"rows{ending}", frame), tmp_path / f"out{written}"
    assert predict_file(student, file, ["text"], out, batch_size=2) == out
    found, probabilities = read(out), expected(student, TEXTS)
    assert list(found) == ["id", "text", "label_predicted", "probability_negative", "probability_positive"]
    assert found[["id", "text"]].values.tolist() == frame.values.tolist()
    columns = found[["probability_negative", "probability_positive"]].astype(float).to_numpy()
    assert np.abs(columns - probabilities).max() < 1e-6 and np.allclose(columns.sum(axis=1), 1, atol=1e-6)
    names = np.array(["negative", "positive"])
    assert found["label_predicted"].tolist() == names[probabilities.argmax(axis=1)].tolist()
    assert len({*columns[:, 0]}) >= 4  # the others are of unknown words, or of none
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({file.name, out.name})


def test_values_of_parquet_and_json_keep_their_types(student: Path, tmp_path: Path) -> None:
    kinds = {"small": pa.array([1, None], pa.int8()), "day": pa.array([0, 1], pa.date32()), "text": ["a", "b"]}
    pq.write_table(pa.table({**kinds, "many": [[1, 2], []]}), tmp_path / "a.parquet")
    predict_file(student, tmp_path / "a.parquet", ["text"], tmp_path / "b.parquet")
    before, after = (pq.read_table(tmp_path / f"{name}.parquet") for name in "ab")
    assert after.select(before.column_names).cast(before.schema).equals(before)
    assert [after.schema.field(name).type for name in ("small", "day")] == [pa.int8(), pa.date32()]
    rows = [{"id": 2**60, "text": "a", "of": {"x": [1.5, None]}}, {"id": "7", "text": "b", "of": False}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_file(student, tmp_path / "a.jsonl", ["text"], tmp_path / "b.jsonl")
    found = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [{name: row[name] for name in ("id", "text", "of")} for row in found] == rows
    predict_file(student, tmp_path / "a.parquet", ["text"], tmp_path / "c.jsonl")
    assert [json.loads(line)["small"] for line in (tmp_path / "c.jsonl").read_text().splitlines()] == [1, None]
    with pytest.raises(ValueError, match=r"^out = .*c\.parquet': .+id"):  # numbers and texts in one column
        predict_file(student, tmp_path / "a.jsonl", ["text"], tmp_path / "c.parquet")
    assert not list(tmp_path.glob("*c.parquet*"))


def test_pairs_have_two_columns(tmp_path: Path) -> None:
    student = train_student(tmp_path, "mini-inference")
    first, second = ["the cat is on the mat", "a dog"], ["a cat is there", "no dog is here"]
    file = write(tmp_path / "pairs.csv", pd.DataFrame({"b": second, "a": first}))
    out = tmp_path / "out.csv"
    arguments = ["predict", str(student), str(file), "--text-column", "a", "--text-column", "b", "--out", str(out)]
    assert main(arguments) == 0
    names = ("entailment", "neutral", "contradiction")
    columns = read(out)[[f"probability_{name}" for name in names]].astype(float)
    assert np.abs(columns.to_numpy() - expected(student, first, second)).max() < 1e-6
    with pytest.raises(ValueError, match=r"was trained on 2, sentence1 and sentence2: must be as many columns"):
        predict_file(student, file, ["a"], out)


def test_rows_are_cut_at_the_length_of_the_training(student: Path, tmp_path: Path) -> None:
    long = " ".join(["good"] * 30)  # of a token each, beside [CLS] and [SEP]
    write(tmp_path / "a.csv", pd.DataFrame({"text": [long, f"{long} bad bad bad", f"bad {long}"]}))
    found = read(predict_file(student, tmp_path / "a.csv", ["text"], tmp_path / "b.csv"))["probability_positive"]
    assert found[0] == found[1] != found[2]


def test_a_classifier_without_a_record_is_cut_at_its_tokenizer_s_length(tmp_path: Path) -> None:
    model = noisy_copy(BertModel(bert_config(2)), ("no", "yes"))
    folder = save_model(model, tmp_path / "model")
    assert load_student(folder).max_length == load_tokenizer(folder).model_max_length == 64
    assert load_student(folder).columns == ()


def test_a_regression_gives_one_column_of_values(tmp_path: Path) -> None:
    model = noisy_copy(BertModel(bert_config(2)), ("one", "two"))
    model.classifier = torch.nn.Linear(32, 1)
    model.config.num_labels, model.config.problem_type = 1, "regression"
    folder = save_model(model, tmp_path / "model")
    write(tmp_path / "a.tsv", pd.DataFrame({"text": TEXTS}))
    found = read(predict_file(folder, tmp_path / "a.tsv", ["text"], tmp_path / "b.tsv"))
    encoded = mini_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        values = model.eval()(**encoded).logits[:, 0].numpy()
    assert list(found) == ["text", "value_predicted"]
    assert np.abs(found["value_predicted"].astype(float) - values).max() < 1e-5


REFUSED = [  # file, its content, text columns, --out, the line
    ("a.csv", "id,text\n1,x\n", ["txt"], "b.csv", r"text_column = 'txt': .*a\.csv has no such column; it has id, text"),
    ("a.csv", "", ["text"], "b.csv", r".*a\.csv: no rows, it is empty"),
    ("a.csv", "text\n", ["text"], "b.csv", r".*a\.csv: no rows, it is empty"),
    ("a.jsonl", "", ["text"], "b.csv", r".*a\.jsonl: no rows, it is empty"),
    ("a.xlsx", "x", ["text"], "b.csv", r"file = '.*a\.xlsx': must end in \.csv, \.tsv, \.jsonl, \.parquet"),
    ("a.csv", "text\nx\n", ["text"], "b.txt", r"out = '.*b\.txt': must end in \.csv, \.tsv, \.jsonl, \.parquet"),
    ("a.csv", "text\nx\n", ["text"], "a.csv", r"out = '.*a\.csv': must be another file than the one that is read"),
    ("a.csv", "text\nx\n", ["text"], "no/b.csv", r"out = '.*b\.csv': must lie in a folder that is there"),
    ("a.csv", "text\nx\n", ["text", "text"], "b.csv", r"text_column = \('text', 'text'\): must be a tuple of 1 or .*"),
    ("a.csv", "text,text\nx,y\n", ["text"], "b.csv", r".*a\.csv: two columns 'text'; it has text, text"),
    ("a.csv", "id,text\n1,x\n2\n", ["text"], "b.csv", r".*a\.csv, row 1: 1 columns where the header has 2"),
    ("a.jsonl", '{"text": "x"}\n{"text": null}\n', ["text"], "b.csv", r".*, row 1: text is None, must be a text"),
    ("a.jsonl", '{"text": "x"}\n{"id": 1}\n', ["text"], "b.csv", r".*, row 1: text is None, must be a text"),
    ("a.jsonl", '{"text": 5}\n', ["text"], "b.csv", r".*a\.jsonl, row 0: text is 5, must be a text"),
    ("a.jsonl", '{"text": "x", "no": "\\ud800"}\n', ["text"], "b.csv", r".*, row 0: no is not in UTF-8: .*"),
    ("a.csv", b"text\n\xff\n", ["text"], "b.csv", r".*a\.csv, row 0: text is not in UTF-8: .*"),
    ("a.csv", 'text\n"a\tb"\n', ["text"], "b.tsv", r"out = .*: a \.tsv holds no tab or line's end within a text: .*"),
    (
        "a.csv", "text,label_predicted\nx,y\n", ["text"], "b.csv",
        r".*a\.csv: has a column 'label_predicted' already: rename it, as that is added",
    ),
    (
        "a.csv", "text,probability_negative\nx,y\n", ["text"], "b.csv",
        r".*a\.csv: has a column 'probability_negative' already: rename it, as that is added",
    ),
    ("none.csv", None, ["text"], "b.csv", r"file = '.*none\.csv': no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "columns", "out", "line"), REFUSED)
def test_a_bad_input_is_one_line(
    name: str, content: str | bytes | None, columns: list[str], out: str, line: str, student: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    named = [word for column in columns for word in ("--text-column", column)]
    assert main(["predict", str(student), str(tmp_path / name), *named, "--out", str(tmp_path / out)]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(f"{line}\n", said), said
    assert [path.name for path in tmp_path.iterdir()] == ([name] if content is not None else [])


def test_a_student_that_is_none_and_a_batch_of_none_are_refused(student: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", pd.DataFrame({"text": ["x"]}))
    backbone = save_backbone(tmp_path / "backbone", bert_config(1))
    with pytest.raises(ValueError, match=r"backbone: not a fine-tuned classifier, classifier\.bias, .*missing$"):
        predict_file(backbone, tmp_path / "a.csv", ["text"], tmp_path / "b.csv")
    with pytest.raises(FileNotFoundError, match=r"^student = '\./nowhere': no such folder$"):
        predict_file("./nowhere", tmp_path / "a.csv", ["text"], tmp_path / "b.csv")
    with pytest.raises(ValueError, match=r"^batch_size = 0: must be at least 1$"):
        predict_file(student, tmp_path / "a.csv", ["text"], tmp_path / "b.csv", batch_size=0)


def test_the_command_runs_as_a_process_of_its_own(student: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", pd.DataFrame({"text": TEXTS}))
    command = [sys.executable, "-m", "pkdlib", "predict", str(student), "a.csv", "--text-column", "text"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    call = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([*command, "--out", "b.jsonl", "--batch-size", "3"], **call)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "The predictions: b.jsonl\n")
    assert read(tmp_path / "b.jsonl")["text"].tolist() == TEXTS


def test_transformers_pipeline_gives_the_same_names_and_probabilities(student: Path) -> None:
    classify = pipeline("text-classification", model=str(student), top_k=None)
    for text, row in zip(TEXTS, expected(student, TEXTS), strict=True):
        (scores,) = classify([text])
        scores = {one["label"]: one["score"] for one in scores}
        assert scores == pytest.approx(dict(zip(("negative", "positive"), row.tolist(), strict=True)), abs=1e-6)
