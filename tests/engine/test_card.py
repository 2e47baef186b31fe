"""The model card beside a trained model: what it says, that the hub's reader reads it, what it never touches."""

from pathlib import Path

import pytest
from helpers import bert_config, make_record, noisy_copy, save_backbone, save_model, small_task
from huggingface_hub import ModelCard
from scipy.stats import binomtest
from transformers import BertModel

from pkdlib import DistillConfig, FineTuneConfig, distill, fine_tune, load_task, validate
from pkdlib.engine.card import MARK, card, wilson_interval, write_card
from pkdlib.records import RESULT_FILE
from pkdlib.tasks import get_task


def record(**changes: object) -> dict:
    fields = {"eval_rows": {"dev": 24, "test": 40}, "majority": {"dev": {"accuracy": 0.5}, "test": {"accuracy": 0.7}}}
    return make_record(**fields | {"task_definition": get_task("mini-sentiment")} | changes).model_dump()


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (5, 5), (18, 24), (277, 872), (1, 1)])
def test_the_interval_is_scipy_s(right: int, rows: int) -> None:
    expected = binomtest(right, rows).proportion_ci(method="wilson")
    assert wilson_interval(right / rows, rows) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_hub_s_reader_finds_every_score() -> None:
    read = ModelCard(card(record()))
    assert (read.data.library_name, read.data.pipeline_tag) == ("transformers", "text-classification")
    assert read.data.tags == ["pkdlib"] and read.data.base_model is None
    found = {(one.dataset_name, one.dataset_split, one.metric_type): one.metric_value for one in read.data.eval_results}
    task = "mini-sentiment"
    assert found == {(task, "dev", "accuracy"): 0.75, (task, "test", "accuracy"): 0.7}


def test_the_text_says_what_the_record_says() -> None:
    text = card(record(metrics={"dev": {"accuracy": 0.75, "f1": 0.8, "loss": 0.5}, "test": {"accuracy": 0.7}}))
    low, high = binomtest(18, 24).proportion_ci(method="wilson")
    assert f"| dev | 24 | accuracy | 0.750 | {low:.3f} to {high:.3f} | 0.500 |\n" in text
    assert "| dev | 24 | f1 | 0.800 |  |  |\n" in text and "| loss |" not in text
    assert "It gives a class: negative, positive." in text and "at most 64 tokens" in text and "2,000 rows" in text
    assert "| alpha | 0.7 |\n" in text and "| num_hidden_layers | 3 |\n" in text
    assert "- On test its scores are those of always naming the most frequent class" in text
    assert "- On dev its scores" not in text and "one seed (1)" in text


def test_a_backbone_of_the_hub_is_named_and_a_path_is_not_told(tmp_path: Path) -> None:
    config = make_record().config
    text = card(record(config=config | {"backbone": "google-bert/bert-base-uncased"}))
    assert ModelCard(text).data.base_model == "google-bert/bert-base-uncased"
    assert "starts from `google-bert/bert-base-uncased`." in text
    (tmp_path / "my-bert").mkdir()
    text = card(record(config=config | {"backbone": str(tmp_path / "my-bert")}, source=str(tmp_path / "rows")))
    assert ModelCard(text).data.base_model is None
    assert "starts from `my-bert`." in text and "Data: rows, " in text and str(tmp_path) not in text
    assert ModelCard(card(record())).data.base_model is None  # data/mini-bert-12, which might be a hub id


def test_what_it_starts_from_and_who_taught_it_are_told_apart() -> None:
    config, taught = make_record().config | {"init": "teacher"}, {"fingerprints": {"teacher_weights": "abc"}}
    assert "starts from its teacher's first layers and was taught by" in card(record(config=config, **taught))
    text = card(record(config=config, method="FT", **taught))
    assert "starts from its teacher's first layers.\n" in text and "knowledge-distillation" not in text


def test_a_record_of_numbers_and_of_no_score_has_a_card() -> None:
    regression = record(
        metrics={"dev": {"pearson": -0.25, "loss": 1.0}}, majority={"dev": {}}, task_definition=get_task("stsb"),
        unlabelled_rows=1500,
    )  # fmt: skip
    text = card(regression)
    assert "| dev | 24 | pearson | -0.250 |  |  |\n" in text and "It gives a number: similarity." in text
    assert "2,000 labelled and 1,500 unlabelled rows for training" in text
    assert ModelCard(text).data.eval_results[0].metric_value == -0.25
    assert ModelCard(card(record(metrics={}, eval_rows={}))).data.eval_results is None


def test_a_training_leaves_its_card_and_another_one_its_own(tmp_path: Path) -> None:
    data, out = small_task(), tmp_path / "out"
    backbone = save_backbone(tmp_path / "backbone", bert_config(2))
    teacher = fine_tune(data, validate(FineTuneConfig, backbone=str(backbone), num_train_epochs=1), out)
    text = (out / "README.md").read_text()
    assert text == card(teacher.record.model_dump()) and "taught by" not in text and str(tmp_path) not in text
    changes = {"backbone": str(backbone), "num_train_epochs": 1, "num_hidden_layers": 2}
    student = distill(data, validate(DistillConfig, **changes), teacher.model, out, tmp_path / "cache")
    text = (out / "README.md").read_text()
    assert text == card(student.record.model_dump()) and "knowledge-distillation" in ModelCard(text).data.tags
    assert student.record.fingerprints["teacher_weights"] in text
    assert (out / "README.md").stat().st_mtime_ns <= (out / RESULT_FILE).stat().st_mtime_ns


def test_a_readme_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(b"My own words.\n")
    write_card(tmp_path, record())
    assert path.read_bytes() == b"My own words.\n"
    path.write_text(f"---\n---\n{MARK}\nAn earlier model's.\n")
    write_card(tmp_path, record())
    assert path.read_text() == card(record()) and [one.name for one in tmp_path.iterdir()] == ["README.md"]


def test_a_card_that_cannot_be_written_is_said_and_stops_nothing(tmp_path: Path, capsys) -> None:
    (tmp_path / "README.md").mkdir()
    write_card(tmp_path, record())
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'README.md'}: no model card written: IsADirectoryError: ")
    write_card(tmp_path / "other", {"config": {}})
    line = f"{tmp_path / 'other' / 'README.md'}: no model card written: KeyError: 'method'\n"
    assert capsys.readouterr().out == line and not (tmp_path / "other").exists()


def test_a_model_s_folder_is_still_no_dataset(tmp_path: Path) -> None:
    save_model(noisy_copy(BertModel(bert_config(1)), ("negative", "positive")), tmp_path / "model")
    write_card(tmp_path / "model", record())
    with pytest.raises(FileNotFoundError, match="no rows of task mini-sentiment there"):
        load_task("mini-sentiment", tmp_path / "model")
