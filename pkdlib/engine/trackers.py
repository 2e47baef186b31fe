"""Every epoch's figures for TensorBoard, Weights & Biases and others, through Accelerate's trackers."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType
from transformers import PreTrainedModel

from pkdlib.engine.checks import checked
from pkdlib.engine.configs import ConfigError, pick

# Called before training as epoch 0, with no figures, and after every epoch with its row of the history.
OnEpoch = Callable[[int, PreTrainedModel, dict[str, float]], None]
PROJECT = "pkd"  # where a tracker keeps the runs of many folders


def look(on_epoch: OnEpoch | None, epoch: int, model: Any, figures: Mapping[str, float]) -> None:
    """Call on_epoch, and give back the random numbers it draws: a look must not change the training."""
    if on_epoch is not None:
        with torch.random.fork_rng():
            on_epoch(epoch, model, {**figures})


@checked
def tracker(
    log_with: str, folder: str | Path, settings: Mapping[str, Any], then: OnEpoch | None = None
) -> OnEpoch | None:
    """An on_epoch that logs the settings once and every epoch's figures, and calls `then` after it.

    log_with: the name of one of Accelerate's trackers. "tensorboard" writes into folder/tensorboard, where a training
    that is resumed goes on; the others open a run of the project "pkd", by their own environment variables. "" gives
    `then`. The training ends the tracker, also where it fails. Raises ConfigError when the name is unknown or the
    tracker is not installed.
    """
    if not check_tracker(log_with):
        return then
    plain = {name: one if isinstance(one, bool | int | float | str) else str(one) for name, one in settings.items()}
    return _Log(log_with, Path(folder), {**plain, "folder": str(folder)}, then)


def check_tracker(log_with: str) -> str:
    """The name of a tracker that can be used, or nothing; ConfigError otherwise."""
    if log_with:
        pick("log_with", log_with, LOGGER_TYPE_TO_CLASS)
        if log_with in LoggerType.list() and LoggerType(log_with) not in get_available_trackers():
            raise ConfigError(f"log_with = {log_with!r}: must be installed; pip install {log_with}")
    return log_with


@dataclass
class _Log(AbstractContextManager):
    """What is entered for a training and called at its epochs; the main process alone logs."""

    kind: str
    folder: Path
    settings: dict[str, Any]
    then: OnEpoch | None
    tracker: GeneralTracker | None = None  # from the first call on
    ends: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        if isinstance(self.then, AbstractContextManager):
            self.ends.enter_context(self.then)
        return self

    def __call__(self, epoch: int, model: PreTrainedModel, figures: dict[str, float]) -> None:
        if PartialState().is_main_process:
            self.tracker = self.tracker or self._start(epoch)
            if figures:
                self.tracker.log({name: figure for name, figure in figures.items() if name != "epoch"}, step=epoch)
        if self.then is not None:
            self.then(epoch, model, figures)

    def __exit__(self, *error: Any) -> None:
        self.tracker = None
        self.ends.__exit__(*error)

    def _start(self, epoch: int) -> GeneralTracker:
        """Open the tracker at the training's first epoch here, 0 or, where it is resumed, a later one."""
        made, place = LOGGER_TYPE_TO_CLASS[self.kind], self.folder / self.kind
        # An epoch logged before a kill and trained again hides what TensorBoard was told of it.
        more = {"purge_step": epoch} if self.kind == "tensorboard" else {}
        tracker = made(self.kind, self.folder, **more) if made.requires_logging_directory else made(PROJECT)
        tracker.start()
        self.ends.callback(tracker.finish)
        told, settings = place / "settings.json", json.dumps(self.settings)
        if self.kind != "tensorboard":
            tracker.store_init_configuration(self.settings)  # of a run of its own
        elif not told.exists() or told.read_text(encoding="utf-8") != settings:
            tracker.store_init_configuration(self.settings)
            told.write_text(settings, encoding="utf-8")
        return tracker
