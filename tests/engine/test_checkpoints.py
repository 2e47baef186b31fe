"""An interrupted training, called again, ends as one that never stopped, and trains no finished epoch twice."""

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    bert_config,
    figures,
    noisy_copy,
    run_together,
    same_weights,
    save_backbone,
    save_model,
    small_data,
    small_task,
    two_ranks,
)
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_post_hook

from pkdlib.config import DistillConfig, FineTuneConfig, validate
from pkdlib.data import EncodedTask, encode_task
from pkdlib.engine.checkpoints import CHECKPOINT_FILE, weights_fingerprint
from pkdlib.engine.trackers import OnEpoch
from pkdlib.models import load_backbone, load_classifier, load_tokenizer
from pkdlib.objectives import Objective
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE
from pkdlib.training import Run, distill, fine_tune

# Forty rows in batches of 16: three updates an epoch, nine in all.
VALUES = {"num_train_epochs": 3, "train_batch_size": 16, "learning_rate": 2e-3}
METHODS = {"FT": {"alpha": 0, "beta": 0}, "KD": {"beta": 0}, "PKD": {"projection": True}}


@pytest.fixture(scope="module")
def data() -> EncodedTask:
    return small_task()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: EncodedTask) -> Path:
    """A backbone and a teacher of another width, saved; the teacher's outputs go here too."""
    folder = tmp_path_factory.mktemp("models")
    save_backbone(folder / "backbone")
    wide = load_backbone(save_backbone(folder / "wide", bert_config(6, 48)))
    save_model(noisy_copy(wide, data.task.label_names), folder / "teacher")
    return folder


def train(method: str, data: EncodedTask, folder: Path, output_dir: Path | None = None, **changes) -> Run:
    """A teacher's fine-tuning, or a distillation by the method; changes: of the configuration, or on_epoch."""
    on_epoch = changes.pop("on_epoch", None)
    values = {"backbone": str(folder / "backbone"), **VALUES, **METHODS.get(method, {}), **changes}
    if method == "teacher":
        return fine_tune(data, validate(FineTuneConfig, **values), output_dir, on_epoch=on_epoch)
    config = validate(DistillConfig, **{"num_hidden_layers": 3, **values})
    return distill(data, config, folder / "teacher", output_dir, folder / "cache", on_epoch)


def assert_same_run(one: Run, two: Run) -> None:
    assert same_weights(one.model, two.model)
    assert figures(one.record) == figures(two.record)


@contextmanager
def counted(stop_after: int | None = None) -> Iterator[list[int]]:
    """The updates made, into a list; KeyboardInterrupt, as a notebook's stop button raises it, after so many."""
    updates: list[int] = []

    def count(*_) -> None:
        updates.append(1)
        if len(updates) == stop_after:
            raise KeyboardInterrupt

    hook = register_optimizer_step_post_hook(count)
    try:
        yield updates
    finally:
        hook.remove()


def interrupt(update: int, *arguments, **changes) -> None:
    with counted(stop_after=update), pytest.raises(KeyboardInterrupt):
        train(*arguments, **changes)


def assert_finished(output_dir: Path, run: Run) -> None:
    """The folder holds the run's result and model, and nothing of the way there."""
    assert load_records(output_dir) == [run.record]
    assert same_weights(load_classifier(output_dir), run.model)
    assert not [path.name for path in output_dir.iterdir() if "checkpoint" in path.name]


# ------------------------------------------------------------------------------------- processes that are killed
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from helpers import small_task
from test_checkpoints import CASES, train
from torch.optim.optimizer import register_optimizer_step_post_hook

def kill_at(count):  # what it gives does not return from its so manieth call
    calls = []
    def call():
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
    return call

def run(folder, output_dir, method, update, renamed, times):
    at_update, at_rename = kill_at(update), kill_at(times)
    register_optimizer_step_post_hook(lambda *_: at_update())
    sys.addaudithook(lambda event, values: event == "os.rename" and str(values[1]).endswith(renamed) and at_rename())
    train(method, small_task(), folder, output_dir)

folder, out, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for name, (*case, _) in CASES.items():
    child = os.fork()  # a process of its own, without the seconds that importing takes
    if not child:
        torch.set_num_threads(threads)
        run(folder, out / name, *case)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, name
"""

CASES = {  # method, killed at which update, or at the how-manieth renaming of a file to which name; updates left
    "in epoch 1": ("teacher", 2, "-", 0, 9),  # nothing is finished
    "in epoch 2": ("teacher", 5, "-", 0, 6),
    "in epoch 3": ("PKD", 8, "-", 0, 3),
    "before the second checkpoint is in its place": ("FT", 0, CHECKPOINT_FILE, 2, 6),
    "before the result is in its place": ("KD", 0, RESULT_FILE, 1, 0),
}


@pytest.fixture(scope="module")
def killed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folders of every case, whose process was killed by SIGKILL."""
    out = tmp_path_factory.mktemp("killed")
    run_together(KILLED, [str(folder), str(out), str(torch.get_num_threads())], [{}])
    return out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("name", CASES)
def test_killed_run_goes_on(name: str, data: EncodedTask, folder: Path, killed: Path) -> None:
    method, *_, left = CASES[name]
    assert not (killed / name / RESULT_FILE).exists()
    with counted() as updates:
        run = train(method, data, folder, killed / name)
    assert len(updates) == left
    assert_same_run(run, train(method, data, folder))  # which has no folder, and so no checkpoint
    assert_finished(killed / name, run)


TOGETHER = """
import json, os, signal, sys
from pathlib import Path
import torch
from accelerate import PartialState
from helpers import small_task
from test_checkpoints import counted, figures, train
from torch.optim.optimizer import register_optimizer_step_post_hook

folder, out, port = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
child = os.fork()
torch.set_num_threads(1)
data = small_task()
if not child:
    with counted() as updates:
        register_optimizer_step_post_hook(lambda *_: len(updates) == 5 and os.kill(os.getpid(), signal.SIGKILL))
        try:
            train("PKD", data, folder, out)
        except Exception:  # the other was killed before they had spoken of this update
            os.kill(os.getpid(), signal.SIGKILL)
assert os.waitpid(child, 0)[1] == signal.SIGKILL
os.environ["MASTER_PORT"] = port  # the children's is not free at once
with counted() as updates:
    resumed = train("PKD", data, folder, out)
whole = train("PKD", data, folder)
print("FOUND " + json.dumps([len(updates), figures(resumed.record), figures(whole.record)]), flush=True)
PartialState().destroy_process_group()
"""


@pytest.mark.skipif(not hasattr(os, "fork") or not torch.distributed.is_gloo_available(), reason="no fork or no gloo")
def test_two_killed_processes_go_on(folder: Path, tmp_path: Path) -> None:
    """Each with its own random states, as each has its own dropout."""
    port = two_ranks()[0]["MASTER_PORT"]
    printed = run_together(TOGETHER, [str(folder), str(tmp_path), port], two_ranks())
    assert "resumes after epoch 2/3" in printed[0]
    assert "resumes" not in printed[1]  # one of them speaks
    for text in printed:
        assert "no checkpoint" not in text  # one of them writes
        updates, resumed, whole = json.loads(text.split("FOUND ")[1])
        assert updates == 2  # of the third epoch, three batches in two processes
        assert resumed == whole
    assert not (tmp_path / CHECKPOINT_FILE).exists()


# --------------------------------------------------------------------------------------- what is kept and restored
@pytest.mark.parametrize(
    "changes",
    [
        {"shuffle": False},
        {"dropout_epochs": 1},
        {"dropout_epochs": 2, "mixed_precision": "bf16"},
        {"micro_batch_size": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["teacher", "PKD"])
def test_interrupted_run_goes_on(method: str, changes: dict, data: EncodedTask, folder: Path, tmp_path: Path) -> None:
    whole = train(method, data, folder, **changes)
    for update in (5, 4):  # in the second epoch; then, that one done, in the third
        interrupt(update, method, data, folder, tmp_path, **changes)
    with counted() as updates:
        run = train(method, data, folder, tmp_path, **changes)
    assert len(updates) == 3
    assert_same_run(run, whole)
    assert_finished(tmp_path, run)


@pytest.mark.parametrize("update", [5, 8])
def test_best_epoch_before_the_interruption_is_kept(
    update: int, data: EncodedTask, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The checkpoint's own epoch is the best, or one before it."""
    whole = train("teacher", data, folder, seed=2)
    assert whole.record.best_epoch == 1
    interrupt(update, "teacher", data, folder, tmp_path, seed=2)
    weights = load_file(tmp_path / CHECKPOINT_FILE)
    assert any(name.startswith("best.") for name in weights) == (update == 8)  # else they would be there twice
    capsys.readouterr()
    assert_same_run(train("teacher", data, folder, tmp_path, seed=2), whole)
    first, second, *_ = capsys.readouterr().out.splitlines()
    done = (update - 1) // 3
    assert first == f"mini-sentiment teacher 4 layers seed 2: resumes after epoch {done}/3"
    assert f"epoch {done + 1}/3, train loss" in second


def test_every_random_state_is_restored(data: EncodedTask, folder: Path, tmp_path: Path) -> None:
    def draw(seen: list) -> OnEpoch:
        return lambda epoch, *_: seen.append((epoch, random.gauss(), np.random.normal(), torch.rand(1).item()))

    whole, before, after = [], [], []
    train("teacher", data, folder, on_epoch=draw(whole))
    interrupt(8, "teacher", data, folder, tmp_path, on_epoch=draw(before))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    train("teacher", data, folder, tmp_path, on_epoch=draw(after))
    assert [len(seen) for seen in (whole, before, after)] == [4, 3, 1]  # a look at epoch 0 and at those trained
    assert before + after == whole
    assert [len(set(numbers)) for numbers in zip(*whole, strict=True)] == [4, 4, 4, 4]


def test_finished_run_trains_anew(data: EncodedTask, folder: Path, tmp_path: Path) -> None:
    first = train("FT", data, folder, tmp_path)
    with counted() as updates:
        second = train("FT", data, folder, tmp_path)
    assert len(updates) == 9
    assert_same_run(first, second)


def test_training_time_counts_the_epochs_before_too(data: EncodedTask, folder: Path, tmp_path: Path) -> None:
    interrupt(8, "FT", data, folder, tmp_path)
    record = train("FT", data, folder, tmp_path).record
    assert record.durations_s["training"] == sum(epoch["seconds"] for epoch in record.history)
    assert len(record.history) == 3


# ------------------------------------------------------------------------------------------------ what is not used
def not_used(output_dir: Path, problem: str, printed: str) -> bool:
    """Whether one line, and only one, says that the checkpoint is not used."""
    lines = [line for line in printed.splitlines() if CHECKPOINT_FILE in line]
    return [line.split(": ", 1)[1] for line in lines] == [f"{output_dir / CHECKPOINT_FILE}: {problem}, not used"]


@pytest.fixture(scope="module")
def whole(data: EncodedTask, folder: Path) -> Run:
    return train("teacher", data, folder)


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:300],  # in the header
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[: -len(content) // 4] + bytes(len(content) // 4),  # never reached the disk
        lambda content: flip(content, len(content) - 1000),  # a weight
        lambda content: content.replace(b'\\"epoch\\": 1', b'\\"epoch\\": 2', 1),  # a figure
        lambda content: content.replace(b'\\"history\\"', b'\\"history=\\', 1),  # no JSON any more
        lambda content: b"not a checkpoint at all",
    ],
)
def test_damaged_checkpoint_is_not_used(
    damage: Callable[[bytes], bytes], whole: Run, data: EncodedTask, folder: Path, tmp_path: Path, capsys
) -> None:
    interrupt(5, "teacher", data, folder, tmp_path)
    file = tmp_path / CHECKPOINT_FILE
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert file.read_bytes() != content
    capsys.readouterr()
    with counted() as updates:
        run = train("teacher", data, folder, tmp_path)
    assert not_used(tmp_path, "damaged", capsys.readouterr().out)
    assert len(updates) == 9
    assert_same_run(run, whole)
    assert_finished(tmp_path, run)


def test_weights_of_other_origin_are_not_used(whole: Run, data, folder: Path, tmp_path: Path, capsys) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / CHECKPOINT_FILE)
    run = train("teacher", data, folder, tmp_path)
    assert not_used(tmp_path, "damaged", capsys.readouterr().out)
    assert_same_run(run, whole)


def test_a_checkpoint_that_is_half_written_is_never_read(whole: Run, data, folder: Path, tmp_path: Path) -> None:
    interrupt(5, "teacher", data, folder, tmp_path)
    (tmp_path / "checkpoint.part").mkdir()
    for name in ("new", ".tmp1aB2c3"):  # safetensors writes to a name of its own first
        (tmp_path / "checkpoint.part" / name).write_bytes(b"half")
    with counted() as updates:
        run = train("teacher", data, folder, tmp_path)
    assert len(updates) == 6
    assert_same_run(run, whole)
    assert_finished(tmp_path, run)


@pytest.mark.parametrize(
    ("change", "other"),
    [
        ("seed", "config, run, initial weights"),
        ("learning_rate", "config"),
        ("epochs", "config"),
        ("rows", "data, tokens"),
        ("tokens", "tokens"),
        ("max_length", "max_length"),
        ("backbone", "initial weights"),
        ("teacher", "teacher"),
        ("method", "config, run, objective"),
        ("threads", "threads"),
        ("dropout", "model"),
        ("teacher's activation", "teacher"),
        ("metrics", "task"),
    ],
)
def test_checkpoint_of_another_run_is_not_used(
    change: str, other: str, data: EncodedTask, folder: Path, tmp_path: Path, capsys
) -> None:
    out, here, changes, method = tmp_path / "out", tmp_path / "models", {}, "KD"
    here.mkdir()
    save_backbone(here / "backbone")
    teacher = load_classifier(folder / "teacher")
    save_model(teacher, here / "teacher")
    interrupt(5, method, data, here, out)
    threads = torch.get_num_threads()
    match change:
        case "seed":
            changes = {"seed": 1}
        case "learning_rate":
            changes = {"learning_rate": 1e-3}
        case "epochs":
            changes = {"num_train_epochs": 2}
        case "rows":
            data = small_task(train=39)
        case "tokens":
            tokenizer = load_tokenizer(here / "backbone")
            tokenizer.model_input_names = ["input_ids", "attention_mask"]  # no token types
            data = encode_task(small_data(), tokenizer, 64)
        case "max_length":
            data = small_task(max_length=63)
        case "backbone":
            backbone = load_backbone(here / "backbone")
            backbone.pooler.dense.bias.data += 0.1
            backbone.save_pretrained(here / "backbone")
        case "dropout":
            text = (here / "backbone" / "config.json").read_text()
            (here / "backbone" / "config.json").write_text(text.replace('dropout_prob": 0.1', 'dropout_prob": 0.2'))
        case "teacher":
            teacher.classifier.bias.data += 0.1
            save_model(teacher, here / "teacher")
        case "teacher's activation":
            text = (here / "teacher" / "config.json").read_text()
            (here / "teacher" / "config.json").write_text(text.replace('hidden_act": "gelu"', 'hidden_act": "relu"'))
        case "metrics":
            data = replace(data, task=replace(data.task, metrics=("f1", "accuracy")))
        case "method":
            method = "FT"
        case "threads":
            torch.set_num_threads(threads + 1)
    try:
        capsys.readouterr()
        with counted() as updates:
            run = train(method, data, here, out, **changes)
        assert not_used(out, f"of another run (other {other})", capsys.readouterr().out)
        assert len(updates) == 3 * changes.get("num_train_epochs", 3)
        assert_same_run(run, train(method, data, here, **changes))
    finally:
        torch.set_num_threads(threads)


class Smoothed(Objective):
    """The labels, made softer by an attribute."""

    smoothing = 0.0

    def forward(self, output, batch):
        return (cross_entropy(output.logits, batch["labels"], label_smoothing=self.smoothing),)


def test_a_checkpoint_of_another_objective_of_the_same_name_is_not_used(data, folder, tmp_path, capsys) -> None:
    def same(self, output, batch):
        return (cross_entropy(output.logits, batch["labels"], label_smoothing=self.smoothing),)

    def other(self, output, batch):
        return (cross_entropy(output.logits, batch["labels"], label_smoothing=0.1),)

    config = validate(DistillConfig, backbone=str(folder / "backbone"), num_hidden_layers=2, alpha=0, beta=0, **VALUES)
    for number, (changes, used) in enumerate(
        [({"forward": same}, True), ({"forward": other}, False), ({"smoothing": 0.5}, False)]
    ):
        out = tmp_path / str(number)
        with counted(stop_after=5), pytest.raises(KeyboardInterrupt):
            distill(data, config, output_dir=out, objective=Smoothed)
        capsys.readouterr()
        changed = type("Smoothed", (Objective,), {"smoothing": 0.0, "forward": Smoothed.forward} | changes)
        distill(data, config, output_dir=out, objective=changed)
        told = capsys.readouterr().out
        assert ("resumes after epoch 1" in told) is used
        assert ("of another run (other objective), not used" in told) is not used


def test_full_disk_costs_the_checkpoint_alone(whole: Run, data, folder: Path, tmp_path: Path, capsys) -> None:
    """A file may here be as large as the model's, whose moments the checkpoint holds besides."""
    train("teacher", data, folder, tmp_path / "model")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    capsys.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size, limits[1]))
    try:
        run = train("teacher", data, folder, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lines = [line for line in capsys.readouterr().out.splitlines() if "no checkpoint of epoch" in line]
    assert [line.split("no checkpoint of epoch ")[1][0] for line in lines] == ["1", "2", "3"]
    assert_same_run(run, whole)
    assert_finished(tmp_path / "run", run)


def test_nothing_is_written_without_a_folder(data: EncodedTask, folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = train("FT", data, folder)
    assert not list(tmp_path.iterdir())
    assert weights_fingerprint(run.model) == run.record.fingerprints["weights"]
