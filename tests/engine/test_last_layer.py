"""The last layer computed for [CLS] alone: the plain path, which stays, is what it is held against."""

import copy
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from helpers import ENCODERS, mini_bert, noisy_copy, same_weights, small_task
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from pkdlib.analysis.similarity import split_cls_states
from pkdlib.config import DistillConfig
from pkdlib.engine.last_layer import run
from pkdlib.evaluation import predict
from pkdlib.models import cls_states
from pkdlib.objectives import Objective
from pkdlib.training import distill

OF_BERT_S_MAKE = ("bert", "roberta", "xlm-roberta", "electra")
OTHERS = sorted(ENCODERS.keys() - set(OF_BERT_S_MAKE))


def classifier(kind: str, attention: str | None = None) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = AutoModelForSequenceClassification.from_config(
            copy.deepcopy(ENCODERS[kind]), attn_implementation=attention
        )
    return model.eval()


def batch(padded: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(6, 11, dtype=torch.long)
    if padded:
        mask[::2, 7:] = 0
    return {"input_ids": torch.randint(5, 300, (6, 11), generator=generator), "attention_mask": mask}


def outputs(model: PreTrainedModel, wanted: bool, padded: bool = True) -> tuple[Tensor, Tensor, list[Tensor], int]:
    """Logits, [CLS] states, the gradients of a loss of both, and the positions of the last layer."""
    model.zero_grad()
    output = run(model, batch(padded), cls_alone=wanted, output_hidden_states=True)
    states = cls_states(output.hidden_states)
    (output.logits.square().sum() + states.square().sum()).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    return output.logits.detach(), states.detach(), gradients, output.hidden_states[-1].shape[1]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kind", OF_BERT_S_MAKE)
def test_logits_states_and_gradients_are_the_plain_path_s(kind: str, padded: bool) -> None:
    model = classifier(kind)
    logits, states, gradients, positions = outputs(model, True, padded)
    plain_logits, plain_states, plain_gradients, plain_positions = outputs(model, False, padded)
    assert (positions, plain_positions) == (1, 11)
    torch.testing.assert_close(logits, plain_logits, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(states, plain_states, atol=1e-6, rtol=1e-5)
    largest = max(gradient.abs().max() for gradient in plain_gradients)
    assert len(gradients) == len(plain_gradients)
    for ours, plain in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6 * float(largest), rtol=1e-4)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_makes_stay_as_they_are(kind: str) -> None:
    model = classifier(kind)
    logits, states, _, positions = outputs(model, True)
    plain_logits, plain_states, _, _ = outputs(model, False)
    assert positions == 11
    assert torch.equal(logits, plain_logits)
    assert torch.equal(states, plain_states)


def test_another_attention_stays_as_it_is() -> None:
    assert outputs(classifier("bert", "eager"), True)[3] == 11


def test_the_model_is_plain_again_afterwards_also_after_an_error() -> None:
    model = classifier("bert")
    with pytest.raises(IndexError):
        run(model, {"input_ids": torch.tensor([[1000]])}, cls_alone=True)
    assert run(model, batch(), cls_alone=True, output_hidden_states=True).hidden_states[-1].shape[1] == 1
    assert not any("forward" in vars(module) for module in model.modules())
    assert model(**batch(), output_hidden_states=True).hidden_states[-1].shape[1] == 11


def test_whoever_asks_for_attentions_gets_those_of_all_positions() -> None:
    output = run(classifier("bert", "eager"), batch(), cls_alone=True, output_attentions=True)
    assert [attention.shape for attention in output.attentions] == [(6, 2, 11, 11)] * 4


def test_over_many_dropout_masks_the_mean_is_the_plain_path_s() -> None:
    model = classifier("bert").train()
    draws = {}
    for wanted in (True, False):
        torch.manual_seed(wanted)
        with torch.no_grad():
            logits = [run(model, batch(), cls_alone=wanted).logits for _ in range(2000)]
        draws[wanted] = torch.stack(logits)  # (draws, rows, classes)
    means = {wanted: values.mean(dim=0) for wanted, values in draws.items()}
    error = sum(values.var(dim=0) / len(values) for values in draws.values()).sqrt()
    assert ((means[True] - means[False]).abs() < 5 * error).all()
    spread = [values.std(dim=0) for values in draws.values()]
    torch.testing.assert_close(*spread, rtol=0.15, atol=0)
    assert (spread[0] > 0).all()


def test_predictions_and_states_of_a_split_are_the_plain_path_s() -> None:
    model, split = noisy_copy(mini_bert(), ("negative", "positive")), small_task().splits["dev"]
    eager = copy.deepcopy(model)
    eager.config._attn_implementation = "eager"
    torch.testing.assert_close(predict(model, split), predict(eager, split), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(split_cls_states(model, split), split_cls_states(eager, split), atol=1e-5, rtol=1e-4)


class LastLayerMean(Objective):
    """The mean state of the last layer's tokens, of student and teacher: it reads all of them."""

    asks: ClassVar = {"output_hidden_states": True}
    wants: ClassVar = {"teacher_mean": lambda output: output.hidden_states[-1].mean(dim=1)}

    def forward(self, output, batch) -> Sequence[Tensor]:
        assert output.hidden_states[-1].shape[1] > 1
        return (nn.functional.mse_loss(output.hidden_states[-1].mean(dim=1), batch["teacher_mean"].float()),)


def test_an_objective_that_does_not_ask_for_cls_alone_gets_all_tokens(tmp_path) -> None:
    data = small_task()
    teacher = noisy_copy(mini_bert(), data.task.label_names)
    config = DistillConfig(num_hidden_layers=2, num_train_epochs=1)
    run = distill(data, config, teacher, cache_dir=tmp_path, objective=LastLayerMean)
    assert run.record.method == "LastLayerMean"


def test_without_dropout_both_settings_train_the_same_student(tmp_path) -> None:
    data = small_task()
    teacher = noisy_copy(mini_bert(), data.task.label_names)
    runs = {}
    for setting in ("cls", "all"):
        config = DistillConfig(num_hidden_layers=2, num_train_epochs=1, dropout_epochs=0, last_layer=setting)
        runs[setting] = distill(data, config, teacher, cache_dir=tmp_path / setting)
    short, plain = (runs[setting].model.state_dict() for setting in ("cls", "all"))
    for name, weights in plain.items():
        torch.testing.assert_close(short[name], weights, atol=2e-3, rtol=1e-2)  # AdamW makes much of small differences
    assert not same_weights(runs["cls"].model, runs["all"].model)
    assert runs["cls"].record.history[0]["train_loss"] == pytest.approx(
        runs["all"].record.history[0]["train_loss"], rel=1e-4
    )
