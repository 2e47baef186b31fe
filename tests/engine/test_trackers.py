"""What a tracker is told of a training: every epoch's figures and the settings, once, however the training goes."""

import ast
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType
from helpers import run_together, same_weights, save_backbone, two_ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pkdlib.config import ConfigError, FineTuneConfig, validate
from pkdlib.data import EncodedTask
from pkdlib.engine.trackers import OnEpoch, tracker
from pkdlib.training import Run, fine_tune

SETTINGS = {"learning_rate": 2e-3, "strategy": [2, 4], "shuffle": True, "micro_batch_size": None, "seed": 0}
TOLD = {"learning_rate": 2e-3, "strategy": "[2, 4]", "shuffle": True, "micro_batch_size": "None", "seed": 0}


def train(data: EncodedTask, backbone: Path, on_epoch: OnEpoch | None, out: Path | None = None, **changes: Any) -> Run:
    values = {"backbone": str(backbone), "num_train_epochs": 3, "train_batch_size": 16, "num_hidden_layers": 2}
    return fine_tune(data, validate(FineTuneConfig, **values | changes), out, on_epoch=on_epoch)


def stop_at(last: int) -> OnEpoch:
    """Stops the training, as a notebook's stop button does, when that epoch is told and not yet kept."""

    def stop(epoch: int, *_: object) -> None:
        if epoch == last:
            raise KeyboardInterrupt

    return stop


def next_second() -> None:
    """Waits for it: event files are read in the order of their seconds."""
    time.sleep(1.01 - time.time() % 1)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each figure's epochs and values, as TensorBoard reads them."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}


def of_history(run: Run) -> dict[str, list[tuple[int, float]]]:
    """The same of a record's history; event files hold single precision."""
    single = [{name: torch.tensor(one).float().item() for name, one in row.items()} for row in run.record.history]
    names = single[0].keys() - {"epoch"}
    return {name: [(epoch, row[name]) for epoch, row in enumerate(single, start=1)] for name in names}


def stored(folder: Path) -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in sorted((folder / "tensorboard").glob("*/hparams.yml"))]


# ---------------------------------------------------------------------------------------------------- TensorBoard
def test_every_figure_of_every_epoch_and_the_settings_are_told_and_nothing_changes(data, backbone, tmp_path) -> None:
    seen = []
    run = train(data, backbone, tracker("tensorboard", tmp_path, SETTINGS, lambda *given: seen.append(given)))
    figures = scalars(tmp_path)
    assert {"train_loss", "train_loss_ce", "train_accuracy", "dev_loss", "dev_accuracy", "seconds"} <= figures.keys()
    assert figures == of_history(run)
    assert stored(tmp_path) == [{**TOLD, "folder": str(tmp_path)}]
    assert [(epoch, given) for epoch, _, given in seen] == list(enumerate([{}, *run.record.history]))
    assert all(model is run.model for _, model, _ in seen)
    assert same_weights(run.model, train(data, backbone, None).model)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_training_that_goes_on_tells_no_epoch_twice(epoch: int, data, backbone, tmp_path) -> None:
    """The epoch at which it stopped was told, and is trained again."""
    logs = tmp_path / "logs"
    with pytest.raises(KeyboardInterrupt):
        train(data, backbone, tracker("tensorboard", logs, SETTINGS, stop_at(epoch)), tmp_path / "run")
    assert [step for step, _ in scalars(logs)["seconds"]] == [*range(1, epoch + 1)]
    next_second()
    run = train(data, backbone, tracker("tensorboard", logs, SETTINGS), tmp_path / "run")
    assert scalars(logs) == of_history(run)
    assert len(stored(logs)) == 1


def test_a_training_anew_takes_the_place_of_the_last(data, backbone, tmp_path) -> None:
    train(data, backbone, tracker("tensorboard", tmp_path, SETTINGS))
    next_second()
    run = train(data, backbone, tracker("tensorboard", tmp_path, SETTINGS | {"seed": 1}), seed=1, num_train_epochs=1)
    assert scalars(tmp_path) == of_history(run)
    assert [settings["seed"] for settings in stored(tmp_path)] == [0, 1]


TOGETHER = """
import sys
from pathlib import Path
from accelerate import PartialState
from helpers import small_task
from test_trackers import SETTINGS, of_history, tracker, train

folder = Path(sys.argv[1])
run = train(small_task(), folder / "backbone", tracker("tensorboard", folder, SETTINGS))
print("FOUND", of_history(run))
PartialState().destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="no gloo")
def test_of_two_processes_one_tells(tmp_path) -> None:
    save_backbone(tmp_path / "backbone")
    first, _ = run_together(TOGETHER, [str(tmp_path)], two_ranks())
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 1
    assert scalars(tmp_path) == ast.literal_eval(first.split("FOUND ")[1])
    assert len(stored(tmp_path)) == 1


# ----------------------------------------------------------------------------------------------- any other tracker
class Lines(GeneralTracker):
    """A tracker of one's own, as Accelerate lets anybody write one: what it is told, in lines of JSON."""

    name, requires_logging_directory = "lines", True

    def __init__(self, run_name: str, logging_dir: Path):
        super().__init__()
        self.path = Path(logging_dir) / f"{run_name}.jsonl"

    @property
    def tracker(self) -> Path:
        return self.path

    def add(self, *line: object) -> None:
        with open(self.path, "a") as file:
            print(json.dumps(line), file=file)

    def start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.add("start")

    def store_init_configuration(self, values: dict) -> None:
        self.add("settings", values)

    def log(self, values: dict, step: int | None = None, **_: object) -> None:
        self.add(step, values)

    def finish(self) -> None:
        self.add("finish")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "lines", Lines)
    return "lines"


def told(folder: Path) -> list[list]:
    return [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]


def test_a_training_that_fails_ends_its_tracker_and_the_next_opens_its_own(lines, data, backbone, tmp_path) -> None:
    out, settings = tmp_path / "run", ["settings", {**TOLD, "folder": str(tmp_path)}]
    with pytest.raises(KeyboardInterrupt):
        train(data, backbone, tracker(lines, tmp_path, SETTINGS, stop_at(2)), out)
    before = told(tmp_path)
    assert [line[0] for line in before] == ["start", "settings", 1, 2, "finish"]
    run = train(data, backbone, tracker(lines, tmp_path, SETTINGS), out)
    rows = [[epoch.pop("epoch"), epoch] for epoch in run.record.history]
    assert told(tmp_path)[len(before) :] == [["start"], settings, *rows[1:], ["finish"]]
    assert before[:3] == [["start"], settings, rows[0]]


def test_a_diverging_training_ends_its_tracker(lines, data, backbone, tmp_path) -> None:
    diverging = {"learning_rate": 1.0, "weight_decay": 1e30}
    with pytest.raises(FloatingPointError, match="not finite"):
        train(data, backbone, tracker(lines, tmp_path, SETTINGS), **diverging)
    assert [line[0] for line in told(tmp_path)] == ["start", "settings", "finish"]


def test_two_trackers_are_told_the_same_and_both_ended(lines, data, backbone, tmp_path) -> None:
    both = tracker("tensorboard", tmp_path, SETTINGS, tracker(lines, tmp_path, SETTINGS))
    run = train(data, backbone, both)
    assert scalars(tmp_path) == of_history(run)
    assert [line[0] for line in told(tmp_path)] == ["start", "settings", 1, 2, 3, "finish"]


# ------------------------------------------------------------------------------------------------ what cannot be had
def test_no_name_is_no_tracker(tmp_path) -> None:
    def look(*_: object) -> None:
        raise AssertionError("nobody calls it here")

    assert tracker("", tmp_path, SETTINGS) is None
    assert tracker("", tmp_path, SETTINGS, look) is look
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_accelerate_does_not_know_is_refused(tmp_path) -> None:
    names = "aim, comet_ml, mlflow, tensorboard, wandb, clearml, dvclive, swanlab, trackio"
    with pytest.raises(ConfigError) as error:
        tracker("x", tmp_path, SETTINGS)
    assert str(error.value) == f"log_with = 'x': must be one of {names}"


def test_a_tracker_that_is_not_installed_is_refused(tmp_path) -> None:
    absent = [str(kind) for kind in LoggerType if kind not in (LoggerType.ALL, *get_available_trackers())]
    assert "clearml" in absent
    for name in absent:
        with pytest.raises(ConfigError) as error:
            tracker(name, tmp_path, SETTINGS)
        assert str(error.value) == f"log_with = '{name}': must be installed; pip install {name}"
