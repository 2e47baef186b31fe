"""Several tasks at once: how their batches are mixed, that each learns what it would alone, what is kept of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    ENCODERS,
    figures,
    make_record,
    noisy_copy,
    same_weights,
    save_backbone,
    save_model,
    save_race,
    shift_words,
    small_data,
    small_task,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from pkdlib.analysis.comparisons import comparisons, setting_of, unique_runs
from pkdlib.analysis.tables import epoch_tables, students_of
from pkdlib.beyond.multitask import (
    MultiTaskConfig,
    MultiTaskRun,
    TaskBatches,
    TaskModels,
    _check,
    batches_per_epoch,
    distill_tasks,
    load_tasks,
    write_task,
)
from pkdlib.config import ConfigError, DistillConfig, method_config, validate
from pkdlib.data import EncodedTask, Split, TaskData, encode_task
from pkdlib.engine.batches import LengthGroupedBatches
from pkdlib.evaluation import evaluate, predict
from pkdlib.losses import pkd_loss
from pkdlib.models import build_student, load_backbone, load_classifier, load_tokenizer
from pkdlib.readers.records import load_records
from pkdlib.readers.sources import load_task
from pkdlib.tasks import Task
from pkdlib.training import distill

VALUES = {"num_hidden_layers": 2, "num_train_epochs": 2, "train_batch_size": 8, "learning_rate": 2e-3}
NAMES = ["a-score", "mini-inference", "mini-sentiment"]  # one value, three classes, two classes


def of_values(rows: int = 10) -> EncodedTask:
    """Texts with the number of their words as their value."""
    splits = {}
    for name in ("train", "dev"):
        texts = small_data(train=rows, dev=rows).splits[name].texts
        splits[name] = Split(name, texts, np.array([len(text.split()) / 10 for text in texts[0]], np.float32))
    task = Task("a-score", ("sentence",), ("words",), ("pearson",))
    return encode_task(TaskData(task, splits, "here"), load_tokenizer("data/mini-bert-12"), 64)


@pytest.fixture(scope="module")
def data() -> dict[str, EncodedTask]:
    made = (small_task(train=40), small_task("mini-inference", train=20), of_values())
    return {one.task.name: one for one in made}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def teachers(backbone: Path, data: dict[str, EncodedTask]) -> dict[str, PreTrainedModel]:
    body = load_backbone(backbone)
    return {name: noisy_copy(body, one.task.label_names, seed) for seed, (name, one) in enumerate(data.items())}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def settings(backbone: Path, **changes: object) -> MultiTaskConfig:
    return validate(MultiTaskConfig, backbone=str(backbone), **VALUES | changes)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def whole(backbone: Path, data, teachers, cache: Path, out: Path) -> MultiTaskRun:
    """All three tasks, by L_PKD, never interrupted."""
    return distill_tasks(list(data.values()), settings(backbone), teachers, out, cache)


# ------------------------------------------------------------------------------------------------------- the batches
@pytest.mark.parametrize(
    ("rows", "sampling", "expected"),
    [
        ([100, 25], "size", [10, 3]),
        ([100, 25], "sqrt", [9, 4]),  # of 13 batches two thirds and one third: 8.67 and 4.33
        ([900, 100, 25], "size", [90, 10, 3]),
        ([900, 100, 25], "sqrt", [69, 23, 11]),  # of 103, in parts of 30 : 10 : 5
        ([10_000, 1], "sqrt", [991, 10]),  # of 1001, in parts of 100 : 1
        ([20, 1], "sqrt", [2, 1]),  # of 3, in parts of 4.47 : 1: 2.45 and 0.55
        ([1000, 1, 1], "sqrt", [96, 3, 3]),
        ([7], "sqrt", [1]),
    ],
)
def test_an_epoch_has_each_task_s_share(rows: list[int], sampling: str, expected: list[int]) -> None:
    assert batches_per_epoch(rows, 10, sampling) == expected


def test_a_task_too_small_for_a_batch_has_one() -> None:
    assert batches_per_epoch([40_000, 1], 2000, "sqrt") == [21, 1]  # of 21, in parts of 200 : 1: 20.9 and 0.1


def mixed(sampling: str, **rows: int) -> TaskBatches:
    return TaskBatches({name: LengthGroupedBatches(np.arange(n), 4, 0) for name, n in rows.items()}, sampling, 0)


def test_by_size_every_row_comes_once_an_epoch_in_a_new_order() -> None:
    batches, orders = mixed("size", a=10, b=30), []
    for batches.epoch in (1, 2, 3):
        drawn = list(batches)
        assert len(drawn) == len(batches) == 3 + 8
        for task, rows in (("a", 10), ("b", 30)):
            assert sorted(row for name, own in drawn if name == task for row in own) == list(range(rows))
        orders.append([name for name, _ in drawn])
    assert len({tuple(order) for order in orders}) == 3
    assert max(len({*order[:3]}) for order in orders) == 2  # tasks are mixed, not one after the other


def test_by_the_root_passes_go_on_from_epoch_to_epoch() -> None:
    batches, drawn = mixed("sqrt", a=4, b=64), []  # 17 batches: 3.4 and 13.6
    assert batches.shares == [3, 14]
    for batches.epoch in (1, 2, 3, 4, 5, 6, 7, 8):
        drawn += list(batches)
    rows = Counter(row for name, own in drawn if name == "b" for row in own)
    assert len(rows) == 64 and {*rows.values()} == {7}  # 8 epochs of 14 batches are 7 passes of 16
    assert sum(name == "a" for name, _ in drawn) == 8 * 3
    batches.epoch = 5
    assert list(batches) == drawn[4 * 17 : 5 * 17]  # whatever was drawn before: a resumed run's batches are the same


# ------------------------------------------------------------------------------------------------------- the training
@pytest.mark.parametrize("method", ["FT", "PKD-Skip", "PKD-Rail"])  # the last one begins every epoch anew
def test_one_task_alone_is_trained_as_by_distill(method: str, backbone: Path, data, teachers, cache: Path) -> None:
    config = method_config(method, settings(backbone, projection=True))
    own = {name: getattr(config, name) for name in DistillConfig.model_fields}
    teacher = None if method == "FT" else teachers["mini-inference"]
    alone = distill(data["mini-inference"], validate(DistillConfig, **own), teacher, cache_dir=cache)
    given = {} if method == "FT" else {"mini-inference": teacher}
    run = distill_tasks([data["mini-inference"]], config, given, cache_dir=cache)
    record = run.records["mini-inference"]
    assert same_weights(run.models["mini-inference"], alone.model)
    assert figures(record)[:4] == figures(alone.record)[:4] and record.method == alone.record.method == method


def test_one_encoder_is_trained_with_heads_of_other_sizes(whole: MultiTaskRun, backbone: Path) -> None:
    assert [*whole.models] == [*whole.records] == NAMES
    encoders = {id(model.base_model) for model in whole.models.values()}
    assert len(encoders) == 1
    assert [model.config.num_labels for model in whole.models.values()] == [1, 3, 2]
    assert [model.classifier.out_features for model in whole.models.values()] == [1, 3, 2]
    assert not any(module.training for model in whole.models.values() for module in model.modules())
    trained = whole.models["a-score"].base_model.encoder.layer[0].output.dense.weight
    assert not torch.equal(trained, load_backbone(backbone).encoder.layer[0].output.dense.weight)


def test_each_task_has_a_record_of_its_own(whole: MultiTaskRun, data, teachers, out: Path) -> None:
    for name, record in whole.records.items():
        assert (record.task, record.method, record.layer_map) == (name, "PKD-Skip", [2])
        assert record.config["tasks"] == NAMES and record.config["sampling"] == "size"
        assert record.metrics["dev"] == evaluate(whole.models[name], data[name].splits["dev"], data[name].task)
        best = record.history[record.best_epoch - 1]
        assert best["dev_loss"] == record.metrics["dev"]["loss"] and len(record.history) == 2
        assert record.num_parameters == load_classifier(write_task(out, name)).num_parameters()
    assert {record.best_epoch for record in whole.records.values()} == {whole.records["a-score"].best_epoch}
    assert len({record.fingerprints["teacher_weights"] for record in whole.records.values()}) == 3
    assert "train_accuracy" in whole.records["mini-sentiment"].history[0]
    assert "train_accuracy" not in whole.records["a-score"].history[0]


def test_the_terms_are_those_of_the_objective(backbone: Path, data, teachers, cache: Path) -> None:
    """Without a step that moves anything, an epoch's mean terms are those of all rows by `pkd_loss`."""
    config = settings(backbone, num_train_epochs=1, learning_rate=1e-12, dropout_epochs=0, train_batch_size=5)
    run = distill_tasks(list(data.values()), config, teachers, cache_dir=cache)
    for name, record in run.records.items():
        rows = data[name].splits["train"]
        batch = {key: tensor for key, tensor in rows[np.arange(len(rows))].items() if key not in ("rows", "labels")}
        with torch.no_grad():
            student = run.models[name](**batch, output_hidden_states=True)
            teacher = teachers[name](**batch, output_hidden_states=True)
        cls = [output.hidden_states[layer][:, :1] for output, layer in ((student, 1), (teacher, 2))]
        labels = torch.from_numpy(rows.labels)
        expected = pkd_loss(
            student.logits, labels, teacher.logits, *cls, alpha=0.7, beta=0.3, temperature=5.0, t_squared=True
        )
        for term, value in expected._asdict().items():
            assert record.history[0][f"train_{term}"] == pytest.approx(value.item(), rel=2e-3), (name, term)


def test_an_epoch_is_a_line_with_every_task_s_score_and_the_mean_chooses(
    backbone: Path, data, teachers, cache: Path, capsys
) -> None:
    seen: list[tuple[int, dict[str, float]]] = []

    def look(epoch: int, models: TaskModels, row: dict[str, float]) -> None:
        assert [*models.classifiers] == NAMES
        seen.append((epoch, row))

    config = method_config("KD", settings(backbone, num_train_epochs=3, sampling="sqrt"))
    run = distill_tasks([*data.values()][::-1], config, teachers, cache_dir=cache, on_epoch=look)
    printed = capsys.readouterr().out
    means = []
    for epoch in range(3):
        a, i, s = (
            run.records[name].history[epoch][f"dev_{metric}"]
            for name, metric in zip(NAMES, ("pearson", "accuracy", "accuracy"), strict=True)
        )
        means.append((a + i + s) / 3)
        line = f"dev a-score pearson {a:.4f}, mini-inference accuracy {i:.4f}, mini-sentiment accuracy {s:.4f}, mean"
        assert f"{line} {means[-1]:.4f}, " in printed
        assert seen[epoch + 1][1]["mini-inference/dev_accuracy"] == i
    assert [epoch for epoch, _ in seen] == [0, 1, 2, 3] and seen[0][1] == {}
    best = run.records["a-score"].best_epoch
    assert means[best - 1] == max(means)
    ((line, table),) = epoch_tables(printed.partition("the model")[0])  # as notebooks fold them
    assert line.startswith(f"{' + '.join(NAMES)} KD 2 layers seed 0: dev a-score pearson") and len(table) == 3


def test_a_seed_gives_its_bits_in_whatever_order_the_tasks_are_given(
    whole: MultiTaskRun, backbone: Path, data, teachers, cache: Path
) -> None:
    again = distill_tasks([*data.values()][::-1], settings(backbone), teachers, cache_dir=cache)
    other = distill_tasks(list(data.values()), settings(backbone, seed=1), teachers, cache_dir=cache)
    for name in NAMES:
        assert same_weights(whole.models[name], again.models[name])
        assert figures(whole.records[name]) == figures(again.records[name])
        assert not same_weights(whole.models[name], other.models[name])


@pytest.mark.parametrize("sampling", ["size", "sqrt"])
def test_an_interrupted_run_goes_on_bit_for_bit(
    sampling: str, backbone: Path, data, teachers, cache: Path, tmp_path: Path, capsys
) -> None:
    def stop(epoch: int, *_: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    config = settings(backbone, num_train_epochs=3, sampling=sampling, projection=True)
    arguments = (list(data.values()), config, teachers)
    straight = distill_tasks(*arguments, cache_dir=cache)
    with pytest.raises(KeyboardInterrupt):
        distill_tasks(*arguments, tmp_path, cache, stop)
    assert {path.name for path in tmp_path.iterdir()} == {".writer.lock", "checkpoint.safetensors"}
    resumed = distill_tasks(*arguments, tmp_path, cache)
    assert "resumes after epoch 1/3" in capsys.readouterr().out
    assert not (tmp_path / "checkpoint.safetensors").exists()
    for name in NAMES:
        assert same_weights(straight.models[name], resumed.models[name])
        assert figures(straight.records[name]) == figures(resumed.records[name])


def test_weights_that_diverge_name_the_task(backbone: Path, data) -> None:
    config = method_config("FT", settings(backbone, learning_rate=1.0, max_grad_norm=1e30, warmup_ratio=0))
    with pytest.raises(FloatingPointError, match=r"^a-score FT 2 layers seed 0: the loss is not finite in epoch 1"):
        distill_tasks([spoiled(data["a-score"]), data["mini-sentiment"]], config, {})


def spoiled(task: EncodedTask) -> EncodedTask:
    """Values that no float32 can be squared in."""
    splits = {name: split.labelled() for name, split in task.splits.items()}
    for split in splits.values():
        split.labels = np.full_like(split.labels, 1e30)
    return EncodedTask(task.task, splits, task.tokenizer, task.max_length, task.reading, task.fingerprints)


# ------------------------------------------------------------------------------------------------------ what is kept
def logits_of(model: PreTrainedModel, task: EncodedTask) -> Tensor:
    return predict(model, task.splits["dev"])


def test_the_folder_has_the_encoder_once_and_gives_each_task_s_plain_classifier(
    whole: MultiTaskRun, data, out: Path, tmp_path: Path
) -> None:
    names = load_file(out / "model.safetensors").keys()
    assert {name.partition(".")[0] for name in names} == {"encoder", "heads"}
    assert sum(name.endswith("word_embeddings.weight") for name in names) == 1
    assert not {path.suffix for path in out.rglob("*")} & {".bin", ".pt", ".pkl"}
    loaded = load_tasks(out)
    for number, name in enumerate(NAMES):
        expected = logits_of(whole.models[name], data[name])
        assert torch.equal(logits_of(loaded.classifiers[name], data[name]), expected)
        place = write_task(out, name) if number else write_task(out, name, tmp_path / "elsewhere")
        assert place == (out / name if number else tmp_path / "elsewhere")
        plain = load_classifier(place, data[name].task.label_names)
        assert torch.equal(logits_of(plain, data[name]), expected)
        assert same_weights(plain, whole.models[name])
        assert load_records(place) == [whole.records[name]]
        assert "tasks" in (place / "README.md").read_text()
        assert load_tokenizer(place).get_vocab() == data[name].tokenizer.get_vocab()
    with pytest.raises(ConfigError, match=r"^task = 'rte': must be one of a-score, mini-inference, mini-sentiment$"):
        write_task(out, "rte")
    with pytest.raises(ValueError, match=r"must not be .*, which this run reads"):
        write_task(out, "a-score", out)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_tasks(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"cannot be loaded: FileNotFoundError: .*tasks\.json"):
        load_tasks(tmp_path)


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_encoder_is_kept_with_all_its_heads(kind: str, tmp_path: Path) -> None:
    body = AutoModel.from_config(ENCODERS[kind])
    models = TaskModels({name: build_student(body, 2, labels) for name, labels in (("a", ["x"]), ("b", ["y", "z"]))})
    with torch.no_grad():
        for parameter in models.parameters():
            parameter += torch.randn_like(parameter) / 10
    own = {id(parameter) for model in models.classifiers.values() for parameter in model.parameters()}
    assert own == {id(parameter) for parameter in models.parameters()}
    models.save_pretrained(tmp_path)
    loaded, ids = load_tasks(tmp_path), torch.arange(10, 20)[None]
    for name, model in models.eval().classifiers.items():
        assert same_weights(model, loaded.classifiers[name])
        with torch.no_grad():
            expected = model(input_ids=ids).logits
            assert torch.equal(loaded(input_ids=ids, **{f"task:{name}": ids}).logits, expected)


def test_a_task_of_multiple_choice_is_trained_beside_one_of_classes(
    backbone: Path, data, teachers, cache: Path, tmp_path: Path
) -> None:
    race = encode_task(load_task("race", save_race(tmp_path / "race", 8, 4)), load_tokenizer(backbone), 64)
    both = {"mini-sentiment": data["mini-sentiment"], "race": race}
    choosing = build_student(backbone, None, race.task.label_names, seed=1, chooses=True).eval()
    taught = {"mini-sentiment": teachers["mini-sentiment"], "race": choosing}
    config = settings(backbone, num_train_epochs=1)
    run = distill_tasks([*both.values()], config, taught, tmp_path / "out", cache)
    for name, one in both.items():
        plain = load_classifier(write_task(tmp_path / "out", name), one.task.label_names)
        assert torch.equal(logits_of(plain, one), logits_of(run.models[name], one))
        assert type(plain) is type(run.models[name])


def test_a_record_without_a_model_is_no_student_yet(
    backbone: Path, data, teachers, cache: Path, tmp_path: Path
) -> None:
    save_model(teachers["mini-sentiment"], tmp_path / "teacher")
    config = method_config("KD", settings(backbone, num_train_epochs=1))
    given = {"mini-sentiment": str(tmp_path / "teacher")}
    distill_tasks([data["mini-sentiment"]], config, given, tmp_path / "students", cache)
    assert students_of(tmp_path / "teacher", tmp_path / "students") == []
    place = write_task(tmp_path / "students", "mini-sentiment")
    assert [folder for folder, _ in students_of(tmp_path / "teacher", tmp_path / "students")] == [place]


def test_runs_of_several_tasks_are_never_compared_as_one_with_runs_of_one() -> None:
    alone = [make_record(f"alone-{seed}", seed=seed) for seed in (1, 2)]
    config = validate(MultiTaskConfig, num_hidden_layers=3).model_dump() | {
        "tasks": ["mini-inference", "mini-sentiment"]
    }
    several = [make_record(f"several-{seed}", seed=seed, config=config | {"seed": seed}) for seed in (1, 2)]
    roots = [make_record("root", config=config | {"seed": 1, "sampling": "sqrt"})]
    groups = comparisons([*alone, *several, *roots])
    assert sorted(sorted(run.run_id for run in one.records) for one in groups) == [
        ["alone-1", "alone-2"], ["root"], ["several-1", "several-2"],
    ]  # fmt: skip
    marks = several[0].fingerprints | {"other_rows": "a", "other_teachers": "b"}
    same, other = (several[0].model_copy(update={"fingerprints": marks | more}) for more in ({}, {"other_rows": "c"}))
    assert len(unique_runs([same, same])) == 1 and len(unique_runs([same, other])) == 2
    assert setting_of(alone[0])["tasks"] == "mini-sentiment"
    assert setting_of(several[0])["tasks"] == "mini-inference + mini-sentiment"


# --------------------------------------------------------------------------------------------------------- refusals
def test_what_does_not_fit_is_refused_before_any_training(backbone: Path, data, teachers, tmp_path: Path) -> None:
    one, two = data["mini-sentiment"], data["mini-inference"]
    config, ft = settings(backbone), method_config("FT", settings(backbone))
    unlabelled = small_data(train=8).splits
    unlabelled["train"] = Split("train", unlabelled["train"].texts, None)
    without = encode_task(TaskData(one.task, unlabelled, "here"), one.tokenizer, 64)
    other = save_backbone(tmp_path / "other")
    shift_words(other)
    shifted = encode_task(small_data("mini-inference", 8, 8), load_tokenizer(other), 64)
    outside = EncodedTask(
        Task("../out", ("sentence",), ("no", "yes")), one.splits, one.tokenizer, 64, one.reading, one.fingerprints
    )
    refused = {
        r"data = \[\]: must be at least one task": ([], ft, {}),
        r"data = \['mini-sentiment', 'mini-sentiment'\]: must be .* different names": ([one, one], ft, {}),
        r"data = \['\.\./out'\]: must be .* names that folders can have": ([outside], ft, {}),
        r"teachers = \['mini-sentiment'\]: must be one for each of mini-sentiment, mini-inference": (
            [one, two], config, {"mini-sentiment": teachers["mini-sentiment"]},
        ),
        r"teachers = \['rte'\]: must be one for each of mini-sentiment": ([one], ft, {"rte": str(backbone)}),
        "the train split of task mini-sentiment has no labels": ([two, without], ft, {}),
        "its tokenizer gives other tokens than the rows have": ([one, shifted], ft, {}),
    }  # fmt: skip
    for line, arguments in refused.items():
        with pytest.raises(ValueError, match=line):
            distill_tasks(*arguments, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"^processes = 2: must be 1 with several tasks$"):
        _check([one], ft, {}, processes=2)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("sampling", "uniform", "must be 'size' or 'sqrt'"),
        ("init", "teacher", "must be 'pretrained' or 'random'"),
        ("static_shapes", True, "must be False with several tasks"),
        ("static_shapes", None, "must be False with several tasks"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} = {value!r}: {allowed}$"):
        validate(MultiTaskConfig, **{name: value})
