"""A checkpoint's file by itself: all of a state is kept, and a file that is damaged or another run's is not used."""

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_linear_schedule_with_warmup

from pkdlib.engine.checkpoints import CHECKPOINT_FILE, Checkpoint, weights_fingerprint
from pkdlib.engine.machine import make_accelerator


def learning(seed: int) -> tuple[torch.nn.ModuleDict, torch.optim.AdamW, LRScheduler]:
    """A model and what an objective learns, tiny; and their optimizer and schedule."""
    torch.manual_seed(seed)
    step = torch.nn.ModuleDict({"model": torch.nn.Linear(3, 2), "objective": torch.nn.Linear(2, 1, bias=False)})
    optimizer = torch.optim.AdamW(step.parameters(), lr=0.1)
    return step, optimizer, get_linear_schedule_with_warmup(optimizer, 1, 9)


def go_on(step: torch.nn.ModuleDict, optimizer: torch.optim.AdamW, schedule: LRScheduler) -> list[float]:
    """Two updates by numbers that are drawn from all three generators; what was drawn and every weight after it."""
    drawn = []
    for _ in range(2):
        drawn += [random.gauss(), np.random.normal(), torch.rand(1).item()]
        loss = step["objective"](step["model"](torch.tensor(drawn[-3:]))).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return [*drawn, schedule.get_last_lr()[0], *(value for weights in step.parameters() for value in weights.flatten())]


def test_a_state_is_kept_whole(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    random.seed(1), np.random.seed(1), random.gauss(), np.random.normal()  # each keeps a second number, ready to give
    parts, history = learning(seed=1), [{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 1 / 3}]
    go_on(*parts)
    best = {"weight": torch.arange(6.0).view(3, 2).T, "bias": torch.ones(2, requires_grad=True)}  # as they may lie
    own = {name: tensor.clone() for name, tensor in parts[0]["model"].state_dict().items()}
    for place, kept in (("best", best), ("own", {})):
        (tmp_path / place).mkdir()
        Checkpoint(tmp_path / place, {"run": "a"}, "a run", make_accelerator()).save(*parts, history, kept)
        assert [path.name for path in (tmp_path / place).iterdir()] == [CHECKPOINT_FILE]
    expected = go_on(*parts)
    for place, weights in (("best", best), ("own", own)):
        random.seed(2), np.random.seed(2)
        others = learning(seed=2)
        found = Checkpoint(tmp_path / place, {"run": "a"}, "a run", make_accelerator()).load(*others)
        assert found is not None and found[0] == history
        assert found[1].keys() == weights.keys() and all(torch.equal(found[1][name], weights[name]) for name in weights)
        assert go_on(*others) == expected
    assert capsys.readouterr().out == ""


def test_no_file_is_no_state_and_no_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert Checkpoint(tmp_path, {}, "a run", make_accelerator()).load(*learning(1)) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("identity", "other"), [({"run": "b"}, "run"), ({"run": "a", "model": 1}, "model")])
def test_another_identity_is_not_used_and_changes_nothing(identity: dict, other: str, tmp_path: Path, capsys) -> None:
    parts = learning(seed=1)
    go_on(*parts)
    Checkpoint(tmp_path, {"run": "a", "seed": 1}, "", make_accelerator()).save(*parts, [{"epoch": 1}], {})
    others = learning(seed=2)
    before = weights_fingerprint(others[0])
    assert Checkpoint(tmp_path, identity, "a run", make_accelerator()).load(*others) is None
    assert weights_fingerprint(others[0]) == before
    path = tmp_path / CHECKPOINT_FILE
    assert capsys.readouterr().out == f"a run: {path}: of another run (other {other}), not used\n"


def test_an_identity_names_machine_versions_and_format(tmp_path: Path) -> None:
    identity = Checkpoint(tmp_path, {"run": "a"}, "", make_accelerator()).identity
    assert identity.keys() == {"run", "devices", "threads", "versions", "format"}
    assert identity["threads"] == [torch.get_num_threads()] and identity["format"] == 2
    assert identity["devices"][0].startswith("cpu (") and "torch" in identity["versions"]


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Checkpoint(tmp_path / "none", {}, "a run", make_accelerator()).save(*learning(1), [{"epoch": 1}, {"epoch": 2}], {})
    assert capsys.readouterr().out.startswith("a run: no checkpoint of epoch 2: [Errno 2]")


def test_a_fingerprint_is_of_names_shapes_types_and_bytes() -> None:
    weights = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor([3], dtype=torch.int16)}
    parts = b"text", b"a (1,) torch.int16", b"\x03\x00", b"b (1, 2) torch.float32", np.array([1, 2], "<f4").tobytes()
    assert weights_fingerprint(weights, "text") == hashlib.sha256(b"".join(parts)).hexdigest()[:16]
    assert weights_fingerprint(weights) == hashlib.sha256(b"".join(parts[1:])).hexdigest()[:16]
    whole = torch.nn.Linear(2, 1)
    assert weights_fingerprint(whole) == weights_fingerprint(whole.state_dict())
    assert weights_fingerprint({"a": torch.eye(2).T[:, :1]}) == weights_fingerprint({"a": torch.eye(2)[:, :1].clone()})


@pytest.mark.parametrize("at", [1000, -1])
def test_one_changed_byte_is_damage(at: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    parts, path = learning(seed=1), tmp_path / CHECKPOINT_FILE
    go_on(*parts)
    Checkpoint(tmp_path, {}, "", make_accelerator()).save(*parts, [{"epoch": 1}], {})
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert Checkpoint(tmp_path, {}, "a run", make_accelerator()).load(*learning(2)) is None
    assert capsys.readouterr().out == f"a run: {path}: damaged, not used\n"


@pytest.mark.parametrize("metadata", [None, {"state": "{}"}, {"checksum": "0"}])
def test_a_file_of_other_origin_is_damage(metadata: dict | None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / CHECKPOINT_FILE, metadata)
    assert Checkpoint(tmp_path, {}, "a run", make_accelerator()).load(*learning(2)) is None
    assert capsys.readouterr().out == f"a run: {tmp_path / CHECKPOINT_FILE}: damaged, not used\n"


def test_the_last_part_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.part").mkdir()
    (tmp_path / "checkpoint.part" / "new").write_bytes(b"half")
    parts = learning(seed=1)
    checkpoint = Checkpoint(tmp_path, {}, "", make_accelerator())
    for history in ([{"epoch": 1}], [{"epoch": 1}, {"epoch": 2}]):
        checkpoint.save(*parts, history, {})
        assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE]
        found = checkpoint.load(*parts)
        assert found is not None and found[0] == history


def test_gradient_scaler_is_restored(tmp_path: Path) -> None:
    """That of fp16, which needs CUDA; here it is driven by hand."""

    def parts(scale: float) -> tuple[Accelerator, list]:
        accelerator = make_accelerator()
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=7)
        step = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 1)})
        optimizer = torch.optim.AdamW(step.parameters())
        return accelerator, [step, optimizer, get_linear_schedule_with_warmup(optimizer, 1, 5)]

    accelerator, one = parts(8.0)
    for factor in (1.0, float("inf"), 1.0, 1.0):  # a gradient that overflows halves the scale
        one[1].zero_grad()
        accelerator.scaler.scale(one[0]["model"](torch.ones(3, 2)).sum() * factor).backward()
        accelerator.scaler.step(one[1])
        accelerator.scaler.update()
    expected = accelerator.scaler.state_dict()
    assert (expected["scale"], expected["_growth_tracker"]) == (4.0, 2)
    Checkpoint(tmp_path, {}, "", accelerator).save(*one, [{"epoch": 1}], {})
    accelerator, two = parts(64.0)
    history, best = Checkpoint(tmp_path, {}, "", accelerator).load(*two)
    assert history == [{"epoch": 1}]
    assert accelerator.scaler.state_dict() == expected
    for name, tensor in one[0]["model"].state_dict().items():
        assert torch.equal(two[0]["model"].state_dict()[name], tensor)
        assert torch.equal(best[name], tensor)
