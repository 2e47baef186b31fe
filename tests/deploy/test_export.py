"""A student as an ONNX file: its logits are PyTorch's, its last layer [CLS] alone, and a bad one is not left behind."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from deploy.test_predict import TEXTS, expected, read, train_student, write
from helpers import ENCODERS, bert_config, mini_tokenizer, noisy_copy, read_task, save_backbone, save_model
from transformers import AutoModel, AutoTokenizer, BertModel

from pkdlib import (
    FineTuneConfig,
    encode_task,
    fine_tune,
    load_classifier,
    load_records,
    load_task,
    load_tokenizer,
    predict,
    validate,
)
from pkdlib.data import Split, encode_split
from pkdlib.deploy.export import EXAMPLES, TOLERANCE, export_onnx
from pkdlib.deploy.predict import predict_file
from pkdlib.deploy.students import load_onnx, load_student, predict_onnx
from pkdlib.engine.files import ROOT
from pkdlib.reports.commands import main
from pkdlib.tasks import Task

FILES = {"config.json", "export.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_student(tmp_path_factory.mktemp("sentiment"), "mini-sentiment")


@pytest.fixture(scope="module")
def exported(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "onnx"
    assert main(["export", str(student), "--onnx", str(out), "--int8"]) == 0
    return out


def logits_of(folder: Path, texts: list[str], model: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Logits by onnxruntime alone, and by transformers alone, of texts padded together."""
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (found,) = session.run(None, {one.name: batch[one.name] for one in session.get_inputs()})
    with torch.inference_mode():
        return found, model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits.numpy()


def test_the_folder_has_all_that_is_needed_and_nothing_of_this_machine(exported: Path, student: Path) -> None:
    assert {path.name for path in exported.iterdir()} == FILES | {"model_int8.onnx"}
    for path in exported.iterdir():
        content = path.read_bytes()
        for place in (ROOT, student, Path(torch.__file__).parent, Path.home()):
            assert str(place).encode() not in content, path.name
    assert exported.stat().st_mode & 0o777 == student.stat().st_mode & 0o777


def test_the_check_is_on_the_dev_rows_and_its_figures_are_right(exported: Path, student: Path) -> None:
    report = json.loads((exported / "export.json").read_text())
    assert report["checked_on"] == "24 dev rows of mine" and report["student"] == "student"
    assert (report["max_length"], report["classes"]) == (32, ["negative", "positive"])
    models = report["models"]
    assert list(models) == ["pytorch", "onnx", "int8"]
    (record,) = load_records(student / "result.json")
    assert models["pytorch"]["accuracy"] == record.metrics["dev"]["accuracy"]
    assert models["pytorch"]["size_mb"] == pytest.approx(4e-6 * record.num_parameters)
    dev = pd.read_csv(student.parent / "rows" / "dev.csv")
    split = encode_split(Split("dev", (dev["sentence"].tolist(),), dev["label"].to_numpy()), mini_tokenizer(), 32)
    ours = predict(load_classifier(student), split)
    for name, file in (("onnx", "model.onnx"), ("int8", "model_int8.onnx")):
        logits, figures = predict_onnx(load_onnx(exported / file), split), models[name]
        assert figures["max_difference"] == pytest.approx((logits - ours).abs().max().item(), abs=1e-6)
        assert figures["accuracy"] == (logits.argmax(-1).numpy() == split.labels).mean()
        assert figures["agreement"] == (logits.argmax(-1) == ours.argmax(-1)).double().mean().item()
        assert figures["size_mb"] == (exported / file).stat().st_size / 1e6
        assert figures["latency_ms_1"] > 0 and figures["latency_ms_32"] > 0
    assert models["onnx"]["max_difference"] <= TOLERANCE < models["int8"]["max_difference"] < 0.5
    assert models["int8"]["size_mb"] < models["onnx"]["size_mb"]


def test_the_table_names_every_figure(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", str(student), "--onnx", str(tmp_path / "out")]) == 0
    first, header, pytorch, onnx_row, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Checked on 24 dev rows of mine; latency of 32 tokens, \d+ threads", first)
    columns = ["size_mb", "max_difference", "agreement", "accuracy", "latency_ms_1", "latency_ms_32"]
    assert header.split() == columns and last == f"The export: {tmp_path / 'out'}"
    assert (pytorch.split()[0], onnx_row.split()[0], len(onnx_row.split())) == ("pytorch", "onnx", 7)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_the_last_layer_is_of_cls_alone_and_the_others_of_all_positions(exported: Path) -> None:
    graph = onnx.load(exported / "model.onnx").graph
    shapes = {
        one.name: [size.dim_param or size.dim_value for size in one.type.tensor_type.shape.dim]
        for one in graph.value_info
    }
    wide = [shapes.get(node.output[0]) for node in graph.node if node.op_type == "MatMul"]
    assert [shape for shape in wide if shape and shape[-1] == 64] == [["batch", "length", 64], ["batch", 1, 64]]
    inputs = {one.name: [size.dim_param for size in one.type.tensor_type.shape.dim] for one in graph.input}
    assert inputs == {name: ["batch", "length"] for name in ("input_ids", "token_type_ids", "attention_mask")}


@pytest.mark.parametrize("name", ENCODERS)
def test_any_batch_and_length_give_pytorch_s_logits(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = noisy_copy(AutoModel.from_config(ENCODERS[name]), ("no", "yes"))
    folder = save_model(model, tmp_path / "model")
    if name not in ("bert", "electra", "albert"):
        tokenizer = load_tokenizer(folder)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(folder)
    report = export_onnx(folder, tmp_path / "out")
    assert capsys.readouterr().out == (
        f"{folder}: checked on {len(EXAMPLES)} example texts, not on its dev rows: it has no record\n"
    )
    assert report["models"]["onnx"]["max_difference"] <= TOLERANCE and "accuracy" not in report["models"]["onnx"]
    for texts in (["a"], [""], TEXTS, [" ".join(["good"] * 100), "bad"], ["it is good"] * 33):
        onnx_logits, logits = logits_of(tmp_path / "out", texts, model)
        assert np.abs(onnx_logits - logits).max() < 1e-5 and logits.std() > 1e-4


def test_an_export_predicts_as_the_student_does(exported: Path, student: Path, tmp_path: Path) -> None:
    long = " ".join(["good"] * 40)  # cut at 32 tokens, in both
    file = write(tmp_path / "a.csv", pd.DataFrame({"text": [*TEXTS, long]}))
    ours, theirs, int8 = (
        read(predict_file(place, file, ["text"], tmp_path / "b.jsonl"))
        for place in (student, exported, exported / "model_int8.onnx")
    )
    column = "probability_positive"
    difference = (ours[column].astype(float) - theirs[column].astype(float)).abs().max()
    assert difference < 1e-5 and ours["label_predicted"].equals(theirs["label_predicted"])
    assert 1e-5 < (ours[column].astype(float) - int8[column].astype(float)).abs().max() < 0.1
    assert load_student(exported).max_length == 32


def test_a_file_may_be_checked_with_and_pairs_are_exported_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    student = train_student(tmp_path, "mini-inference")
    pairs = pd.DataFrame({"a": ["the cat is here", "a dog", "no"], "b": ["a cat", "no dog is here", "yes"]})
    file = write(tmp_path / "pairs.tsv", pairs)
    capsys.readouterr()
    named = ["--check", str(file), "--text-column", "a", "--text-column", "b"]
    assert main(["export", str(student), "--onnx", str(tmp_path / "out"), *named]) == 0
    assert capsys.readouterr().out.startswith("Checked on 3 rows of pairs.tsv; ")
    shutil.move(tmp_path / "rows" / "dev.csv", tmp_path / "dev.csv")
    assert export_onnx(student, tmp_path / "other")["checked_on"] == f"{len(EXAMPLES)} example texts"
    assert re.search(r"example texts, not on its dev rows: .*rows: task mine has no dev split", capsys.readouterr().out)
    (tmp_path / "rows" / "dev.csv").write_text("sentence1,sentence2,label\na,b,neutral\n")
    assert export_onnx(student, tmp_path / "third")["checked_on"] == f"{len(EXAMPLES)} example texts"
    assert re.search(r"not on its dev rows: those of .*rows have changed since\n", capsys.readouterr().out)


def test_a_regression_is_compared_by_its_values_on_a_drawn_dev_split(tmp_path: Path) -> None:
    mini = read_task("mini-sentiment").splits["train"].take(np.arange(60))
    frame = pd.DataFrame({"sentence": mini.texts[0], "stars": [len(text) / 10 for text in mini.texts[0]]})
    (tmp_path / "rows").mkdir()
    frame.to_csv(tmp_path / "rows" / "train.csv", index=False)
    task = Task("stars", ("sentence",), ("stars",), ("pearson",), "stars")
    data = encode_task(load_task(task, tmp_path / "rows", dev_fraction=0.2), mini_tokenizer(), 32)
    backbone = save_backbone(tmp_path / "backbone", bert_config(2))
    fine_tune(data, validate(FineTuneConfig, backbone=str(backbone), num_train_epochs=1), tmp_path / "student")
    report = export_onnx(tmp_path / "student", tmp_path / "out", int8=True)
    assert report["checked_on"] == "12 dev rows of stars"
    scores = {"size_mb", "max_difference", "latency_ms_1", "latency_ms_32"}
    assert all(figures.keys() == scores for figures in report["models"].values())
    write(tmp_path / "a.jsonl", frame[["sentence"]])
    ours, theirs = (
        read(predict_file(tmp_path / name, tmp_path / "a.jsonl", ["sentence"], tmp_path / "b.csv"))
        for name in ("student", "out")
    )
    assert list(ours) == list(theirs) == ["sentence", "value_predicted"]
    values = [found["value_predicted"].astype(float) for found in (ours, theirs)]
    assert (values[0] - values[1]).abs().max() < 1e-5 and values[0].nunique() > 10


def test_logits_that_differ_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = noisy_copy(BertModel(bert_config(2)), ("no", "yes"))
    with torch.no_grad():
        model.classifier.weight *= 1e5  # whose logits are right to some 7 digits, which is not 1e-4 any more
    folder = save_model(model, tmp_path / "model")
    capsys.readouterr()
    assert main(["export", str(folder), "--onnx", str(tmp_path / "out"), "--int8"]) == 2
    said = capsys.readouterr().err
    line = r".*/model: logits of ONNX and PyTorch differ by [\d.e+-]+ on 8 example texts: must be at most 0\.0001\n"
    assert re.fullmatch(line, said), said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_exported_is_one_line(
    student: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    refused = {
        (str(student), "full"): r"onnx = '.*/full': must be a new or an empty folder",
        (str(student), "full/a"): r"onnx = '.*/full/a': must be a new or an empty folder",
        (str(student), "no/out"): r"onnx = '.*/no/out': must lie in a folder that is there",
        (str(student), "out", "--check", "a.csv"): r"check and text_column: must be given together",
        (str(exported), "out"): r"student = '.*/onnx': must be a folder of weights, not an export",
        (str(student), "out", "--check", "a.csv", "--text-column", "x"): r"check = 'a\.csv': no such file",
        (str(tmp_path / "full"), "out"): r".*/full: cannot be loaded: .+",
    }
    for (place, out, *more), line in refused.items():
        assert main(["export", place, "--onnx", str(tmp_path / out), *more]) == 2
        said = capsys.readouterr().err
        assert re.fullmatch(f"{line}\n", said), said
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    (broken / "model.onnx").write_bytes(b"x")
    write(tmp_path / "a.csv", pd.DataFrame({"text": ["x"]}))
    with pytest.raises(ValueError, match=r"model\.onnx: cannot be loaded: .+") as error:
        predict_file(broken, tmp_path / "a.csv", ["text"], tmp_path / "b.csv")
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"full", "broken", "a.csv"}


def test_the_guide_s_code_runs(student: Path, exported: Path, tmp_path: Path, monkeypatch) -> None:
    page = (ROOT / "notebooks" / "guide" / "use-a-student.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "runs").mkdir()
    shutil.copytree(student, tmp_path / "runs" / "my-student")
    shutil.copytree(exported, tmp_path / "runs" / "my-student-onnx")
    write(tmp_path / "reviews.csv", pd.DataFrame({"text": TEXTS}))
    monkeypatch.chdir(tmp_path)
    with_files = {
        name: code for code in blocks for name in ("predict_file", "pipeline", "push", "onnx") if name in code
    }
    assert set(with_files) == {"predict_file", "pipeline", "push", "onnx"}
    for name in ("predict_file", "pipeline", "onnx"):
        names: dict = {}
        exec(with_files[name].replace('"runs/', f'"{tmp_path}/runs/'), names)
        if name == "onnx":
            texts = ["a warm and honest film", "not good at all"]
            assert np.abs(names["probabilities"] - expected(student, texts)).max() < 1e-5
    assert read(tmp_path / "labelled.csv")["text"].tolist() == TEXTS
    compile(with_files["push"], "push", "exec")  # to a hub, which is not here
