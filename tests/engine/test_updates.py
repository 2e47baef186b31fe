"""Batches of few shapes and replayed steps: the same training as the plain loop's, which stays the reference."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    ENCODERS,
    bert_config,
    noisy_copy,
    run_together,
    same_weights,
    save_backbone,
    small_task,
    two_ranks,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from pkdlib.config import ConfigError, DistillConfig, FineTuneConfig, validate
from pkdlib.data import Batch, EncodedTask
from pkdlib.engine.machine import bf16_speedup, make_accelerator
from pkdlib.engine.progress import say_once
from pkdlib.engine.updates import (
    MULTIPLE,
    GradientOf,
    KeptGradient,
    StaticUpdate,
    keep_gradient,
    parameter_groups,
    use_static_shapes,
)
from pkdlib.loop import _Step
from pkdlib.losses import PKDTerms
from pkdlib.models import load_backbone
from pkdlib.objectives import PKD, Objective
from pkdlib.training import Run, distill, fine_tune

VALUES = {"num_train_epochs": 3, "train_batch_size": 8, "learning_rate": 2e-3}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def data() -> EncodedTask:
    return small_task(train=44)  # five full batches and one of four rows


def made_of(folder: Path, **changes) -> tuple[str, PreTrainedModel]:
    """A backbone and a teacher with other weights."""
    backbone = str(save_backbone(folder, bert_config(**changes)))
    return backbone, noisy_copy(load_backbone(backbone), ("negative", "positive"))


def losses(run: Run) -> list[float]:
    return [value for epoch in run.record.history for name, value in epoch.items() if "loss" in name]


def both(data: EncodedTask, backbone: str, teacher: PreTrainedModel, cache: Path, **changes) -> tuple[Run, Run]:
    """The same distillation plainly and by static shapes."""
    values = {"backbone": backbone, "num_hidden_layers": 3, **VALUES, **changes}
    configs = [validate(DistillConfig, static_shapes=static, **values) for static in (False, True)]
    return tuple(distill(data, config, teacher, cache_dir=cache) for config in configs)


# ------------------------------------------------------------------------------------------------- padding
@pytest.mark.parametrize(("multiple", "limit"), [(8, 64), (8, 29), (5, 64), (64, 64), (1, 64)])
def test_batches_are_padded_to_a_multiple_or_the_longest_row(multiple: int, limit: int) -> None:
    split = small_task(max_length=limit).splits["train"]
    fewer = split.padded_to(multiple)
    for rows in np.split(np.argsort(split.lengths), 8):
        tight, padded = split[rows], fewer[rows]
        length = tight["input_ids"].shape[1]
        found = padded["input_ids"].shape[1]
        assert length <= found == min(-(-length // multiple) * multiple, split.lengths.max())
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            assert torch.equal(padded[name][:, :length], tight[name])
            assert not padded[name][:, length:].any()  # 0 is padding's id, type and mask
    assert split.pad_to_multiple_of == 1  # the split itself is as it was


# ------------------------------------------------------------------------------------------- the same losses
@pytest.mark.parametrize("changes", [{}, {"beta": 0}, {"alpha": 0, "beta": 0}, {"micro_batch_size": 3}])
def test_static_shapes_train_alike(changes: dict, data: EncodedTask, tmp_path: Path) -> None:
    backbone, teacher = made_of(tmp_path / "steady", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    plain, static = both(data, backbone, teacher, tmp_path / "cache", **changes)
    assert losses(static) == pytest.approx(losses(plain), rel=1e-4)
    assert losses(static)[0] != losses(static)[-1]


def test_without_more_padding_they_train_the_same_bits(tmp_path: Path) -> None:
    data = small_task(train=44, max_length=8)
    assert set(data.splits["train"].lengths) == {8}
    backbone, teacher = made_of(tmp_path / "backbone")  # with dropout
    plain, static = both(data, backbone, teacher, tmp_path / "cache")
    assert same_weights(plain.model, static.model)
    assert losses(plain) == losses(static)
    assert all(parameter.grad is None for parameter in static.model.parameters())


def test_dropout_that_ends_is_another_step(data: EncodedTask, tmp_path: Path) -> None:
    backbone, _ = made_of(tmp_path)
    runs = [
        fine_tune(
            data, validate(FineTuneConfig, backbone=backbone, dropout_epochs=epochs, static_shapes=True, **VALUES)
        )
        for epochs in (0, 1, 3)
    ]
    assert len({losses(run)[-1] for run in runs}) == 3


# --------------------------------------------------------------------------------------------- replayed steps
def test_a_shape_is_recorded_once_and_small_batches_never() -> None:
    model, seen = torch.nn.Dropout(), []

    def update(batch: Batch) -> torch.Tensor:
        seen.append(batch["input_ids"])
        return batch["input_ids"].sum()

    static = StaticUpdate(update, 2, model, torch.device("cpu"))
    batches = [torch.arange(2 * length).view(2, length) + 1 for length in (8, 16, 8)]
    for ids in batches:
        assert static({"input_ids": ids, "rows": torch.arange(2)}) == ids.sum()
    assert seen[0] is seen[2]  # one buffer for both batches of that shape
    assert len(static.recorded) == 2
    static({"input_ids": batches[0][:1], "rows": torch.arange(1)})
    assert len(static.recorded) == 2
    model.eval()
    static({"input_ids": batches[0], "rows": torch.arange(2)})
    assert len(static.recorded) == 3
    assert torch.equal(batches[0], torch.arange(16).view(2, 8) + 1)  # what it was given is not its buffer


class _Reads(PKD):
    """An objective that looks at a value, for which a device would be waited for."""

    def forward(self, output: ModelOutput, batch: Batch) -> PKDTerms:
        terms = super().forward(output, batch)
        assert terms.loss > 0
        return terms


def fake_update(config: PreTrainedConfig, objective: type[Objective], **changes) -> torch.Tensor:
    """A step's update on tensors without values, all of them on a device of their own, as a recorded step is."""
    values, on = validate(DistillConfig, **changes), torch.device("meta")
    with FakeTensorMode():
        batch = dict.fromkeys(("input_ids", "attention_mask"), torch.ones(8, 16, dtype=torch.long, device=on))
        batch |= dict.fromkeys(("rows", "labels"), torch.zeros(8, dtype=torch.long, device=on))
        batch["teacher_logits"] = torch.zeros(8, 2, dtype=torch.half, device=on)
        for layer in (1, 2, 3):
            batch[f"teacher_cls_{layer}"] = torch.zeros(8, config.hidden_size, dtype=torch.half, device=on)
        with on:
            model = AutoModelForSequenceClassification.from_config(config)
        step = _Step(model, objective(values, model, model)).train()
        optimizer = torch.optim.AdamW(parameter_groups(step, 0.01), lr=1e-3)
        gradient = GradientOf(step, optimizer, make_accelerator(), values.micro_batch_size, 1.0, in_place=True)
        sums = gradient(batch)
        assert all(parameter.grad is not None for parameter in model.classifier.parameters())
    return sums


@pytest.mark.parametrize("config", ENCODERS.values(), ids=lambda config: config.model_type)
@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 3}])
@pytest.mark.parametrize("weights", [{"alpha": 0.5, "beta": 10.0}, {"alpha": 0.0, "beta": 0.0}])
def test_an_update_waits_for_no_value_and_mixes_no_devices(
    config: PreTrainedConfig, changes: dict, weights: dict
) -> None:
    weights = {**weights, "strategy": [1, 2, 3][: config.num_hidden_layers - 1]}
    sums = fake_update(config, PKD, **weights, **changes)
    assert (sums.shape, sums.device.type) == ((6,), "meta")
    with pytest.raises(DataDependentOutputException):
        fake_update(config, _Reads, **weights, **changes)


def test_no_batch_is_padded_beyond_the_positions_that_its_rows_need(tmp_path: Path) -> None:
    """A tokenizer without a limit, a model of as many positions as the longest row has tokens."""
    longest = int(small_task().splits["train"].lengths.max())
    assert longest % MULTIPLE
    place = save_backbone(tmp_path / "short", bert_config(max_position_embeddings=longest))
    config = FineTuneConfig(backbone=str(place), num_hidden_layers=1, num_train_epochs=1, static_shapes=True)
    assert fine_tune(small_task(dev=8), config).record.best_epoch == 1


# ------------------------------------------------------------------------------------------------ who has them
def test_static_shapes_are_for_one_cuda_device() -> None:
    accelerator = make_accelerator()
    found = [use_static_shapes(asked, accelerator) for asked in (None, False, True)]
    assert found == [accelerator.device.type == "cuda", False, True]


def test_auto_is_bf16_where_that_is_faster(monkeypatch, capsys) -> None:
    say_once.cache_clear()
    for speedup, chosen in ((2.3, "bf16"), (1.2, "bf16"), (1.1, "no")):
        monkeypatch.setattr("pkdlib.engine.machine.bf16_speedup", lambda device, speedup=speedup: speedup)
        assert make_accelerator("auto").mixed_precision == chosen
        line = f"mixed_precision = auto: {chosen}; bf16 is {speedup} times as fast as float32 here"
        assert line in capsys.readouterr().out.splitlines()


def test_the_speed_of_bf16_is_measured_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    assert 0.01 < bf16_speedup.__wrapped__(torch.device("cpu")) < 100
    assert torch.equal(torch.get_rng_state(), before)


def test_a_record_says_which_precision_auto_was(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("pkdlib.engine.machine.bf16_speedup", lambda device: 2.0)
    data, settings = small_task(), {"num_hidden_layers": 1, "num_train_epochs": 1}
    auto = fine_tune(data, FineTuneConfig(**settings, mixed_precision="auto"))
    bf16 = fine_tune(data, FineTuneConfig(**settings, mixed_precision="bf16"))
    assert auto.record.config["mixed_precision"] == "bf16" and same_weights(auto.model, bf16.model)


def test_static_shapes_with_fp16_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^static_shapes = True: must not be True with fp16, whose loss"):
        validate(FineTuneConfig, static_shapes=True, mixed_precision="fp16")


UNEVEN = """
import torch
from accelerate import PartialState
from torch import nn
from pkdlib.engine.machine import make_accelerator
from pkdlib.engine.updates import GradientOf

class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        loss = (self.weight * batch["x"]).mean()
        return loss, loss.detach()[None], torch.zeros(len(batch["rows"]), 2)

accelerator = make_accelerator()
x = torch.arange(1.0, 13.0)
rows = torch.arange(8) if accelerator.process_index == 0 else torch.arange(8, 12)
step = accelerator.prepare(Step())
optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
update = GradientOf(step, optimizer, accelerator, 3, 1e9, False)
update({"rows": rows, "labels": torch.zeros(len(rows), dtype=torch.long), "x": x[rows]})
print(next(step.parameters()).grad.item(), flush=True)
PartialState().destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="no gloo")
def test_processes_of_few_and_many_rows_have_the_gradient_of_all_rows() -> None:
    # The mean of 1..12, not of the means of 1..8 and 9..12.
    assert [float(printed) for printed in run_together(UNEVEN, [], two_ranks())] == pytest.approx([6.5, 6.5])


TOGETHER = """
from accelerate import PartialState
from helpers import save_backbone, small_task
from pkdlib.config import FineTuneConfig
from pkdlib.training import fine_tune

try:
    fine_tune(small_task(), FineTuneConfig(static_shapes=True))
except ValueError as error:
    print(error)
PartialState().destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="no gloo")
def test_static_shapes_in_two_processes_are_refused() -> None:
    expected = "static_shapes = True: needs a single process, here are 2\n"
    assert run_together(TOGETHER, [], two_ranks()) == [expected, expected]


# ---------------------------------------------------------------------------------------------------- on CUDA
CUDA = """
import sys
from pathlib import Path
from helpers import noisy_copy, small_task
from pkdlib.engine import updates
from pkdlib.config import DistillConfig
from pkdlib.models import load_backbone
from pkdlib.training import distill

data, folder = small_task(train=44, max_length=8), Path(sys.argv[1])
teacher, recorded = noisy_copy(load_backbone(folder / "backbone"), ("negative", "positive")), []
record = updates.StaticUpdate._record
updates.StaticUpdate._record = lambda *given: recorded.append(1) or record(*given)
values = {"backbone": str(folder / "backbone"), "num_hidden_layers": 3, "train_batch_size": 8, "learning_rate": 2e-3}
for static in (False, True, True):
    run = distill(data, DistillConfig(static_shapes=static, **values), teacher, cache_dir=folder / "cache")
    print("losses", *[row["train_loss"] for row in run.record.history])
assert "cpu" not in run.record.device, run.record.device
assert len(recorded) == 2, recorded  # one shape in each of two runs
"""


@needs_cuda
def test_replayed_steps_have_the_plain_loop_s_losses(tmp_path: Path) -> None:
    """With dropout: a graph draws the numbers that the plain step would."""
    save_backbone(tmp_path / "backbone")
    (printed,) = run_together(CUDA, [str(tmp_path)], [{"ACCELERATE_USE_CPU": "false"}])
    lines = [line.split()[1:] for line in printed.splitlines() if line.startswith("losses")]
    plain, static, again = (list(map(float, losses)) for losses in lines)
    assert static == pytest.approx(plain, rel=1e-3)
    assert again == pytest.approx(static, rel=1e-5)


# ------------------------------------------------------------------------ the embedding's gradient in one tensor
def gradients(embedding: nn.Embedding, batches: list[torch.Tensor], kept: KeptGradient | None, tied: bool) -> list:
    """The embedding's gradients of a loss over each batch of ids; `tied` reads all its weights in every second loss."""
    found = []
    for number, ids in enumerate(batches):
        embedding.weight.grad = None
        with kept or nullcontext():
            loss = (embedding(ids) * torch.arange(1.0, ids.numel() + 1).view(*ids.shape, 1)).sum()
            loss = loss + (embedding.weight.pow(2).sum() if tied and number % 2 == 0 else 0)
            loss.backward()
        nn.utils.clip_grad_norm_(embedding.parameters(), 1.0)  # which changes the kept tensor itself
        found.append(embedding.weight.grad.clone())
    return found


@pytest.mark.parametrize("padding", [None, 0, 1])
@pytest.mark.parametrize("tied", [False, True])
@given(st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), min_size=1, max_size=5))
def test_a_kept_gradient_is_autograd_s(padding: int | None, tied: bool, rows: list[list[int]]) -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(10, 4, padding_idx=padding)
    batches = [torch.tensor(ids).view(2, 3) for ids in rows]
    plain = gradients(embedding, batches, None, tied)
    kept = gradients(embedding, batches, KeptGradient(embedding), tied)
    for one, other in zip(plain, kept, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        assert tied or torch.equal(one, other)
    assert not embedding._forward_hooks and not embedding.weight._post_accumulate_grad_hooks


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_training_that_keeps_the_gradient_has_the_same_weights(kind: str, data, tmp_path, monkeypatch) -> None:
    backbone = str(save_backbone(tmp_path / "backbone", ENCODERS[kind]))
    config = validate(FineTuneConfig, backbone=backbone, num_hidden_layers=2, **VALUES)
    entered = []
    enter = KeptGradient.__enter__
    monkeypatch.setattr(KeptGradient, "__enter__", lambda self: entered.append(enter(self)))
    kept = fine_tune(data, config).record
    assert entered
    monkeypatch.setattr("pkdlib.loop.keep_gradient", lambda *_: nullcontext())
    assert fine_tune(data, config).record.fingerprints == kept.fingerprints


def test_a_gradient_is_kept_on_a_cpu_alone_and_of_a_plain_embedding() -> None:
    model = AutoModelForSequenceClassification.from_config(bert_config())
    accelerator = make_accelerator()
    assert isinstance(keep_gradient(model, accelerator), KeptGradient)
    model.get_input_embeddings().sparse = True
    assert isinstance(keep_gradient(model, accelerator), nullcontext)
    model.set_input_embeddings(nn.Embedding(10, 4).requires_grad_(False))
    assert isinstance(keep_gradient(model, accelerator), nullcontext)
