"""TinyBERT's losses by loops, and the objective through a training: terms, resuming, what it leaves alone."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

from pkdlib import DistillConfig, build_student, distill, validate
from pkdlib.beyond.tinybert import TinyBERT, attention_loss, hidden_loss
from pkdlib.config import ConfigError
from pkdlib.losses import ce_loss, kd_loss
from tests.helpers import bert_config, figures, noisy_copy, same_weights, save_backbone

SMALL = {"num_hidden_layers": 2, "num_train_epochs": 2, "train_batch_size": 8, "learning_rate": 2e-3, "beta": 0.5}
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


def config_of(backbone: Path, **changes) -> DistillConfig:
    return validate(DistillConfig, **{"backbone": str(backbone)} | SMALL | changes)


def test_only_real_tokens_count() -> None:
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 4, 3, 3), torch.rand(2, 4, 3, 3)
    real = [(b, i, j) for b in range(2) for i in range(3) for j in range(3) if MASK[b, i] and MASK[b, j]]
    by_hand = sum((student[b, h, i, j] - teacher[b, h, i, j]).item() ** 2 for b, i, j in real for h in range(4))
    assert attention_loss(student, teacher, MASK).item() == pytest.approx(by_hand / (len(real) * 4), rel=1e-6)
    ours, theirs = torch.rand(2, 3, 5), torch.rand(2, 3, 5)
    tokens = [(b, i) for b in range(2) for i in range(3) if MASK[b, i]]
    by_hand = sum((ours[b, i] - theirs[b, i]).square().mean().item() for b, i in tokens)
    assert hidden_loss(ours, theirs, MASK).item() == pytest.approx(by_hand / len(tokens), rel=1e-6)
    padded = ours.clone()
    padded[1, 2] = 99.0
    assert hidden_loss(padded, theirs, MASK).item() == hidden_loss(ours, theirs, MASK).item()


def test_the_terms_are_those_of_two_plain_passes(data, backbone, teacher) -> None:
    student = build_student(backbone, 2, data.task.label_names).eval()
    goal = TinyBERT(config_of(backbone), student, teacher)
    assert goal.layers == [2, 4] and not goal.wants
    batch = data.splits["train"][[0, 5, 7]]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    assert teacher.config._attn_implementation == "sdpa"  # the teacher that was given stays as it was
    with torch.no_grad():
        ours, theirs = (model(**inputs, **goal.asks) for model in (student, goal.teacher[0]))
        loss, ce, kd, attention, hidden = goal(ours, batch)
    mask = batch["attention_mask"]
    pairs = [(ours.attentions[0], theirs.attentions[1]), (ours.attentions[1], theirs.attentions[3])]
    assert attention.item() == pytest.approx(sum(attention_loss(*pair, mask).item() for pair in pairs), rel=1e-5)
    states = [
        (ours.hidden_states[m] @ goal.projection.weight.T, theirs.hidden_states[n]) for m, n in ((0, 0), (1, 2), (2, 4))
    ]
    assert hidden.item() == pytest.approx(sum(hidden_loss(*pair, mask).item() for pair in states), rel=1e-5)
    assert ce.item() == ce_loss(ours.logits, batch["labels"]).item()
    assert kd.item() == pytest.approx(
        kd_loss(ours.logits, teacher(**inputs).logits, 5.0, t_squared=True).item(), rel=1e-5
    )
    assert loss.item() == pytest.approx(0.3 * ce.item() + 0.7 * kd.item() + 0.5 * (attention + hidden).item(), rel=1e-6)


def test_it_trains_resumes_and_leaves_a_plain_classifier(data, backbone, teacher, tmp_path, capsys) -> None:
    before = {name: weights.clone() for name, weights in teacher.state_dict().items()}
    arguments = (data, config_of(backbone), teacher)
    whole = distill(*arguments, cache_dir=tmp_path, objective=TinyBERT)
    assert whole.record.method == "TinyBERT" and whole.record.layer_map == [2, 4]
    first, last = whole.record.history[0], whole.record.history[-1]
    assert 0 < last["train_loss_hidden"] < first["train_loss_hidden"] and last["train_loss_attention"] > 0
    assert not list(tmp_path.glob("*.npy"))  # nothing is cached
    assert all(torch.equal(weights, before[name]) for name, weights in teacher.state_dict().items())
    assert whole.model.state_dict().keys() == build_student(backbone, 2, data.task.label_names).state_dict().keys()

    def stop(epoch: int, *_: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(*arguments, tmp_path / "out", tmp_path, stop, TinyBERT)
    resumed = distill(*arguments, tmp_path / "out", tmp_path, objective=TinyBERT)
    assert "resumes after epoch 1/2" in capsys.readouterr().out
    assert same_weights(resumed.model, whole.model) and figures(resumed.record) == figures(whole.record)


def test_equal_weights_have_equal_maps_in_training_too(data, teacher) -> None:
    names = data.task.label_names
    student = build_student(teacher.base_model, None, names).train()
    goal = TinyBERT(validate(DistillConfig, **SMALL), student, teacher)
    student.load_state_dict(teacher.state_dict())
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout) and module.p:
            module.p = 0.0  # of hidden states; of attention there is none any more
    goal.projection.weight.data.copy_(torch.eye(len(goal.projection.weight)))
    batch = data.splits["train"][range(6)]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        _, _, _, attention, hidden = goal(student(**inputs, **goal.asks), batch)
    assert attention.item() == pytest.approx(0, abs=1e-10) and hidden.item() == pytest.approx(0, abs=1e-9)


def test_rows_without_labels_teach_and_a_teacher_that_cannot_read_them_is_refused(
    data, backbone, teacher, tmp_path
) -> None:
    bare = replace(data, splits=data.splits | {"train": copy.copy(data.splits["train"])})
    bare.splits["train"].labels = np.where(np.arange(40) < 10, data.splits["train"].labels, -100)
    run = distill(bare, config_of(backbone, num_train_epochs=1), teacher, cache_dir=tmp_path, objective=TinyBERT)
    assert run.record.history[0]["train_loss_hidden"] > 0
    alone = distill(bare, config_of(backbone, num_train_epochs=1, alpha=0.0, beta=0.0), cache_dir=tmp_path)
    whole = distill(data, config_of(backbone, num_train_epochs=1), teacher, cache_dir=tmp_path, objective=TinyBERT)
    assert not same_weights(run.model, alone.model)
    assert run.record.history[0]["train_loss_attention"] == pytest.approx(
        whole.record.history[0]["train_loss_attention"], rel=0.3
    )  # of all forty rows
    short = noisy_copy(BertModel(bert_config(max_position_embeddings=8)), data.task.label_names)
    with pytest.raises(ValueError, match=r"cannot read the train rows: max_length"):
        distill(data, config_of(backbone), short, tmp_path / "out", tmp_path, objective=TinyBERT)
    assert not (tmp_path / "out").exists()
    shallow = build_student(backbone, 1, data.task.label_names)
    with pytest.raises(ValueError, match=r"^num_student_layers = 2: must be between 1 and the teacher's 1 layers$"):
        distill(data, config_of(backbone), shallow, cache_dir=tmp_path, objective=TinyBERT)


def test_a_narrow_student_is_projected_and_other_heads_are_refused(data, backbone, teacher, tmp_path) -> None:
    narrow = save_backbone(tmp_path / "narrow", bert_config(hidden=teacher.config.hidden_size // 2))
    run = distill(data, config_of(narrow, num_train_epochs=1), teacher, cache_dir=tmp_path, objective=TinyBERT)
    assert run.record.history[0]["train_loss_hidden"] > 0
    other = save_backbone(tmp_path / "heads", bert_config(num_attention_heads=1))
    heads = teacher.config.num_attention_heads
    with pytest.raises(ConfigError, match=rf"^num_attention_heads = 1: must be {heads}, as the teacher has$"):
        distill(data, config_of(other), teacher, cache_dir=tmp_path, objective=TinyBERT)
    with pytest.raises(ConfigError, match=r"^teacher = None: TinyBERT needs one$"):
        distill(data, config_of(backbone), cache_dir=tmp_path, objective=TinyBERT)
