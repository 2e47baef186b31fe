"""Multiple choice, in RACE's layout: tokens, both losses by hand, trainings of every method, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    ENCODERS,
    bert_config,
    figures,
    mini_tokenizer,
    same_weights,
    save_backbone,
    save_race,
    shift_words,
    small_task,
)
from test_own_rows import papermill, run_cells
from transformers import AutoModel, AutoModelForMultipleChoice, BertForMultipleChoice, PreTrainedModel

from pkdlib import DistillConfig, FineTuneConfig, distill, evaluate, fine_tune, load_classifier, method_config, predict
from pkdlib.analysis.similarity import split_cls_states
from pkdlib.beyond.tinybert import TinyBERT
from pkdlib.config import ConfigError
from pkdlib.data import EncodedTask, Split, TaskData, encode_split, encode_task
from pkdlib.deploy.export import export_onnx
from pkdlib.deploy.predict import predict_file
from pkdlib.engine.last_layer import run
from pkdlib.evaluation import forward_split
from pkdlib.models import build_student, load_tokenizer
from pkdlib.objectives import PKD, pkd_wants
from pkdlib.readers.records import load_records
from pkdlib.readers.sources import load_task, reload_data
from pkdlib.records import RunRecord
from pkdlib.reports.archive import students_by_task
from pkdlib.targets import teacher_targets
from pkdlib.tasks import Task, get_task
from pkdlib.training import Run

NAMES = (*"ABCD",)
METHODS = ("FT", "KD", "PKD-Last", "PKD-Skip")
SMALL = {"num_train_epochs": 1, "train_batch_size": 8}


def choice_model(layers: int = 4, seed: int = 0) -> PreTrainedModel:
    body = AutoModel.from_config(bert_config(layers))
    return build_student(body, None, NAMES, init="random", seed=seed, chooses=True).eval()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return save_race(tmp_path_factory.mktemp("race"))


@pytest.fixture(scope="module")
def data(source) -> EncodedTask:
    return encode_task(load_task("race", source), mini_tokenizer(), 48)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def teacher(data, out) -> Run:
    config = FineTuneConfig(num_hidden_layers=4, num_train_epochs=2, train_batch_size=8)
    return fine_tune(data, config, output_dir=out / "teacher")


@pytest.fixture(scope="module")
def students(data, teacher, out) -> dict[str, Run]:
    config = DistillConfig(num_hidden_layers=2, num_train_epochs=3, train_batch_size=8)
    return {
        method: distill(data, method_config(method, config), out / "teacher", out / method, out / "cache")
        for method in METHODS
    }


# ------------------------------------------------------------------------------------------------------- tokens
def words(ids: torch.Tensor) -> str:
    tokens = mini_tokenizer().convert_ids_to_tokens(ids.tolist())
    return " ".join(token for token in tokens if token != "[PAD]")


def test_each_choice_is_read_with_the_article_which_is_cut_first() -> None:
    texts = (
        ["the doctor carried the dog ."] * 2,
        ["the dog", "a"],
        ["the cat was small", "the cat"],
    )
    split = encode_split(Split("train", texts, np.array([0, 1])), mini_tokenizer(), 11)
    batch = split[[1, 0]]
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "input_ids": (2, 2, 11), "token_type_ids": (2, 2, 11), "attention_mask": (2, 2, 11), "rows": (2,),
        "labels": (2,),
    }  # fmt: skip
    assert batch["labels"].tolist() == [1, 0]
    assert [words(ids) for ids in batch["input_ids"].flatten(0, 1)] == [
        "[CLS] the doctor carried the dog . [SEP] a [SEP]",
        "[CLS] the doctor carried the dog . [SEP] the cat [SEP]",
        "[CLS] the doctor carried the dog . [SEP] the dog [SEP]",
        "[CLS] the doctor carried the [SEP] the cat was small [SEP]",
    ]
    assert batch["attention_mask"].sum(-1).tolist() == [[10, 11], [11, 11]] and split.lengths.tolist() == [11, 11]
    assert batch["token_type_ids"][0, 0].tolist() == [0] * 8 + [1, 1, 0]
    assert split[[1]]["input_ids"].shape == (1, 2, 11) and split.padded_to(16)[[0]]["input_ids"].shape == (1, 2, 11)


def test_rows_without_a_label_are_left_out_with_all_their_choices(data) -> None:
    raw, texts = data.splits["train"], tuple([text, text] for text in ("a film", *"abcd"))
    few = encode_split(Split("train", texts, np.array([-100, 3])), mini_tokenizer(), 16)
    assert few.labelled()[[0]]["labels"].tolist() == [3] and len(few.labelled()) == 1
    assert torch.equal(few.labelled()[[0]]["input_ids"], few[[1]]["input_ids"])
    assert raw.choices == 4 and raw.lengths.tolist() == raw.sequence_lengths.max(axis=1).tolist()


def test_texts_that_are_equal_in_number_alone_are_refused() -> None:
    splits = {name: Split(name, (["a"],) * 4, np.array([0])) for name in ("train", "dev")}
    line = "the train split of task race has 4 columns of texts: must be article, A, B, C, D"
    with pytest.raises(ValueError, match=f"^{line}$"):
        TaskData(get_task("race"), splits, "here")


def test_a_choice_is_a_task_whose_labels_name_its_columns() -> None:
    assert get_task("race").choices == 4 and get_task("rte").choices == get_task("stsb").choices == 0
    assert Task("swag", ("start", "0", "1"), ("0", "1")).choices == 2
    for fields, line in (
        ({"metrics": ("f1",)}, "metrics = 'f1': must be one of accuracy"),
        ({"columns": ("0", "0", "1")}, "columns = ('0', '0', '1'): must be a tuple of at least 1 different names"),
        ({"columns": ("start", "1", "0")}, "columns = ('start', '1', '0'): must be a tuple of 1 or 2 different names"),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
            Task(**{"name": "swag", "columns": ("start", "0", "1"), "label_names": ("0", "1")} | fields)


# ------------------------------------------------------------------------------------------------------- the loss
@pytest.mark.parametrize("pairs", [{1: 2}, {1: 1, 2: 3}], ids=["one layer", "two layers"])
def test_the_loss_is_over_a_question_s_choices_and_patience_the_mean_over_all_choices(data, pairs: dict) -> None:
    """All three terms by hand, choice by choice, from single sequences and no library function."""
    teacher, student = choice_model(4), choice_model(len(pairs) + 1, seed=1)
    settings = {"alpha": 0.7, "beta": 0.3, "temperature": 2.0, "num_hidden_layers": len(pairs) + 1}
    objective = PKD(DistillConfig(**settings, strategy=[*pairs.values()]), student, teacher)
    assert list(objective.layers) == [*pairs.values()]
    batch = data.splits["train"][[0, 3, 5]]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        said = teacher(**inputs, output_hidden_states=True)
        wanted = {name: want(said) for name, want in objective.wants.items()}
        assert {name: tuple(value.shape) for name, value in wanted.items()} == {
            "teacher_logits": (3, 4), **{f"teacher_cls_{layer}": (3, 4, 32) for layer in pairs.values()},
        }  # fmt: skip
        output = student(**inputs, output_hidden_states=True)
        terms = objective(output, batch | wanted)

        loss_ce = loss_kd = loss_pt = 0.0
        for question in range(3):
            scores: dict[str, list[float]] = {"teacher": [], "student": []}
            for choice in range(4):
                length = int(batch["attention_mask"][question, choice].sum())
                one = {name: tensor[question, choice, :length][None] for name, tensor in inputs.items()}
                states = {}
                for name, model in (("teacher", teacher), ("student", student)):
                    body = model.bert(**one, output_hidden_states=True)
                    scores[name].append(model.classifier(body.pooler_output).item())
                    taken = [body.hidden_states[pair[name == "teacher"]][0, 0] for pair in pairs.items()]
                    states[name] = [state / state.square().sum().sqrt() for state in taken]
                for ours, theirs in zip(states["student"], states["teacher"], strict=True):
                    loss_pt += (ours - theirs).square().sum().item() / 12
            exp = {name: np.exp(np.array(values) / 2.0) for name, values in scores.items()}
            soft = {name: values / values.sum() for name, values in exp.items()}
            loss_kd += -(soft["teacher"] * np.log(soft["student"])).sum() * 2.0**2 / 3
            plain = np.exp(scores["student"]) / np.exp(scores["student"]).sum()
            loss_ce += -np.log(plain[batch["labels"][question]]) / 3
    loss = 0.3 * loss_ce + 0.7 * loss_kd + 0.3 * loss_pt
    assert [term.item() for term in terms] == pytest.approx([loss, loss_ce, loss_kd, loss_pt], abs=1e-5)
    assert loss_pt > 0.05


def test_the_last_layer_for_cls_alone_gives_the_same_logits(data) -> None:
    model, batch = choice_model(), data.splits["dev"][[0, 1]]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        whole, alone = run(model, inputs), run(model, inputs, cls_alone=True, output_hidden_states=True)
        assert alone.hidden_states[-1].shape == (8, 1, 32)
        torch.testing.assert_close(whole.logits, alone.logits, atol=1e-5, rtol=0)
        body = run(model.base_model, inputs, output_hidden_states=True)
    torch.testing.assert_close(body.hidden_states[2], alone.hidden_states[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_that_is_proved_can_choose(name: str, tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", ENCODERS[name])
    tokenizer = load_tokenizer(backbone)
    if getattr(ENCODERS[name], "type_vocab_size", 2) == 1:
        tokenizer.model_input_names = ["input_ids", "attention_mask"]  # as RoBERTa's own
    texts = tuple([text] * 3 for text in ("a good film", "a", "good", "film", "a film"))
    small = encode_split(Split("train", texts, None), tokenizer, 16)
    model = build_student(backbone, 2, NAMES, chooses=True).eval()
    logits = predict(model, small, batch_size=2)
    assert logits.shape == (3, 4) and logits.isfinite().all()
    with torch.no_grad():
        direct = model(**{key: value for key, value in small[[0, 1, 2]].items() if key != "rows"}).logits
    torch.testing.assert_close(logits, direct, atol=1e-5, rtol=0)
    states = split_cls_states(model, small)
    assert states.shape == (12, 2, 32)
    ((_, output),) = forward_split(model, small, asks={"output_hidden_states": True})
    assert pkd_wants([1])["teacher_cls_1"](output).shape == (3, 4, 32)


# --------------------------------------------------------------------------------------------- from rows to students
def test_a_teacher_and_students_of_every_method_learn_to_choose(data, teacher, students) -> None:
    assert isinstance(teacher.model, BertForMultipleChoice)
    for run_ in (teacher, *students.values()):
        record = run_.record
        assert record.metrics["dev"]["accuracy"] >= 0.9 and record.metrics["test"]["accuracy"] >= 0.9
        best = max(record.history, key=lambda row: (row["dev_accuracy"], -row["dev_loss"]))
        assert record.best_epoch == best["epoch"] and record.task == "race"
        assert record.metrics["dev"]["accuracy"] == best["dev_accuracy"]
        assert RunRecord.model_validate_json(record.model_dump_json()) == record
        assert record.get_task().choices == 4
    assert students["FT"].record.history[0]["train_loss_kd"] == 0
    assert students["KD"].record.history[0]["train_loss_kd"] > 0
    assert students["PKD-Skip"].record.layer_map == [2] and students["PKD-Last"].record.layer_map == [3]
    patience = [row["train_loss_pt"] for row in students["PKD-Skip"].record.history]
    assert patience[0] > patience[-1] > 0
    counts = np.bincount(data.splits["dev"].labels, minlength=4)
    assert teacher.record.majority["dev"] == {"accuracy": counts.max() / counts.sum()}  # of always the same place


def test_what_was_saved_is_read_as_it_was_by_this_kit_and_by_transformers(data, students, out) -> None:
    saved = load_classifier(out / "PKD-Skip")
    assert isinstance(saved, BertForMultipleChoice) and same_weights(saved, students["PKD-Skip"].model)
    dev = data.splits["dev"]
    scores = evaluate(saved, dev, data.task)
    assert scores == pytest.approx(students["PKD-Skip"].record.metrics["dev"])
    logits = predict(saved, dev, batch_size=5)
    theirs = AutoModelForMultipleChoice.from_pretrained(out / "PKD-Skip").eval()
    inputs = {name: tensor for name, tensor in dev[range(len(dev))].items() if name not in ("rows", "labels")}
    with torch.no_grad():
        torch.testing.assert_close(logits, theirs(**inputs).logits, atol=1e-5, rtol=0)
    right = (logits.argmax(-1).numpy() == dev.labels).mean()
    assert right == scores["accuracy"]
    card = (out / "PKD-Skip" / "README.md").read_text()
    assert "pipeline_tag: multiple-choice" in card and "It gives a choice of 4 texts for the first: A, B, C, D." in card


def test_the_rows_are_read_again_from_the_record(data, students) -> None:
    assert reload_data(students["KD"].record).fingerprints == data.fingerprints


def test_the_teacher_s_outputs_are_cached_by_question_and_choice(data, teacher, tmp_path) -> None:
    train, wants = data.splits["train"], pkd_wants([1, 3])
    asks = {"output_hidden_states": True, "cls_alone": True}
    targets = teacher_targets(teacher.model, train, wants, tmp_path, asks, batch_size=7)
    assert {name: tuple(array.shape) for name, array in targets.arrays.items()} == {
        "teacher_logits": (48, 4), "teacher_cls_1": (48, 4, 64), "teacher_cls_3": (48, 4, 64),
    }  # fmt: skip
    batch = train[[40]]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        output = teacher.model(**inputs, output_hidden_states=True)
    found = targets.of(torch.tensor([40]))
    torch.testing.assert_close(found["teacher_cls_3"][0].float(), output.hidden_states[3][:, 0], atol=4e-3, rtol=4e-3)
    torch.testing.assert_close(found["teacher_logits"].float(), output.logits, atol=4e-3, rtol=4e-3)


def test_an_own_function_that_forgets_the_choices_is_refused(data, teacher, tmp_path) -> None:
    wants = {"mine": lambda output: output.hidden_states[1][:, 0]}
    line = r"^wants.mine: gave \(\d+, 64\): must give a tensor of an entry for each of \d+ rows$"
    with pytest.raises(ValueError, match=line):
        teacher_targets(teacher.model, data.splits["train"], wants, tmp_path, {"output_hidden_states": True})


def test_the_encoder_s_states_come_a_sequence_each(data, teacher) -> None:
    dev = data.splits["dev"]
    states = split_cls_states(teacher.model, dev)
    assert states.shape == (4 * len(dev), 4, 64)
    torch.testing.assert_close(split_cls_states(teacher.model.base_model, dev), states, atol=1e-5, rtol=0)
    batch = dev[[2]]
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        output = teacher.model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(states[8:12, 1], output.hidden_states[2][:, 0], atol=1e-5, rtol=0)


def test_micro_batches_and_static_shapes_give_the_same_training(data, teacher, out) -> None:
    config = DistillConfig(num_hidden_layers=2, **SMALL)
    runs = {
        name: distill(data, config.model_copy(update=changes), teacher.model, cache_dir=out / "cache").record.history[0]
        for name, changes in (
            ("plain", {"dropout_epochs": 0}),
            ("micro", {"dropout_epochs": 0, "micro_batch_size": 3}),
            ("static", {"dropout_epochs": 0, "static_shapes": True}),
        )
    }
    for name in ("micro", "static"):
        assert runs[name]["train_loss"] == pytest.approx(runs["plain"]["train_loss"], rel=1e-4)
        assert runs[name]["dev_loss"] == pytest.approx(runs["plain"]["dev_loss"], abs=1e-4)


@pytest.mark.parametrize("changes", [{"distance": "cka"}, {"distance": "infonce"}, {"strategy": "alp"}])
def test_other_distances_and_maps_see_choices_as_rows(data, teacher, out, changes: dict) -> None:
    """The patience term of questions is that of their choices as so many single sequences."""
    config = DistillConfig(num_hidden_layers=2, **SMALL, **changes)
    teaching, student, single = choice_model(4), choice_model(2, seed=1), data.splits["train"][[0, 3, 5]]
    objective = PKD(config, student, teaching)
    inputs = {name: single[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        ours = student(**inputs, output_hidden_states=True)
        theirs = teaching(**inputs, output_hidden_states=True)
        of_questions = objective(ours, single | {name: want(theirs) for name, want in objective.wants.items()})
        as_rows = {f"teacher_cls_{layer}": theirs.hidden_states[layer][:, 0] for layer in objective.taken}
        of_rows = objective(ours, single | {"teacher_logits": theirs.logits} | as_rows)
    assert next(iter(as_rows.values())).shape == (12, 32)
    torch.testing.assert_close(of_questions, of_rows)
    record = distill(data, config, teacher.model, cache_dir=out / "cache").record
    assert record.history[0]["train_loss_pt"] > 0


def test_tinybert_compares_all_tokens_of_all_choices(data, teacher) -> None:
    record = distill(data, DistillConfig(num_hidden_layers=2, **SMALL), teacher.model, objective=TinyBERT).record
    assert record.history[0]["train_loss_attention"] > 0 and record.history[0]["train_loss_hidden"] > 0


def test_an_interrupted_distillation_goes_on_to_the_same_weights(data, students, out, tmp_path) -> None:
    def stop(epoch: int, model: object, history: dict) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    config = DistillConfig(num_hidden_layers=2, num_train_epochs=3, train_batch_size=8)
    arguments = (data, method_config("PKD-Skip", config), out / "teacher", tmp_path / "again", out / "cache")
    with pytest.raises(KeyboardInterrupt):
        distill(*arguments, on_epoch=stop)
    assert (tmp_path / "again" / "checkpoint.safetensors").is_file()
    again = distill(*arguments)
    assert same_weights(again.model, students["PKD-Skip"].model)
    assert figures(again.record) == figures(students["PKD-Skip"].record)


def test_students_start_from_a_teacher_that_chooses_and_learn_without_labels(data, teacher, out, tmp_path) -> None:
    more = tmp_path / "more.jsonl"
    rows = [{"article": "the dog sat .", "question": "the _ sat .", "options": ["dog", "car", "cat", "box"]}] * 5
    more.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wider = reload_data(teacher.record, str(more))
    assert wider.unlabelled_rows == 5 and len(wider.splits["train"]) == 53
    config = DistillConfig(num_hidden_layers=2, init="teacher", alpha=1.0, **SMALL)
    run_ = distill(wider, config, teacher.model, cache_dir=out / "cache")
    assert run_.record.unlabelled_rows == 5 and run_.record.history[0]["train_loss_ce"] > 0


def test_a_model_of_others_whose_classes_have_no_names_can_teach(data, teacher, out, tmp_path) -> None:
    teacher.model.save_pretrained(tmp_path / "theirs")
    mini_tokenizer().save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    config = json.loads(file.read_text())
    del config["id2label"], config["label2id"]  # as transformers' own example leaves it: two classes, LABEL_0, LABEL_1
    file.write_text(json.dumps(config))
    assert load_classifier(tmp_path / "theirs").config.num_labels == 2
    assert evaluate(load_classifier(tmp_path / "theirs"), data.splits["dev"], data.task) == pytest.approx(
        teacher.record.metrics["dev"]
    )
    student = distill(data, DistillConfig(num_hidden_layers=2, **SMALL), tmp_path / "theirs", cache_dir=out / "cache")
    assert student.record.history[0]["train_loss_kd"] > 0


# ------------------------------------------------------------------------------------------------ what is refused
def refused(call: Callable[[], object], line: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert re.fullmatch(line, str(error.value)), str(error.value)


def test_weights_of_classes_are_refused(data) -> None:
    line = "class_weights = .*: must be left out, race has no classes"
    for weights in (["balanced"], [1, 1, 1, 2]):
        refused(lambda weights=weights: fine_tune(data, FineTuneConfig(class_weights=weights)), line)


def test_heads_and_rows_that_do_not_fit_are_refused(data, teacher, tmp_path) -> None:
    dev, other = data.splits["dev"], small_task(dev=8)
    classifier = build_student(AutoModel.from_config(bert_config()), None, NAMES)
    line = ".*: cannot read the dev rows: each has 4 choices, its head does not choose: must be a model for multiple.*"
    refused(lambda: predict(classifier, dev), line)
    refused(lambda: evaluate(classifier, dev, data.task), line)
    refused(lambda: distill(data, DistillConfig(**SMALL, num_hidden_layers=2, beta=0), classifier, cache_dir=tmp_path),
            line.replace("dev", "train"))  # fmt: skip
    line = ".*: cannot read the dev rows: it chooses among the texts of a row, each has one"
    refused(lambda: evaluate(teacher.model, other.splits["dev"], other.task), line)


def test_other_tokens_are_seen_in_any_choice(data, tmp_path) -> None:
    backbone = save_backbone(tmp_path / "backbone")
    shift_words(backbone)
    line = f"{backbone}: its tokenizer gives other tokens than the rows have, first of .*"
    refused(lambda: fine_tune(data, FineTuneConfig(backbone=str(backbone), **SMALL)), line)


def test_prediction_of_files_export_and_glue_s_archive_refuse_in_one_line(students, out, tmp_path) -> None:
    student = out / "KD"
    (tmp_path / "rows.csv").write_text("text\na film\n")
    line = "student = .*: is a model for multiple choice: must be a classifier of texts"
    refused(lambda: predict_file(student, tmp_path / "rows.csv", ["text"], tmp_path / "out.csv"), line)
    refused(lambda: export_onnx(student, tmp_path / "onnx"), line)
    refused(lambda: students_by_task([student]), ".*: task = 'race': must be one of sst2, .*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv"]


# ---------------------------------------------------------------------------------------------------- notebooks
def test_a_teacher_and_students_of_race_by_the_notebooks_parameters_alone(source, tmp_path) -> None:
    """Notebook 01 by papermill's command, then 02, which reads the task from its record; and a level alone."""
    backbone = save_backbone(tmp_path / "backbone")
    teacher, students = tmp_path / "teacher", tmp_path / "students"
    named = {"task": "race", "source": source, "backbone": backbone, "num_train_epochs": 1, "max_length": 32}
    papermill("01", tmp_path / "01.ipynb", named | {"dataset_config": "middle", "output_dir": teacher})
    (record,) = load_records(teacher)
    assert (record.task, record.dataset_config, record.train_rows) == ("race", "middle", 24)
    of_students = {"teacher_dir": teacher, "output_dir": students, "num_train_epochs": 1}
    papermill("02", tmp_path / "02.ipynb", of_students, "{student_layers: [2]}")
    records = load_records(students)
    assert sorted(one.method for one in records) == sorted(METHODS)
    assert all(one.task == "race" and set(one.metrics) == {"dev", "test"} for one in records)


def test_the_paper_s_run_of_race_has_its_settings(source, tmp_path) -> None:
    backbone = save_backbone(tmp_path / "backbone", bert_config())
    found = run_cells("08", task="race", source=str(source), backbone=str(backbone), preset_of="", student_layers=[3],
                      methods=["FT", "PKD-Skip"], train_rows=16, output_dir=str(tmp_path / "out"))  # fmt: skip
    patient = found["runs"][-1].config
    assert {name: patient[name] for name in ("temperature", "alpha", "beta", "normalize", "form")} == {
        "temperature": 10, "alpha": 0.7, "beta": 1000, "normalize": False, "form": "official",
    }  # fmt: skip
    assert found["length"] == 64 and found["reference"].loc[(6, "PKD-Skip"), "paper_test"] == 60.34


def test_the_notebook_about_the_softmax_of_classes_refuses_a_teacher_that_chooses(teacher, out) -> None:
    with pytest.raises(
        ConfigError, match=r"^task = 'race': must be a task of classes, as this is about their softmax$"
    ):
        run_cells("03", teacher_dir=str(out / "teacher"), student_layers=2, output_dir=str(out / "03"))


@pytest.mark.parametrize("name", ["00", "06", "09"])
def test_notebooks_that_cannot_do_it_say_so_at_once(name: str) -> None:
    line = "^task = 'race': must be a task whose rows each have a label, not choices$"
    with pytest.raises(ConfigError, match=line):
        run_cells(name, task="race")
