"""The two seams: an objective of one's own outside pkdlib, and a distance that is one function in losses."""

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from helpers import bert_config, figures, noisy_copy, same_weights
from torch import nn
from torch.nn import functional as F
from transformers import BertModel, PreTrainedModel

from pkdlib import DistillConfig, Objective, build_student, distill, load_backbone, validate
from pkdlib.config import ConfigError
from pkdlib.data import EncodedTask
from pkdlib.engine.checkpoints import CHECKPOINT_FILE
from pkdlib.engine.configs import Role, role_of
from pkdlib.losses import patience_loss, pkd_loss
from pkdlib.objectives import PKD, pkd_wants
from pkdlib.readers.records import load_records
from pkdlib.variants.distances import DISTANCES

VALUES = {"num_hidden_layers": 2, "num_train_epochs": 2, "train_batch_size": 8, "learning_rate": 2e-3}


# ------------------------------------------------------------------------------- an objective of one's own
class TinyBertAttention(Objective):
    """TinyBERT's losses of one layer: attention maps of a teacher that runs along, [CLS] states from the cache."""

    names = ("loss", "loss_attention", "loss_hidden")
    asks = MappingProxyType({"output_attentions": True, "output_hidden_states": True})

    def __init__(self, config: DistillConfig, model: PreTrainedModel, teacher: PreTrainedModel):
        super().__init__(config, model, teacher)
        for one in (model, teacher):
            one.set_attn_implementation("eager")  # others give no attention maps
        self.teacher = (teacher,)  # in a tuple: it is neither trained nor saved
        self.layers = [teacher.config.num_hidden_layers // 2]
        self.wants = pkd_wants(self.layers)
        self.projection = nn.Linear(model.config.hidden_size, teacher.config.hidden_size)

    def forward(self, output, batch):
        (layer,) = self.layers
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        with torch.no_grad():
            maps = self.teacher[0](**inputs, output_attentions=True).attentions[layer - 1]  # (batch, heads, L, L)
        attention = F.mse_loss(output.attentions[0], maps)
        states = self.projection(output.hidden_states[1][:, 0])  # (batch, hidden)
        hidden = F.mse_loss(states, batch[f"teacher_cls_{layer}"].float())
        task = F.cross_entropy(output.logits, batch["labels"])
        return task + attention + hidden, attention, hidden


def tiny(data: EncodedTask, backbone: Path, teacher: PreTrainedModel, folder: Path, **more):
    config = validate(DistillConfig, backbone=str(backbone), **VALUES)
    return distill(data, config, teacher, cache_dir=folder / "cache", objective=TinyBertAttention, **more)


def test_tinybert_s_attention_loss_trains_and_is_recorded(data, backbone, teacher, tmp_path) -> None:
    run = tiny(data, backbone, teacher, tmp_path, output_dir=tmp_path / "out")
    (record,) = load_records(tmp_path / "out")
    assert record.method == "TinyBertAttention" and record.layer_map == [2]
    assert "TinyBertAttention" in record.run_id
    for term in ("loss", "loss_attention", "loss_hidden"):
        terms = [epoch[f"train_{term}"] for epoch in record.history]
        assert len(terms) == 2 and all(np.isfinite(terms)) and min(terms) > 0
    assert record.history[1]["train_loss_hidden"] < record.history[0]["train_loss_hidden"]  # the projection learns
    assert "train_loss_kd" not in record.history[0]
    # The cached states were there: the logits' file and one layer's.
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    # The student that is saved is a plain classifier, without projection or teacher.
    student = build_student(backbone, 2, data.task.label_names)
    assert run.model.state_dict().keys() == student.state_dict().keys()
    assert not same_weights(run.model, student)


def test_its_first_terms_are_those_computed_by_hand(data, backbone, teacher, tmp_path) -> None:
    config = validate(DistillConfig, backbone=str(backbone), **VALUES)
    student = build_student(backbone, 2, data.task.label_names).eval()
    objective = TinyBertAttention(config, student, teacher)
    batch = data.splits["train"][[0, 5]]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        theirs = teacher(**inputs, **TinyBertAttention.asks)
        ours = student(**inputs, **TinyBertAttention.asks)
        batch |= {name: want(theirs) for name, want in objective.wants.items()}
        loss, attention, hidden = objective(ours, batch)
    assert attention.item() == pytest.approx((ours.attentions[0] - theirs.attentions[1]).square().mean().item())
    mapped = ours.hidden_states[1][:, 0] @ objective.projection.weight.T + objective.projection.bias
    assert hidden.item() == pytest.approx((mapped - theirs.hidden_states[2][:, 0]).square().mean().item(), rel=1e-5)
    labels = ours.logits.log_softmax(-1)[[0, 1], batch["labels"]]
    assert loss.item() == pytest.approx((-labels.mean() + attention + hidden).item(), rel=1e-6)


class Interruption(Exception):
    pass


def test_an_interrupted_training_by_it_goes_on_bit_for_bit(data, backbone, teacher, tmp_path, capsys) -> None:
    whole = tiny(data, backbone, teacher, tmp_path)

    def stop(epoch: int, *_: object) -> None:
        if epoch == 2:
            raise Interruption

    with pytest.raises(Interruption):
        tiny(data, backbone, teacher, tmp_path, output_dir=tmp_path / "out", on_epoch=stop)
    assert (tmp_path / "out" / CHECKPOINT_FILE).is_file()
    resumed = tiny(data, backbone, teacher, tmp_path, output_dir=tmp_path / "out")
    assert "resumes after epoch 1/2" in capsys.readouterr().out
    assert same_weights(resumed.model, whole.model)  # the projection's state was kept, too
    assert figures(resumed.record) == figures(whole.record)


# ------------------------------------------------------------------------------------------------- distances
def test_another_distance_is_one_setting(data, backbone, teacher, tmp_path) -> None:
    torch.manual_seed(0)
    states, others = torch.randn(2, 4, 3, 8)
    squared = patience_loss(states, others)
    assert patience_loss(states, others, distance="cosine").item() == pytest.approx(squared.item() / 2, rel=1e-6)
    elements = 3  # a row's parts: the authors' form averages over all
    official = patience_loss(states, others, form="official", distance="cosine")
    assert official.item() == pytest.approx(squared.item() / 2 / elements, rel=1e-6)
    values = {"backbone": str(backbone), "beta": 1.0, **VALUES}
    runs = {
        distance: distill(data, validate(DistillConfig, distance=distance, **values), teacher, cache_dir=tmp_path)
        for distance in ("squared", "cosine")
    }
    terms = {distance: run.record.history[0]["train_loss_pt"] for distance, run in runs.items()}
    assert terms["cosine"] == pytest.approx(terms["squared"] / 2, rel=0.1)
    assert not same_weights(runs["squared"].model, runs["cosine"].model)
    assert runs["cosine"].record.config["distance"] == "cosine" and runs["cosine"].record.method == "PKD-Skip"


def test_an_unknown_distance_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=rf"^distance = 'manhattan': must be one of {', '.join(DISTANCES)}$"):
        validate(DistillConfig, distance="manhattan")
    with pytest.raises(ValueError, match=rf"^distance = 'manhattan': must be one of {', '.join(DISTANCES)}$"):
        patience_loss(torch.ones(1, 1, 2), torch.ones(1, 1, 2), distance="manhattan")


# ----------------------------------------------------------------------------------------------------- PKD
@pytest.mark.parametrize(
    ("changes", "wants", "asks"),
    [
        ({"alpha": 0, "beta": 0}, set(), {}),
        ({"beta": 0}, {"teacher_logits"}, {}),
        ({}, {"teacher_logits", "teacher_cls_2"}, {"output_hidden_states": True}),
        ({"alpha": 0}, {"teacher_logits", "teacher_cls_2"}, {"output_hidden_states": True}),
        ({"strategy": "last"}, {"teacher_logits", "teacher_cls_3"}, {"output_hidden_states": True}),
    ],
)
def test_each_method_wants_what_its_terms_read(changes, wants, asks, backbone, teacher) -> None:
    student = build_student(load_backbone(backbone), 2, ("negative", "positive"))
    objective = PKD(validate(DistillConfig, num_hidden_layers=2, **changes), student, teacher)
    assert objective.wants.keys() == wants and objective.asks == asks | {"cls_alone": True}
    assert objective.names == ("loss", "loss_ce", "loss_kd", "loss_pt")
    plain = PKD(validate(DistillConfig, num_hidden_layers=2, last_layer="all", **changes), student, teacher)
    assert plain.asks == asks | {"cls_alone": False}


def test_every_setting_of_the_loss_reaches_it(backbone, teacher) -> None:
    """A field with a role in the objective is one that `pkd_loss` takes, the projection and the map apart."""
    student = build_student(load_backbone(backbone), 2, ("negative", "positive"))
    objective = PKD(validate(DistillConfig, num_hidden_layers=2), student, teacher)
    named = {name for name in DistillConfig.model_fields if role_of(name, DistillConfig) in (Role.SOFT, Role.PATIENCE)}
    assert objective.weights.keys() == named - {"projection"}
    logits, labels = torch.zeros(1, 2), torch.tensor([0])
    cls = torch.ones(1, 1, 2)
    assert pkd_loss(logits, labels, logits, cls, cls, **objective.weights).loss_pt.item() == 0


@pytest.mark.parametrize("weights", [{"alpha": 0.5, "beta": 0}, {"alpha": 0, "beta": 0.5}])
def test_a_term_of_the_teacher_needs_one(weights, backbone) -> None:
    student = build_student(load_backbone(backbone), 2, ("negative", "positive"))
    config = validate(DistillConfig, num_hidden_layers=2, **weights)
    with pytest.raises(ValueError) as error:
        PKD(config, student)
    assert str(error.value) == f"alpha = {config.alpha}, beta = {config.beta}: needs a teacher"


def test_patience_needs_a_layer_to_match(backbone, teacher) -> None:
    student = build_student(load_backbone(backbone), 1, ("negative", "positive"))
    message = r"^beta = 0\.3: a student of one layer has no layer to match; beta must be 0$"
    with pytest.raises(ConfigError, match=message):
        PKD(validate(DistillConfig, num_hidden_layers=1), student, teacher)
    PKD(validate(DistillConfig, num_hidden_layers=1, beta=0), student, teacher)


@pytest.mark.parametrize("projection", [False, True])
def test_its_terms_are_those_worked_out_from_both_models(projection, data, backbone, teacher) -> None:
    """Three layers matched with the teacher's 1st and 2nd; a projection turns both of the student's states alike."""
    values = {"alpha": 0.6, "beta": 0.25, "temperature": 2.0, "projection": projection, "num_hidden_layers": 3}
    config = validate(DistillConfig, **values)
    student = build_student(load_backbone(backbone), 3, data.task.label_names).eval()
    objective = PKD(config, student, teacher)
    assert list(objective.layers) == [1, 2]
    batch = data.splits["train"][[0, 5, 9]]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        ours, theirs = (model(**inputs, output_hidden_states=True) for model in (student, teacher))
        batch |= {name: want(theirs) for name, want in objective.wants.items()}
        terms = objective(ours, batch)
        turn = objective.projection.weight.T if projection else torch.eye(32)
    patience = sum(
        (F.normalize(ours.hidden_states[k][:, 0] @ turn, dim=-1) - F.normalize(theirs.hidden_states[k][:, 0], dim=-1))
        .square().sum(dim=-1).mean().item()
        for k in (1, 2)
    )  # fmt: skip
    kd = -4 * ((theirs.logits / 2).softmax(-1) * (ours.logits / 2).log_softmax(-1)).sum(-1).mean().item()  # T^2 = 4
    ce = F.cross_entropy(ours.logits, batch["labels"]).item()
    expected = [0.4 * ce + 0.6 * kd + 0.25 * patience, ce, kd, patience]
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-4)


def test_a_projection_starts_as_a_turn_and_has_the_teacher_s_width(backbone, teacher) -> None:
    student = build_student(load_backbone(backbone), 2, ("negative", "positive"))
    config = validate(DistillConfig, num_hidden_layers=2, projection=True)
    weight = PKD(config, student, teacher).projection.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(32), atol=1e-5, rtol=0)
    wide = noisy_copy(BertModel(bert_config(4, 48)), ("negative", "positive"))
    projection = PKD(config, student, wide).projection
    assert projection.weight.shape == (48, 32) and projection.bias is None
    torch.testing.assert_close(projection.weight.T @ projection.weight, torch.eye(32), atol=1e-5, rtol=0)  # angles stay
    with pytest.raises(ValueError, match=r"^hidden_size: the teacher's is 48, the student's 32; the patience term"):
        PKD(config.model_copy(update={"projection": False}), student, wide)
