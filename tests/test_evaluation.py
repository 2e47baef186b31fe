"""Scores, predictions and [CLS] states of a split against the same rows one by one."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import bert_config, mini_tokenizer, noisy_copy, save_backbone, small_data, small_task
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertModel, PreTrainedModel

from pkdlib.analysis.similarity import checkpoint_cls_states, linear_cka, raw_cosine, rsa, split_cls_states
from pkdlib.data import EncodedSplit, EncodedTask
from pkdlib.evaluation import evaluate, forward_split, predict
from pkdlib.tasks import get_task


@pytest.fixture(scope="module")
def data() -> EncodedTask:
    return small_task(dev=21)


@pytest.fixture(scope="module")
def model(data: EncodedTask) -> PreTrainedModel:
    torch.manual_seed(0)
    return noisy_copy(BertModel(bert_config()), data.task.label_names)


def one_by_one(model: PreTrainedModel, split: EncodedSplit) -> tuple[Tensor, Tensor]:
    """Logits (rows, classes) and [CLS] states (rows, layers, hidden) of rows passed alone, hence without padding."""
    logits, states = [], []
    for row in range(len(split)):
        start = split.offsets[row]
        columns = {name: flat[start : start + split.lengths[row]] for name, flat in split.columns.items()}
        inputs = {name: torch.tensor(tokens.astype(np.int64))[None] for name, tokens in columns.items()}
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        logits.append(output.logits[0])
        states.append(torch.stack([hidden[0, 0] for hidden in output.hidden_states[1:]]))
    return torch.stack(logits), torch.stack(states)


def test_metrics_and_loss_by_hand(model: PreTrainedModel, data: EncodedTask) -> None:
    split = data.splits["dev"]
    losses, right = [], 0
    for logits, label in zip(one_by_one(model, split)[0].tolist(), split.labels, strict=True):
        losses.append(math.log(sum(math.exp(value) for value in logits)) - logits[label])
        right += logits.index(max(logits)) == label
    scores = evaluate(model, split, data.task)
    assert scores.keys() == {"loss", "accuracy"}
    assert scores["accuracy"] == pytest.approx(right / 21)
    assert scores["loss"] == pytest.approx(sum(losses) / 21, abs=1e-5)


def test_every_metric_of_the_task_is_given(model: PreTrainedModel, data: EncodedTask) -> None:
    split = data.splits["dev"]
    predicted = one_by_one(model, split)[0].argmax(dim=1).tolist()
    pairs = list(zip(predicted, split.labels.tolist(), strict=True))
    hits, wrong = pairs.count((1, 1)), pairs.count((1, 0)) + pairs.count((0, 1))
    scores = evaluate(model, split, replace(get_task("mrpc"), label_names=data.task.label_names))
    assert scores["f1"] == pytest.approx(2 * hits / (2 * hits + wrong))
    assert scores["accuracy"] == pytest.approx(1 - wrong / 21)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 20, 21, 128])
def test_batch_size_does_not_matter(batch_size: int, model: PreTrainedModel, data: EncodedTask) -> None:
    split = data.splits["dev"]
    logits, states = one_by_one(model, split)
    torch.testing.assert_close(predict(model, split, batch_size), logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(split_cls_states(model, split, batch_size), states, rtol=0, atol=1e-5)
    assert evaluate(model, split, data.task, batch_size) == pytest.approx(evaluate(model, split, data.task), abs=1e-6)


def test_every_row_is_passed_once_longest_first(model: PreTrainedModel, data: EncodedTask) -> None:
    split = data.splits["dev"]
    rows = [row for batch, _ in forward_split(model, split, 4) for row in batch.tolist()]
    assert sorted(rows) == list(range(21))
    lengths = split.lengths[rows].tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 3


def test_unlabelled_split_is_refused(model: PreTrainedModel, data: EncodedTask) -> None:
    with pytest.raises(ValueError, match=r"^the test split of task mini-sentiment has no labels.*not scored$"):
        evaluate(model, data.splits["test"], data.task)


def test_unlabelled_split_is_predicted_in_its_order(model: PreTrainedModel, data: EncodedTask) -> None:
    split = data.splits["test"]
    assert split.labels is None
    assert split.lengths.tolist() != sorted(split.lengths, reverse=True)  # so that the order is a question
    logits = predict(model, split, 3)
    assert (logits.shape, logits.dtype, logits.requires_grad) == ((8, 2), torch.float32, False)
    torch.testing.assert_close(logits, one_by_one(model, split)[0], rtol=0, atol=1e-5)
    assert split_cls_states(model, split, 3).shape == (8, 4, 32)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(training: bool, model: PreTrainedModel, data: EncodedTask) -> None:
    seen = []
    hook = model.bert.embeddings.dropout.register_forward_hook(lambda module, *_: seen.append(module.training))
    model.train(training)
    try:
        evaluate(model, data.splits["dev"], data.task)
        split_cls_states(model, data.splits["dev"])
        predict(model, data.splits["test"])
        assert model.training == training
        assert all(module.training == training for module in model.modules())
        assert seen == [False] * 3  # dropout was off meanwhile
    finally:
        hook.remove()
        model.eval()


def test_mode_is_restored_after_a_failure(model: PreTrainedModel, data: EncodedTask) -> None:
    def fail(*_) -> None:
        raise RuntimeError("out of memory")

    hook = model.register_forward_pre_hook(fail)
    model.train()
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            predict(model, data.splits["dev"])
        assert model.training
    finally:
        hook.remove()
        model.eval()


def test_passes_are_repeatable_and_leave_no_gradient(model: PreTrainedModel, data: EncodedTask) -> None:
    first = predict(model, data.splits["dev"], 4)
    assert torch.equal(first, predict(model, data.splits["dev"], 4))
    assert all(parameter.grad is None for parameter in model.parameters())
    states = split_cls_states(model, data.splits["dev"])
    (states * torch.ones(32, requires_grad=True)).sum().backward()  # ordinary tensors, fit for an autograd graph


# ------------------------------------------------------------------------------------------ any checkpoint's states
def test_two_models_of_different_widths_are_compared(tmp_path: Path) -> None:
    rows = small_data().splits["dev"]
    a = checkpoint_cls_states(save_backbone(tmp_path / "a", bert_config(layers=4, hidden=32)), rows, max_length=32)
    b = checkpoint_cls_states(save_backbone(tmp_path / "b", bert_config(layers=2, hidden=48)), rows, max_length=32)
    assert (a.shape, b.shape) == ((24, 4, 32), (24, 2, 48))
    for metric in (linear_cka, rsa):
        found = metric(b, a)
        assert found.shape == (2, 4)
        assert found.isfinite().all()
    with pytest.raises(ValueError, match="equal widths"):
        raw_cosine(b, a)


def test_a_classifier_s_checkpoint_gives_the_classifier_s_own_states(
    model: PreTrainedModel, data: EncodedTask, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    model.save_pretrained(tmp_path)
    mini_tokenizer().save_pretrained(tmp_path)
    rows = small_data(dev=21).splits["dev"]
    capfd.readouterr()
    states = checkpoint_cls_states(tmp_path, rows, max_length=64)
    assert "UNEXPECTED" not in "".join(capfd.readouterr())  # the head left behind is no news
    torch.testing.assert_close(states, split_cls_states(model, data.splits["dev"]), rtol=0, atol=1e-5)


def test_a_checkpoint_without_all_its_layers_is_refused(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.3.output" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"a complete encoder, encoder\.layer\.3\.output\.\S+, \S+ and 2 more missing"):
        checkpoint_cls_states(folder, small_data().splits["dev"], max_length=64)
