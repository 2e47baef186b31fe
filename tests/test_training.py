"""The loops: what they compute, that they repeat bit for bit, what they refuse, and what they leave on disk."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from helpers import (
    bert_config,
    mini_tokenizer,
    noisy_copy,
    run_together,
    same_weights,
    save_backbone,
    save_model,
    shift_words,
    small_data,
    small_task,
    two_ranks,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import BertModel, PreTrainedModel

from pkdlib.analysis.similarity import split_cls_states
from pkdlib.analysis.tables import load_results
from pkdlib.config import ConfigError, DistillConfig, FineTuneConfig, method_name, validate
from pkdlib.data import EncodedTask, encode_task
from pkdlib.engine.batches import LengthGroupedBatches
from pkdlib.engine.checkpoints import CHECKPOINT_FILE, weights_fingerprint
from pkdlib.evaluation import evaluate, predict
from pkdlib.losses import kd_loss, patience_loss
from pkdlib.models import build_student, load_backbone, load_classifier, load_tokenizer
from pkdlib.readers.records import load_records
from pkdlib.readers.sources import load_task, reload_data
from pkdlib.records import RESULT_FILE
from pkdlib.training import Run, distill, fine_tune

STEADY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone without dropout."""
    return save_backbone(tmp_path_factory.mktemp("steady"), bert_config(**STEADY))


@pytest.fixture(scope="module")
def teacher(backbone: Path, data: EncodedTask) -> PreTrainedModel:
    return noisy_copy(load_backbone(backbone), data.task.label_names)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def tuning(backbone: Path, **changes) -> FineTuneConfig:
    values = {"backbone": str(backbone), "num_train_epochs": 2, "train_batch_size": 16, "learning_rate": 2e-3}
    return validate(FineTuneConfig, **values | changes)


def distilling(backbone: Path, **changes) -> DistillConfig:
    values = tuning(backbone).model_dump() | {"num_hidden_layers": 3}
    return validate(DistillConfig, **values | changes)


def figures(run: Run) -> list[dict[str, float]]:
    """The history without its clock."""
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in run.record.history]


def assert_same_run(first: Run, second: Run) -> None:
    """Equal weights, history and scores, bit for bit."""
    assert same_weights(first.model, second.model)
    assert first.record.fingerprints["weights"] == second.record.fingerprints["weights"]
    assert figures(first) == figures(second)
    assert first.record.metrics == second.record.metrics
    assert first.record.best_epoch == second.record.best_epoch


@contextmanager
def after_each_update(act: Callable[[torch.optim.Optimizer], None]) -> Iterator[None]:
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: act(optimizer))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def no_update() -> Iterator[None]:
    """What is refused must be refused before any training."""
    updates = []
    with after_each_update(updates.append):
        yield
    assert not updates


# --------------------------------------------------------------------------- one loop, one objective, same bits
def test_distillation_without_its_terms_is_fine_tuning(
    data: EncodedTask, backbone: Path, teacher: PreTrainedModel, tmp_path: Path
) -> None:
    plain = fine_tune(data, tuning(backbone, num_hidden_layers=3), method="FT")
    config = distilling(backbone, alpha=0, beta=0)
    student = distill(data, config, cache_dir=tmp_path / "cache")
    assert_same_run(plain, student)
    assert_same_run(plain, distill(data, config, teacher, cache_dir=tmp_path / "cache"))
    assert student.record.method == plain.record.method == "FT"
    assert not (tmp_path / "cache").exists()  # nobody asked for the teacher's outputs


@pytest.mark.parametrize(
    "changes", [{"strategy": "last"}, {"strategy": [1, 3]}, {"normalize": False, "strategy": "last"}]
)
def test_without_patience_its_settings_do_not_matter(
    changes: dict, data: EncodedTask, backbone: Path, teacher: PreTrainedModel, cache: Path
) -> None:
    kd = distill(data, distilling(backbone, beta=0), teacher, cache_dir=cache)
    other = distill(data, distilling(backbone, beta=0, **changes), teacher, cache_dir=cache)
    assert_same_run(kd, other)
    assert kd.record.method == other.record.method == "KD"
    assert kd.record.layer_map == []


def test_equal_seeds_give_equal_bits(data: EncodedTask, backbone: Path, teacher: PreTrainedModel, cache: Path) -> None:
    config = distilling(backbone, seed=5)
    first = distill(data, config, teacher, cache_dir=cache)
    torch.rand(17), np.random.rand(3)  # whatever ran in between
    second = distill(data, config, teacher, cache_dir=cache)
    assert_same_run(first, second)
    assert first.record.run_id == second.record.run_id
    other = distill(data, distilling(backbone, seed=6), teacher, cache_dir=cache)
    assert not same_weights(first.model, other.model)
    assert other.record.run_id != first.record.run_id


def test_methods_train_different_students(
    data: EncodedTask, backbone: Path, teacher: PreTrainedModel, cache: Path
) -> None:
    changes = [{"alpha": 0, "beta": 0}, {"beta": 0}, {"strategy": "skip"}, {"strategy": "last"}, {"init": "teacher"}]
    runs = [distill(data, distilling(backbone, **change), teacher, cache_dir=cache) for change in changes]
    assert len({run.record.fingerprints["weights"] for run in runs}) == len(runs)
    assert len({run.record.run_id for run in runs}) == len(runs)
    assert [run.record.layer_map for run in runs] == [[], [], [1, 2], [2, 3], [1, 2]]


def test_cold_and_warm_cache_give_equal_runs(
    data: EncodedTask, backbone: Path, teacher: PreTrainedModel, tmp_path: Path
) -> None:
    config = distilling(backbone)
    cold = distill(data, config, teacher, cache_dir=tmp_path / "cache")
    files = sorted((tmp_path / "cache").glob("*.npy"))
    written = [file.stat() for file in files]
    assert len(files) == 1 + len(cold.record.layer_map)  # the logits, and the [CLS] states of each matched layer
    warm = distill(data, config, teacher, cache_dir=tmp_path / "cache")
    assert [file.stat() for file in files] == written
    assert_same_run(cold, warm)
    save_model(teacher, tmp_path / "teacher")
    from_folder = distill(data, config, tmp_path / "teacher", cache_dir=tmp_path / "another")
    assert_same_run(cold, from_folder)
    assert from_folder.record.fingerprints == cold.record.fingerprints


def test_teacher_is_left_as_it_was(data: EncodedTask, backbone: Path, teacher: PreTrainedModel, cache: Path) -> None:
    before = weights_fingerprint(teacher)
    run = distill(data, distilling(backbone, init="teacher"), teacher, cache_dir=cache)
    assert weights_fingerprint(teacher) == before == run.record.fingerprints["teacher_weights"]
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())


# -------------------------------------------------------------------------------------------- how an epoch goes
@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ([1, 2], ""),
        ([2, 1], "layer map [2, 1]: is not in order, unlike the paper's\n"),
        ("one", "layer map [3, 3]: repeats a layer, unlike the paper's\n"),
        ([3, 3], "layer map [3, 3]: repeats a layer, unlike the paper's\n"),
    ],
)
def test_an_unusual_map_is_told_in_a_line_and_trained_on(
    strategy, told: str, data: EncodedTask, backbone: Path, teacher: PreTrainedModel, cache: Path, capfd
) -> None:
    config = distilling(backbone, strategy=strategy, num_hidden_layers=3, num_train_epochs=1)
    run = distill(data, config, teacher, cache_dir=cache)
    lines = capfd.readouterr().out.splitlines(keepends=True)
    assert "".join(line for line in lines if line.startswith("layer map")) == told
    assert run.record.layer_map == ([3, 3] if strategy == "one" else strategy)
    assert run.record.history[0]["train_loss_pt"] > 0


def test_a_student_may_start_from_random_weights(
    data: EncodedTask, backbone: Path, teacher: PreTrainedModel, cache: Path
) -> None:
    scratch, pretrained = (
        distill(data, distilling(backbone, init=init), teacher, cache_dir=cache) for init in ("random", "pretrained")
    )
    assert scratch.record.num_parameters == pretrained.record.num_parameters
    assert scratch.record.fingerprints["weights"] != pretrained.record.fingerprints["weights"]
    assert_same_run(scratch, distill(data, distilling(backbone, init="random"), teacher, cache_dir=cache))


def test_dropout_is_on_in_every_epoch_and_off_in_every_evaluation(data: EncodedTask, backbone: Path) -> None:
    seen = []

    def record(module: torch.nn.Module, *_) -> None:
        if isinstance(module, torch.nn.Dropout):
            seen.append("training" if torch.is_grad_enabled() else "evaluation")
            assert module.training == torch.is_grad_enabled()

    hook = register_module_forward_hook(record)
    try:
        fine_tune(data, tuning(backbone, num_train_epochs=3))
    finally:
        hook.remove()
    phases = [(phase, len(list(calls))) for phase, calls in groupby(seen)]
    assert [phase for phase, _ in phases] == ["training", "evaluation"] * 3
    training, evaluation = phases[0][1], phases[1][1]
    assert training == 3 * evaluation  # three batches of 16 rows, one pass over dev
    assert phases == [("training", training), ("evaluation", evaluation)] * 2 + [
        ("training", training), ("evaluation", 2 * evaluation),  # the last epoch's and the best epoch's
    ]  # fmt: skip


@pytest.mark.parametrize("micro_batch_size", [4, 5, 16, 100])
def test_micro_batches_do_not_change_the_gradient(
    micro_batch_size: int, data: EncodedTask, steady: Path, cache: Path
) -> None:
    teacher = noisy_copy(load_backbone(steady), data.task.label_names)
    config = distilling(steady)  # batches of 16, 16 and 8 rows
    whole = distill(data, config, teacher, cache_dir=cache)
    cut = distill(data, distilling(steady, micro_batch_size=micro_batch_size), teacher, cache_dir=cache)
    for one, two in zip(figures(whole), figures(cut), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)
    weights = cut.model.state_dict()
    for name, tensor in whole.model.state_dict().items():
        if not name.endswith("key.bias"):  # softmax ignores it: its gradient is rounding, which AdamW blows up
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)


def test_only_matrices_decay(data: EncodedTask, backbone: Path) -> None:
    groups = []
    with after_each_update(lambda optimizer: groups.append(optimizer.param_groups)):
        run = fine_tune(data, tuning(backbone, weight_decay=0.25))
    decayed, plain = groups[0]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.25, 0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    own = {id(parameter): name for name, parameter in run.model.named_parameters()}
    names = {own[id(parameter)] for parameter in plain["params"]}
    assert names == {name for name in own.values() if name.endswith("bias") or "LayerNorm" in name}
    assert len(decayed["params"]) + len(plain["params"]) == len(own)


@pytest.mark.parametrize(("warmup_ratio", "warmup"), [(0, 0), (0.1, 1), (0.25, 3), (0.5, 6), (1, 12)])
def test_learning_rate_rises_and_falls_linearly(
    warmup_ratio: float, warmup: int, data: EncodedTask, backbone: Path
) -> None:
    rates = []
    with after_each_update(lambda optimizer: rates.append([group["lr"] for group in optimizer.param_groups])):
        fine_tune(data, tuning(backbone, num_train_epochs=4, warmup_ratio=warmup_ratio, num_hidden_layers=1))
    updates = 12  # four epochs of three batches
    expected = [
        2e-3 * (update / warmup if update < warmup else (updates - update) / (updates - warmup))
        for update in range(updates)
    ]
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert all(first == second for first, second in rates)


@pytest.mark.parametrize("max_grad_norm", [1e-3, 0.1, 1e6])
def test_gradients_are_clipped(max_grad_norm: float, data: EncodedTask, backbone: Path) -> None:
    norms = []

    def record(optimizer: torch.optim.Optimizer) -> None:
        gradients = [parameter.grad.flatten() for group in optimizer.param_groups for parameter in group["params"]]
        norms.append(torch.cat(gradients).norm().item())

    with after_each_update(record):
        fine_tune(data, tuning(backbone, max_grad_norm=max_grad_norm, micro_batch_size=8))
    assert len(norms) == 6
    if max_grad_norm < 1:
        assert norms == pytest.approx([max_grad_norm] * 6, rel=1e-3)
    else:
        assert min(norms) > 0.1  # unclipped, so that the others were


def test_gradients_start_from_zero_at_each_update(data: EncodedTask, backbone: Path) -> None:
    left = []

    def forget(optimizer: torch.optim.Optimizer) -> None:
        left.append(optimizer.param_groups[0]["params"][0].grad.abs().sum().item())
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    config = tuning(backbone)
    with after_each_update(forget):
        forgetful = fine_tune(data, config)
    assert all(left)
    assert_same_run(fine_tune(data, config), forgetful)


@pytest.mark.parametrize("seed", range(3))
def test_best_epoch_is_kept(seed: int, data: EncodedTask, backbone: Path) -> None:
    run = fine_tune(data, tuning(backbone, num_train_epochs=5, learning_rate=3e-2, seed=seed, warmup_ratio=0))
    history, best = run.record.history, run.record.best_epoch
    ranks = [(epoch["dev_accuracy"], -epoch["dev_loss"]) for epoch in history]
    assert best == 1 + ranks.index(max(ranks))
    scores = evaluate(run.model, data.splits["dev"], data.task)
    assert run.record.metrics == {"dev": scores}  # test is unlabelled and train is not scored
    assert scores == {name: history[best - 1][f"dev_{name}"] for name in ("loss", "accuracy")}
    assert not run.model.training
    if seed == 0:
        assert best < 5  # so that the last epoch's weights would not do


def test_history_has_an_entry_per_epoch(
    data: EncodedTask, backbone: Path, teacher: PreTrainedModel, cache: Path
) -> None:
    run = distill(data, distilling(backbone, num_train_epochs=3, alpha=0.4, beta=2.5), teacher, cache_dir=cache)
    assert [epoch["epoch"] for epoch in run.record.history] == [1, 2, 3]
    names = {"loss", "loss_ce", "loss_kd", "loss_pt", "accuracy"}
    for epoch in run.record.history:
        expected = {"epoch", "seconds", "dev_loss", "dev_accuracy"} | {f"train_{name}" for name in names}
        assert epoch.keys() == expected
        weighted = 0.6 * epoch["train_loss_ce"] + 0.4 * epoch["train_loss_kd"] + 2.5 * epoch["train_loss_pt"]
        assert epoch["train_loss"] == pytest.approx(weighted, rel=1e-5)
        assert min(epoch["train_loss_ce"], epoch["train_loss_kd"], epoch["train_loss_pt"], epoch["seconds"]) > 0
        assert 0 <= epoch["train_accuracy"] <= 1
    plain = fine_tune(data, tuning(backbone)).record.history
    assert all(epoch["train_loss"] == epoch["train_loss_ce"] for epoch in plain)
    assert all(epoch["train_loss_kd"] == epoch["train_loss_pt"] == 0 for epoch in plain)


@pytest.mark.parametrize("changes", [{}, {"strategy": "last", "normalize": False}, {"form": "official"}])
def test_figures_of_a_student_that_stands_still(changes: dict, data: EncodedTask, steady: Path, cache: Path) -> None:
    """At a vanishing learning rate and without dropout, an epoch's means are those of one pass over the rows."""
    teacher = noisy_copy(load_backbone(steady), data.task.label_names)
    config = distilling(steady, learning_rate=1e-15, weight_decay=0, num_train_epochs=1, **changes)
    run = distill(data, config, teacher, cache_dir=cache)
    student = build_student(steady, 3, data.task.label_names, seed=config.seed)
    train, (epoch,) = data.splits["train"], run.record.history
    scores = evaluate(student, train, data.task)
    ours, theirs = split_cls_states(student, train)[:, :2], split_cls_states(teacher, train)
    matched = theirs[:, [1, 2]] if config.strategy == "last" else theirs[:, [0, 1]]
    kd = kd_loss(predict(student, train), predict(teacher, train), 5.0, config.form, t_squared=True)
    pt = patience_loss(ours, matched, config.normalize, config.form)
    assert epoch["train_loss_ce"] == pytest.approx(scores["loss"], rel=1e-4)
    assert epoch["train_accuracy"] == pytest.approx(scores["accuracy"])
    assert epoch["train_loss_kd"] == pytest.approx(kd.item(), rel=1e-3)
    assert epoch["train_loss_pt"] == pytest.approx(pt.item(), rel=1e-3)


# ------------------------------------------------------------------------------------------------- precisions
def test_precisions_one_after_the_other(
    data: EncodedTask, backbone: Path, teacher: PreTrainedModel, tmp_path: Path
) -> None:
    exact, rough = distilling(backbone), distilling(backbone, mixed_precision="bf16")
    before = distill(data, exact, teacher, cache_dir=tmp_path / "cache")
    half = distill(data, rough, teacher, tmp_path / "half", cache_dir=tmp_path / "cache")
    after = distill(data, exact, teacher, cache_dir=tmp_path / "cache")
    assert_same_run(before, after)
    assert not same_weights(before.model, half.model)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    for one, two in zip(figures(before), figures(half), strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.1)
        weighted = 0.3 * two["train_loss_ce"] + 0.7 * two["train_loss_kd"] + 0.3 * two["train_loss_pt"]
        assert two["train_loss"] == pytest.approx(weighted, rel=1e-5)  # bfloat16 keeps 3 digits, these are 5
    # The model that comes back is an ordinary one: it computes what its files compute.
    assert torch.equal(
        predict(half.model, data.splits["dev"]), predict(load_classifier(tmp_path / "half"), data.splits["dev"])
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine can")
def test_fp16_without_cuda_is_refused(
    data: EncodedTask, backbone: Path, teacher: PreTrainedModel, tmp_path: Path
) -> None:
    message = r"^mixed_precision = 'fp16': needs a CUDA device; allowed here: no, bf16$"
    with no_update(), pytest.raises(ConfigError, match=message):
        fine_tune(data, tuning(backbone, mixed_precision="fp16"), tmp_path / "run")
    with no_update(), pytest.raises(ConfigError, match=message):
        distill(data, distilling(backbone, mixed_precision="fp16"), teacher, tmp_path / "run", tmp_path / "cache")
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------- what is refused
def test_loss_that_is_not_finite_names_the_epoch(data: EncodedTask, tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "broken")
    broken = load_backbone(folder)
    with torch.no_grad():
        broken.encoder.layer[0].output.dense.weight.fill_(3e38)  # finite, as a checkpoint must be; sums of it are not
    broken.save_pretrained(folder)
    with pytest.raises(FloatingPointError, match=r"the loss is not finite in epoch 1; try a lower learning_rate"):
        fine_tune(data, tuning(folder), tmp_path / "run")
    assert not list((tmp_path / "run").glob("[!.]*"))


@pytest.mark.parametrize(("update", "epoch"), [(2, 1), (3, 1), (4, 2), (6, 2)])
def test_weights_that_diverge_name_the_epoch(update: int, epoch: int, data: EncodedTask, backbone: Path) -> None:
    """Also after the last batch, when only the dev split can show it."""
    updates = []

    def diverge(optimizer: torch.optim.Optimizer) -> None:
        updates.append(1)
        if len(updates) == update:
            optimizer.param_groups[0]["params"][-1].data.fill_(float("inf"))

    with after_each_update(diverge), pytest.raises(FloatingPointError, match=f"not finite in epoch {epoch};"):
        fine_tune(data, tuning(backbone))


@pytest.mark.parametrize("changes", [{}, {"alpha": 0}, {"beta": 0}, {"alpha": 0, "beta": 0, "init": "teacher"}])
def test_missing_teacher_is_refused(changes: dict, data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    with no_update(), pytest.raises(ValueError, match=r"needs (a|the fine-tuned) teacher$"):
        distill(data, distilling(backbone, **changes), cache_dir=tmp_path)


def test_patience_between_widths_is_refused_and_kd_is_not(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    narrow = noisy_copy(BertModel(bert_config(5, 16)), data.task.label_names)
    message = "^hidden_size: the teacher's is 16, the student's 32; the patience term compares equal widths"
    with no_update(), pytest.raises(ValueError, match=message):
        distill(data, distilling(backbone), narrow, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    run = distill(data, distilling(backbone, beta=0), narrow, cache_dir=tmp_path / "cache")
    assert run.record.method == "KD"


def test_plain_fine_tuning_starts_from_a_teacher_of_any_classes(data: EncodedTask, backbone: Path) -> None:
    """Its first layers alone are taken; the student's classes are the task's, in the task's order."""
    config = distilling(backbone, alpha=0, beta=0, init="teacher", num_train_epochs=1, warmup_ratio=1)
    for names in (("entailment", "neutral", "contradiction"), ("positive", "negative")):
        other = noisy_copy(load_backbone(backbone), names)
        run = distill(data, config, other)
        assert run.record.method == "FT" and run.model.config.id2label == {0: "negative", 1: "positive"}
        assert run.model.config.num_labels == 2
        assert run.record.fingerprints["teacher_weights"] == weights_fingerprint(other)


@pytest.mark.parametrize("changes", [{}, {"beta": 0}, {"alpha": 0}])
def test_teacher_of_another_task_is_refused(changes: dict, data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    other = noisy_copy(load_backbone(backbone), ("entailment", "neutral", "contradiction"))
    message = ": its classes are entailment, neutral, contradiction: must be negative, positive, in any order$"
    with no_update(), pytest.raises(ValueError, match=message):
        distill(data, distilling(backbone, **changes), other, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 1}, "^beta = 0.3: a student of one layer has no layer to match"),
        ({"num_hidden_layers": 9}, r"^num_hidden_layers = 9: must be in 1\.\.4"),
        ({"strategy": [1, 2, 3]}, "must be 2 teacher layers, one per student layer but the last"),
        ({"strategy": [3, 5]}, r"whole numbers in 1\.\.4"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    changes: dict, message: str, data: EncodedTask, backbone: Path, teacher: PreTrainedModel, tmp_path: Path
) -> None:
    with no_update(), pytest.raises(ValueError, match=message):
        distill(data, distilling(backbone, **changes), teacher, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_student_deeper_than_its_teacher_is_refused(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    shallow = noisy_copy(BertModel(bert_config(2)), data.task.label_names)
    with no_update(), pytest.raises(ValueError, match="must be between 1 and the teacher's 2 layers"):
        distill(data, distilling(backbone), shallow, cache_dir=tmp_path)


# ------------------------------------------------------------------------------------------- what a run leaves
def test_folder_of_a_run_is_complete(
    data: EncodedTask, backbone: Path, teacher: PreTrainedModel, cache: Path, tmp_path: Path
) -> None:
    run = distill(data, distilling(backbone), teacher, tmp_path / "runs" / "a", cache)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "a").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", RESULT_FILE} <= files.keys()
    assert not [name for name in files if name.endswith((".bin", ".part", ".pt", ".pkl")) or name == CHECKPOINT_FILE]
    assert files[RESULT_FILE] == max(files.values())
    (record,) = load_records(tmp_path / "runs")
    assert record == run.record
    assert record.versions["torch"] == version("torch")
    assert record.num_parameters == sum(parameter.numel() for parameter in run.model.parameters())
    (row,) = load_results(tmp_path / "runs").to_dict("records")
    assert (row["method"], row["num_hidden_layers"], row["layer_map"]) == ("PKD-Skip", 3, [1, 2])
    assert row["dev_accuracy"] == run.record.metrics["dev"]["accuracy"]
    reloaded = load_classifier(tmp_path / "runs" / "a")
    assert same_weights(reloaded, run.model)
    assert weights_fingerprint(reloaded) == record.fingerprints["weights"]
    assert torch.equal(predict(reloaded, data.splits["test"]), predict(run.model, data.splits["test"]))
    again = encode_task(small_data(), load_tokenizer(tmp_path / "runs" / "a"), 64)
    assert again.splits["train"].fingerprint == data.splits["train"].fingerprint


def test_run_that_fails_in_training_leaves_no_model(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    updates = []

    def fail(_: torch.optim.Optimizer) -> None:
        updates.append(1)
        if len(updates) == 4:
            raise KeyboardInterrupt

    with after_each_update(fail), pytest.raises(KeyboardInterrupt):
        fine_tune(data, tuning(backbone), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").glob("[!.]*")] == [CHECKPOINT_FILE]  # of the first epoch


def test_run_that_fails_in_saving_leaves_no_result(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    """Not even the one of an earlier run in that folder, whose weights it has overwritten."""
    fine_tune(data, tuning(backbone), tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").mkdir()  # cannot be written
    with pytest.raises(Exception, match=r"(?i)is a directory"):
        fine_tune(data, tuning(backbone, seed=1), tmp_path)
    assert not (tmp_path / RESULT_FILE).exists()


def test_result_file_is_plain_json(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    fine_tune(data, tuning(backbone), tmp_path)
    result = json.loads((tmp_path / RESULT_FILE).read_text())
    assert result["method"] == "teacher"
    assert result["config"]["num_hidden_layers"] == 4  # not null: what it was
    assert result["config"]["learning_rate"] == 2e-3
    assert (result["train_rows"], result["max_length"], len(result["history"])) == (40, 64, 2)


def write_rows(folder: Path, train: int = 30) -> None:
    """A small task's files, as a user would bring them."""
    for split, rows in small_data("mini-inference", train=train, dev=12).splits.items():
        names = ["sentence1", "sentence2"] + ["label"] * (rows.labels is not None)
        columns = [*rows.texts] + ([] if rows.labels is None else [map(str, rows.labels)])
        lines = ["\t".join(names), *map("\t".join, zip(*columns, strict=True))]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("train_rows", [None, 20])
def test_rows_of_a_run_are_read_again(train_rows: int | None, backbone: Path, tmp_path: Path) -> None:
    write_rows(tmp_path)
    read = load_task("mini-inference", tmp_path, train_rows=train_rows, subset_seed=7, bad_rows="skip")
    data = encode_task(read, mini_tokenizer(), 40)
    run = fine_tune(data, tuning(backbone, num_train_epochs=1), tmp_path / "run")
    (record,) = load_records(tmp_path / "run")
    again = reload_data(record)
    assert again.fingerprints == data.fingerprints
    assert (again.max_length, again.task, again.reading) == (40, data.task, data.reading)
    for name, split in data.splits.items():
        assert again.splits[name].fingerprint == split.fingerprint
    assert torch.equal(predict(run.model, again.splits["test"]), predict(run.model, data.splits["test"]))


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_rows_that_changed_since_are_refused(split: str, backbone: Path, tmp_path: Path) -> None:
    write_rows(tmp_path)
    data = encode_task(load_task("mini-inference", tmp_path), mini_tokenizer(), 40)
    record = fine_tune(data, tuning(backbone, num_train_epochs=1, num_hidden_layers=1)).record
    file = tmp_path / f"{split}.tsv"
    lines = file.read_text().split("\n")
    lines[1], lines[2] = lines[2], lines[1]
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"the {split} split of mini-inference is not the one of {record.run_id}$"):
        reload_data(record)


def test_tokens_that_changed_since_are_refused(backbone: Path, tmp_path: Path) -> None:
    write_rows(tmp_path)
    shutil.copytree(backbone, tmp_path / "backbone")
    data = encode_task(load_task("mini-inference", tmp_path), mini_tokenizer(), 40)
    record = fine_tune(data, tuning(tmp_path / "backbone", num_train_epochs=1, num_hidden_layers=1)).record
    assert reload_data(record).tokens == data.tokens == record.fingerprints["tokens"]
    shift_words(tmp_path / "backbone")
    with pytest.raises(ValueError, match=f"does not give the tokens on which {record.run_id} was trained$"):
        reload_data(record)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"alpha": 0, "beta": 0}, "FT"),
        ({"alpha": 0, "beta": 0, "strategy": "last"}, "FT"),
        ({"beta": 0}, "KD"),
        ({}, "PKD-Skip"),
        ({"alpha": 0}, "PKD-Skip"),
        ({"strategy": "last"}, "PKD-Last"),
        ({"strategy": [1, 4]}, "PKD-1,4"),
    ],
)
def test_method_names(changes: dict, name: str) -> None:
    assert method_name(validate(DistillConfig, **changes)) == name


# ------------------------------------------------------------------------------------------- several processes
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 60), batch_size=st.integers(1, 20), processes=st.integers(2, 4), epoch=st.integers(1, 3)
)  # fmt: skip
def test_processes_share_every_row(rows: int, batch_size: int, processes: int, epoch: int) -> None:
    batches = LengthGroupedBatches(np.arange(rows) % 7 + 3, batch_size, seed=0)
    batches.epoch = epoch
    shards = [BatchSamplerShard(batches, processes, index) for index in range(processes)]
    found = [list(shard) for shard in shards]
    assert {len(shard) for shard in found} == {len(shards[0])} == {-(-len(batches) // processes)}
    assert {row for shard in found for batch in shard for row in batch} == set(range(rows))


TOGETHER = """
import json, sys
from pathlib import Path
import torch
from accelerate import PartialState
from helpers import small_task
from pkdlib.config import DistillConfig, FineTuneConfig
from pkdlib.engine.checkpoints import weights_fingerprint
from pkdlib.models import load_classifier
from pkdlib.training import distill, fine_tune

torch.set_num_threads(1)
folder, data = Path(sys.argv[1]), small_task(train=36)
values = {"backbone": str(folder / "backbone"), "train_batch_size": 8, "learning_rate": 2e-3, "num_train_epochs": 3}
tuned = fine_tune(data, FineTuneConfig(**values), folder / "teacher")
config = DistillConfig(**values, num_hidden_layers=2, micro_batch_size=3, projection=True)
run = distill(data, config, folder / "teacher", folder / "student", folder / "cache")
still = {"backbone": str(folder / "steady"), "learning_rate": 1e-15, "num_train_epochs": 1}
found = {
    "processes": PartialState().num_processes,
    "weights": [weights_fingerprint(tuned.model), weights_fingerprint(run.model)],
    "metrics": [tuned.record.metrics, run.record.metrics],
    "still": fine_tune(data, FineTuneConfig(**values | still)).record.history[0],
}
del found["still"]["seconds"]
print("FOUND " + json.dumps(found), flush=True)
PartialState().destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="no gloo")
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    save_backbone(tmp_path / "backbone")
    save_backbone(tmp_path / "steady", bert_config(**STEADY))
    printed = run_together(TOGETHER, [str(tmp_path)], two_ranks())
    found = [json.loads(text.split("FOUND ")[1]) for text in printed]
    assert found[0] == found[1]
    assert found[0]["processes"] == 2
    assert "epoch 3/3" in printed[0]
    assert "epoch 3/3" not in printed[1]  # one of them speaks
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1 + 1  # logits, and [CLS] states of one layer
    for name, fingerprint in zip(("teacher", "student"), found[0]["weights"], strict=True):
        assert weights_fingerprint(load_classifier(tmp_path / name)) == fingerprint
    assert {record.method for record in load_records(tmp_path)} == {"teacher", "PKD-Skip"}
    # The training figures are means over the rows that the two saw, whose last batch the first one repeats.
    train = small_task(train=36).splits["train"]
    batches = LengthGroupedBatches(train.lengths, 8, seed=0)
    batches.epoch = 1
    rows = [row for index in (0, 1) for batch in BatchSamplerShard(batches, 2, index) for row in batch]
    assert len(rows) == 36 + 8
    logits = predict(build_student(tmp_path / "steady", None, ("negative", "positive"), seed=0), train)[rows]
    labels = torch.from_numpy(train.labels)[rows]
    assert found[0]["still"]["train_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found[0]["still"]["train_accuracy"] == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())


LARGEST_SEED = """
import sys
from accelerate import PartialState
from helpers import small_task
from pkdlib.config import FineTuneConfig
from pkdlib.training import fine_tune

config = FineTuneConfig(backbone=sys.argv[1], train_batch_size=8, num_train_epochs=1, seed=2**32 - 1)
print("FOUND", fine_tune(small_task(train=12), config).record.processes, flush=True)
PartialState().destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="no gloo")
def test_the_largest_seed_has_a_next_one_for_the_second_process(tmp_path: Path) -> None:
    save_backbone(tmp_path)
    printed = run_together(LARGEST_SEED, [str(tmp_path)], two_ranks())
    assert [text.split("FOUND ")[1].strip() for text in printed] == ["2", "2"]


def test_processes_that_do_not_see_each_other_are_refused() -> None:
    script = "from pkdlib.engine.machine import make_accelerator\ntry:\n    make_accelerator()\n"
    script += "except ValueError as error:\n    print(error)\nelse:\n    print('accepted')"
    apart = [{**rank, "ACCELERATE_USE_CPU": "false"} for rank in two_ranks()]
    if torch.cuda.is_available():
        pytest.skip("processes on GPUs find each other")
    refused = (
        "WORLD_SIZE = 2: this process sees 1; without GPUs, start them by accelerate launch --cpu --num_processes 2"
    )
    assert {printed.strip() for printed in run_together(script, [], apart)} == {refused}
