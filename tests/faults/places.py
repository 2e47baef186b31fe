"""Where a bad input can be given. Each place takes one; what it says of it is an exception's text or a line on stderr."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from helpers import bert_config, make_record, mini_tokenizer, noisy_copy, save_backbone, save_model, small_data
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import BertModel, PreTrainedModel

import pkdlib
from pkdlib.analysis import comparisons, paper, similarity, speed, statistics, tables
from pkdlib.data import Split, TaskData, encode_split, encode_task
from pkdlib.engine.files import ROOT
from pkdlib.engine.machine import make_accelerator
from pkdlib.readers.records import load_records
from pkdlib.readers.sources import load_split, load_task, load_texts
from pkdlib.reports.archive import check_archive
from pkdlib.sweeps.notebooks import read_template
from pkdlib.sweeps.runner import read_stages, run_sweep
from pkdlib.targets import teacher_targets
from pkdlib.tasks import Task, get_task

NOTEBOOKS = {path.stem[:2]: path.stem for path in (ROOT / "notebooks").glob("0*.ipynb")}
GRID = """
notebook: 02_distill_last_vs_skip
parameters: {teacher.train_rows: 64}
grid:
  methods: [FT, KD]
  student_layers: [3, 2]
seeds: [0, 1]
"""
OWN = Task("own", ("text",), ("no", "yes"))
PAIRS = Task("own", ("one", "two"), ("no", "yes"))


@contextmanager
def no_work() -> Iterator[None]:
    """AssertionError when a model passes over rows or its weights change: a refusal comes before that."""
    done: list[str] = []

    def passed(module: torch.nn.Module, _: Any) -> None:
        if isinstance(module, PreTrainedModel):
            done.append(f"a pass of {type(module).__name__}")

    hooks = [register_optimizer_step_post_hook(lambda *_: done.append("an update"))]
    hooks += [register_module_forward_pre_hook(passed)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    assert not done, f"work before the refusal: {done[0]}"


class Kit:
    """What expressions of the table speak of: a backbone of four layers, a teacher of it, rows that both read."""

    def __init__(self, folder: Path):
        self.task_data = small_data()
        self.data = encode_task(self.task_data, mini_tokenizer(), 64)
        self.backbone = str(save_backbone(folder / "backbone"))
        self.model = noisy_copy(pkdlib.load_backbone(self.backbone), self.data.task.label_names)
        self.teacher = str(save_model(self.model, folder / "teacher"))
        self.train, self.dev, self.test = (self.data.splits[name] for name in ("train", "dev", "test"))
        self.record = make_record()

    def config(self, kind: type = pkdlib.DistillConfig, **changes: Any) -> Any:
        values = {"backbone": self.backbone, "num_train_epochs": 1, "num_hidden_layers": 2, "train_batch_size": 16}
        return pkdlib.validate(kind, **values | changes)

    def distill(self, out: Any = None, cache: Any = None, data: Any = None, teacher: Any = ..., on_epoch: Any = None,
                objective: Any = None, **changes: Any) -> Any:  # fmt: skip
        more = {} if objective is None else {"objective": objective}
        teacher = self.model if teacher is ... else teacher
        cache = self.tmp / "cache" if cache is None else cache
        return pkdlib.distill(data or self.data, self.config(**changes), teacher, out, cache, on_epoch, **more)

    def fine_tune(self, out: Any = None, data: Any = None, on_epoch: Any = None, **changes: Any) -> Any:
        config = self.config(pkdlib.FineTuneConfig, **changes)
        return pkdlib.fine_tune(data or self.data, config, out, on_epoch=on_epoch)

    def with_split(self, name: str = "train", **changes: Any) -> Any:
        """The rows encoded anew, one split of them changed."""
        splits = self.task_data.splits | {name: dataclasses.replace(self.task_data.splits[name], **changes)}
        return encode_task(dataclasses.replace(self.task_data, splits=splits), mini_tokenizer(), 64)

    def without_split(self, name: str) -> Any:
        splits = {key: split for key, split in self.task_data.splits.items() if key != name}
        return encode_task(dataclasses.replace(self.task_data, splits=splits), mini_tokenizer(), 64)

    def evaluate(self, expression: str, tmp_path: Path) -> Any:
        self.tmp = tmp_path
        own = {name: getattr(self, name) for name in dir(self) if not name.startswith("_")}
        return eval(expression, globals() | vars(__import__("objectives_of_tests")) | own)
