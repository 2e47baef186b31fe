"""The maps that make their targets of all teacher layers: what they give, from epoch to epoch, through a training."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pkdlib import DistillConfig, Run, build_student, distill, load_backbone, validate
from pkdlib.config import METHODS, ConfigError, method_config
from pkdlib.layer_maps import STRATEGIES
from pkdlib.objectives import PKD
from pkdlib.variants.maps import MOVING, alp, rail
from tests.helpers import bert_config, figures, same_weights, save_backbone

SMALL = {"num_hidden_layers": 3, "num_train_epochs": 3, "train_batch_size": 8, "learning_rate": 2e-3, "beta": 1.0}


def states(seed: int, rows: int, layers: int, width: int = 4) -> Tensor:
    return torch.randn(rows, layers, width, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 24).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n), st.integers(0, 999))))
def test_rail_takes_different_layers_below_the_last_in_order(sizes: tuple[int, int, int]) -> None:
    n, k, seed = sizes
    layers = torch.arange(1.0, n + 1).repeat(2, 1)[..., None]  # each layer's state is its number
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n - 1))
    for row in rail(torch.zeros(2, k - 1, 1), layers, order)[..., 0].int().tolist():
        assert len(row) == k - 1 and all(a < b for a, b in pairwise(row)) and row[0] >= 1 and row[-1] < n


def test_alp_weighs_layers_by_their_products_with_the_student_s_state() -> None:
    """h_s = (1, 0); h_t = (log 3, 0) and (0, 1): the weights are 3/4 and 1/4."""
    teacher = torch.tensor([[[np.log(3.0), 0.0], [0.0, 1.0]]], dtype=torch.float32)
    target = alp(torch.tensor([[[1.0, 0.0]]]), teacher, torch.arange(1))
    assert target[0, 0].tolist() == pytest.approx([0.75 * np.log(3), 0.25], rel=1e-6)


@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 6))
def test_alp_stays_among_the_teacher_s_states_and_takes_the_layer_that_is_far_nearest(
    seed: int, k: int, n: int
) -> None:
    student, teacher = states(seed, 3, k), states(seed + 1, 3, n)
    target = alp(student, teacher, torch.arange(n))
    assert target.shape == student.shape
    assert (target <= teacher.max(dim=1, keepdim=True).values + 1e-5).all()
    assert (target >= teacher.min(dim=1, keepdim=True).values - 1e-5).all()
    sharp = alp(student * 1e4, teacher, torch.arange(n))
    nearest = (student @ teacher.mT).argmax(dim=-1)
    margin = (student @ teacher.mT).topk(min(2, n), dim=-1).values
    if n > 1 and (margin[..., 0] - margin[..., 1]).min() > 1e-2:
        assert torch.allclose(sharp, teacher.gather(1, nearest[..., None].expand(-1, -1, 4)), atol=1e-4)


# ---------------------------------------------------------------------------------------------------- trainings
def train(data, backbone, teacher, cache: Path, strategy, **more) -> Run:
    named = {name: more.pop(name) for name in ("output_dir", "on_epoch") if name in more}
    config = validate(DistillConfig, **{"backbone": str(backbone), "strategy": strategy} | SMALL | more)
    return distill(data, config, teacher, cache_dir=cache, **named)


def test_every_map_is_a_method() -> None:
    assert {f"PKD-{name.capitalize()}" for name in [*STRATEGIES, *MOVING]} <= METHODS.keys()
    assert method_config("PKD-Rail", DistillConfig()).strategy == "rail"
    allowed = ", ".join([*STRATEGIES, *MOVING])
    with pytest.raises(
        ConfigError, match=rf"^strategy = 'ladder': must be one of {allowed} or a list of teacher layers$"
    ):
        validate(DistillConfig, strategy="ladder")


def test_rail_draws_anew_every_epoch_from_the_seed_and_alp_does_not_draw(data, backbone, teacher) -> None:
    drawn: dict[int, list[tuple[int, ...]]] = {}
    for seed in (0, 1, 0):
        config = validate(DistillConfig, backbone=str(backbone), strategy="rail", seed=seed, **SMALL)
        goal = PKD(config, build_student(backbone, 3, data.task.label_names), teacher)
        assert goal.layers == () and len(goal.taken) == teacher.config.num_hidden_layers
        maps, place = [], goal.order.data_ptr()
        for epoch in range(1, 30):
            goal.begin(epoch)
            maps.append(tuple(goal.order[:2].sort().values.tolist()))
        assert drawn.setdefault(seed, maps) == maps
        assert goal.order.data_ptr() == place  # a recorded step reads this tensor
    assert len({*drawn[0]}) == 3  # all pairs of the three layers below the last
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("strategy", [*MOVING])
def test_a_training_goes_on_to_the_same_student(strategy: str, data, backbone, teacher, tmp_path, capsys) -> None:
    whole = train(data, backbone, teacher, tmp_path, strategy, output_dir=tmp_path / "whole")
    assert (whole.record.method, whole.record.layer_map) == (f"PKD-{strategy.capitalize()}", [])
    text = capsys.readouterr().out
    layers, size = teacher.config.num_hidden_layers, len(data.splits["train"]) * teacher.config.hidden_size * 2
    told = f"takes the [CLS] states of all {layers} teacher layers, {layers * size / 1e6:.1f} MB in the cache"
    assert text.count(told) == 1
    assert sum(path.stat().st_size for path in tmp_path.glob("*.npy")) >= layers * size

    def stop(epoch: int, *_: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, backbone, teacher, tmp_path, strategy, output_dir=tmp_path / "out", on_epoch=stop)
    resumed = train(data, backbone, teacher, tmp_path, strategy, output_dir=tmp_path / "out")
    assert "resumes after epoch" in capsys.readouterr().out
    assert same_weights(resumed.model, whole.model) and figures(resumed.record) == figures(whole.record)
    static = train(data, backbone, teacher, tmp_path, strategy, static_shapes=True)
    assert static.record.history[0]["train_loss_pt"] == pytest.approx(whole.record.history[0]["train_loss_pt"], rel=0.2)


def test_rail_s_students_are_those_of_its_epochs_maps(data, backbone, teacher, tmp_path) -> None:
    """One epoch of RAIL is one epoch with the list that it drew."""
    config = validate(DistillConfig, backbone=str(backbone), strategy="rail", **SMALL)
    goal = PKD(config, build_student(backbone, 3, data.task.label_names), teacher)
    goal.begin(1)
    drawn = [layer + 1 for layer in goal.order[:2].sort().values.tolist()]
    moving = train(data, backbone, teacher, tmp_path, "rail", num_train_epochs=1)
    fixed = train(data, backbone, teacher, tmp_path, drawn, num_train_epochs=1)
    assert same_weights(moving.model, fixed.model)


def test_a_deeper_student_or_too_few_rows_at_once_are_refused(data, backbone, teacher, tmp_path) -> None:
    for strategy in MOVING:
        with pytest.raises(ValueError, match=r"^num_student_layers = 3: must be between 1 and the teacher's 2 layers$"):
            train(data, backbone, build_student(backbone, 2, data.task.label_names), tmp_path, strategy)
    for distance, rows in (("cka", 3), ("relation", 1), ("infonce", 1)):
        line = rf"^distance = '{distance}': needs {rows + 1} rows at once, here {rows}$"
        with pytest.raises(ConfigError, match=line):
            train(data, backbone, teacher, tmp_path, "skip", distance=distance, micro_batch_size=rows)


@pytest.mark.parametrize("strategy", [*MOVING])
def test_targets_are_those_of_float32_in_half_precision_too(strategy: str, backbone, data, teacher) -> None:
    config = validate(DistillConfig, backbone=str(backbone), strategy=strategy, **SMALL)
    student = build_student(backbone, 3, data.task.label_names).eval()
    goal, batch = PKD(config, student, teacher), data.splits["train"][range(4)]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        batch |= {name: want(teacher(**inputs, output_hidden_states=True)) for name, want in goal.wants.items()}
        output = student(**inputs, output_hidden_states=True)
        plain = goal(output, batch).loss_pt.item()
        with torch.autocast("cpu", torch.bfloat16):
            assert goal(output, batch).loss_pt.item() == plain


def test_widths_that_differ_need_no_projection_where_rows_are_compared_with_rows(data, teacher, tmp_path) -> None:
    narrow = save_backbone(tmp_path / "narrow", bert_config(hidden=teacher.config.hidden_size // 2))
    runs = {
        name: train(data, narrow, teacher, tmp_path, "skip", distance=name, num_train_epochs=1)
        for name in ("relation", "cka")
    }
    assert all(run.record.history[0]["train_loss_pt"] > 0 for run in runs.values())
    moving = train(data, narrow, teacher, tmp_path, "rail", distance="relation", num_train_epochs=1)
    assert moving.record.history[0]["train_loss_pt"] > 0
    for changes in ({"distance": "cosine"}, {"distance": "cka", "strategy": "alp"}):
        with pytest.raises(ValueError, match=r"^hidden_size: the teacher's is .* unless projection is True$"):
            train(data, narrow, teacher, tmp_path, **{"strategy": "skip"} | changes)
    assert load_backbone(narrow).config.hidden_size == teacher.config.hidden_size // 2
