"""What the loop can leave out (shuffling, dropout), what it can learn besides (a projection), a look from outside."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import bert_config, noisy_copy, same_weights
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import BertForSequenceClassification, BertModel, PreTrainedModel

from pkdlib.analysis.similarity import split_cls_states
from pkdlib.config import DistillConfig, FineTuneConfig, validate
from pkdlib.data import EncodedTask
from pkdlib.engine.batches import LengthGroupedBatches
from pkdlib.losses import patience_loss
from pkdlib.models import load_backbone, load_classifier
from pkdlib.objectives import PKD
from pkdlib.training import distill, fine_tune

VALUES = {"num_train_epochs": 3, "train_batch_size": 16, "learning_rate": 2e-3}


@pytest.fixture(scope="module")
def wide(data: EncodedTask) -> PreTrainedModel:
    """A teacher of six layers and width 48, the backbone's being four and 32."""
    return noisy_copy(BertModel(bert_config(6, 48)), data.task.label_names)


def test_an_epoch_is_a_line_of_its_figures_its_seconds_are_its_own_and_no_gradient_is_left(
    data: EncodedTask, backbone: Path, capsys
) -> None:
    fused = []
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: fused.append(optimizer.defaults["fused"]))
    started = time.perf_counter()
    try:
        run = fine_tune(data, validate(FineTuneConfig, backbone=str(backbone), **VALUES))
    finally:
        hook.remove()
    seconds = [epoch["seconds"] for epoch in run.record.history]
    assert min(seconds) > 0 and sum(seconds) < time.perf_counter() - started
    lines = [
        f"mini-sentiment teacher 4 layers seed 0: epoch {number}/3, train loss {epoch['train_loss']:.4f}, "
        f"dev accuracy {epoch['dev_accuracy']:.4f}, {epoch['seconds']:.1f} s\n"
        for number, epoch in enumerate(run.record.history, start=1)
    ]
    assert capsys.readouterr().out.startswith("".join(lines))  # then, of some students, that they name one class
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert fused == [True] * 9  # of three updates per epoch; the plain update's last bits are others


@pytest.mark.parametrize("seed", [0, 64, 2**32 - 1])
def test_dropout_is_drawn_by_the_seed(seed: int, data: EncodedTask, backbone: Path) -> None:
    seen = []
    config = validate(FineTuneConfig, backbone=str(backbone), seed=seed, **VALUES | {"num_train_epochs": 1})
    fine_tune(data, config, on_epoch=lambda *_: seen.append(torch.initial_seed()))
    assert seen == [seed, seed]


def test_static_shapes_train_alike(data: EncodedTask, backbone: Path) -> None:
    losses = []
    for static in (False, True):
        config = validate(FineTuneConfig, backbone=str(backbone), dropout_epochs=0, static_shapes=static, **VALUES)
        losses.append([epoch["train_loss"] for epoch in fine_tune(data, config).record.history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[0][0] != losses[0][-1]


def test_without_shuffling_every_epoch_reads_the_file_in_order() -> None:
    batches = LengthGroupedBatches(np.array([9, 3, 5, 4, 8, 6, 7]), 3, seed=0, shuffle=False)
    for batches.epoch in (1, 2):
        assert list(batches) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(batches) == 3


@pytest.mark.parametrize(("dropout_epochs", "expected"), [(None, 3), (0, 0), (1, 1), (2, 2)])
def test_dropout_lasts_as_many_epochs_as_asked(
    dropout_epochs: int | None, expected: int, data: EncodedTask, backbone: Path
) -> None:
    modes = []
    hook = register_module_forward_hook(
        lambda module, *_: modes.append(module.training) if type(module).__name__ == "BertModel" else None
    )
    updates = []
    counter = register_optimizer_step_post_hook(lambda *_: updates.append(1))
    config = validate(FineTuneConfig, backbone=str(backbone), dropout_epochs=dropout_epochs, **VALUES)
    try:
        fine_tune(data, config)
    finally:
        hook.remove()
        counter.remove()
    assert len(updates) == 3 * 3
    assert sum(modes) == 3 * expected  # of three updates per epoch


def test_no_epoch_with_dropout_is_training_without_dropout(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    steady = load_backbone(backbone)
    steady.config.hidden_dropout_prob = steady.config.attention_probs_dropout_prob = 0.0
    steady.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((backbone / "tokenizer.json").read_bytes())
    off = fine_tune(data, validate(FineTuneConfig, backbone=str(backbone), dropout_epochs=0, **VALUES))
    without = fine_tune(data, validate(FineTuneConfig, backbone=str(tmp_path), **VALUES))
    dropped = fine_tune(data, validate(FineTuneConfig, backbone=str(backbone), **VALUES))
    assert same_weights(off.model, without.model)
    assert not same_weights(off.model, dropped.model)


def test_a_projection_lets_widths_differ(data: EncodedTask, backbone: Path, wide: PreTrainedModel, tmp_path) -> None:
    settings = {"backbone": str(backbone), "num_hidden_layers": 3, "projection": True, **VALUES}
    run = distill(data, validate(DistillConfig, **settings), wide, tmp_path / "out", tmp_path / "cache")
    assert run.record.layer_map == [2, 4]
    losses = [epoch["train_loss_pt"] for epoch in run.record.history]
    assert losses[-1] < 0.9 * losses[0]  # it is learned
    again = distill(data, validate(DistillConfig, **settings), wide, cache_dir=tmp_path / "cache")
    assert same_weights(run.model, again.model)
    # The student is an ordinary classifier of its own width: what maps it to the teacher's stays behind.
    reloaded = load_classifier(tmp_path / "out")
    assert same_weights(reloaded, run.model) and reloaded.config.hidden_size == 32
    kd = distill(data, validate(DistillConfig, **settings | {"beta": 0}), wide, cache_dir=tmp_path / "cache")
    assert not same_weights(kd.model, run.model)


def test_the_projection_is_applied_to_the_students_states_alone() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # width 2 to width 3
    projection = torch.nn.Linear(2, 3, bias=False)
    projection.weight.data = weight
    teacher_cls = torch.tensor([[[0.0, 1.0, 1.0]]])  # (batch, layers, hidden)

    class Student:
        logits = torch.zeros(1, 2)
        hidden_states = (torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 1, 2))

    config = validate(DistillConfig, num_hidden_layers=2, beta=1.0, projection=True)
    student, teacher = (BertForSequenceClassification(bert_config(2, width)) for width in (2, 4))
    objective = PKD(config, student, teacher)
    objective.projection = projection
    batch = {"labels": torch.tensor([1]), "teacher_logits": torch.zeros(1, 2), "teacher_cls_1": teacher_cls[:, 0]}
    terms = objective(Student(), batch)
    # W h = (1, 0, 1); its angle with (0, 1, 1) has the cosine 1/2, and 2 - 2 cos is 1.
    assert terms.loss_pt.item() == pytest.approx(1.0)
    torch.testing.assert_close(terms.loss_pt, patience_loss(torch.tensor([[[1.0, 0.0, 1.0]]]), teacher_cls))


def test_a_look_at_every_epoch_changes_nothing(
    data: EncodedTask, backbone: Path, wide: PreTrainedModel, tmp_path: Path
) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    given: list[dict[str, float]] = []

    def look(epoch: int, model: PreTrainedModel, figures: dict[str, float]) -> None:
        torch.rand(7)
        given.append(figures.copy())
        figures.clear()
        seen.append((epoch, split_cls_states(model, data.splits["dev"])))

    config = validate(DistillConfig, backbone=str(backbone), num_hidden_layers=2, beta=0, **VALUES)
    watched = distill(data, config, wide, cache_dir=tmp_path, on_epoch=look)
    alone = distill(data, config, wide, cache_dir=tmp_path)
    assert same_weights(watched.model, alone.model)
    assert [epoch for epoch, _ in seen] == [0, 1, 2, 3]
    assert given == [{}, *watched.record.history]
    before, *after = [states for _, states in seen]
    assert all(not torch.equal(states, before) for states in after)
    best = dict(seen)[watched.record.best_epoch]
    assert torch.equal(best, split_cls_states(watched.model, data.splits["dev"]))
