"""Where a bad input can be given: each place takes one, and says what it does not take it for."""

# ruff: noqa: F401  (the table's expressions speak of these names)
import dataclasses
import io
import json
import math
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import bad_objectives
import numpy as np
import pandas as pd
import torch
from helpers import bert_config, make_record, mini_tokenizer, noisy_copy, save_backbone, save_model, small_data
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import BertModel, PreTrainedModel

import pkdlib
from pkdlib.__main__ import main
from pkdlib.analysis import paper, similarity, speed, statistics, tables
from pkdlib.data import Split, TaskData, encode_split, encode_task
from pkdlib.engine.files import ROOT
from pkdlib.engine.machine import make_accelerator
from pkdlib.engine.trackers import tracker
from pkdlib.readers.records import load_records
from pkdlib.readers.sources import load_split, load_task, load_texts
from pkdlib.records import save_result
from pkdlib.reports.report import read_folder
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
SWEEP = '{"grid": "g", "runs": [{"id": "a", "folder": "runs/a"}], "teachers": []}'
G = "text\tlabel\nfine\t1\nbad\t0\n"  # good rows
OWN = Task("own", ("text",), ("no", "yes"))
PAIRS = Task("own", ("one", "two"), ("no", "yes"))


def grid(old: str, new: str) -> str:
    """GRID with one part in place of another."""
    assert old in GRID
    return GRID.replace(old, new)


def record(**changes: Any) -> str:
    """A record's text with some fields changed."""
    return json.dumps(make_record().model_dump(mode="json") | changes)


def record_without(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(record()).items() if key != name})


@contextmanager
def no_update() -> Iterator[None]:
    """AssertionError when weights change: a refusal comes before that."""
    done: list[str] = []
    hook = register_optimizer_step_post_hook(lambda *_: done.append("an update"))
    try:
        yield
    finally:
        hook.remove()
    assert not done, f"work before the refusal: {done[0]}"


@contextmanager
def no_work() -> Iterator[None]:
    """AssertionError when a model passes over rows, too."""
    done: list[str] = []

    def passed(module: torch.nn.Module, _: Any) -> None:
        if isinstance(module, PreTrainedModel):
            done.append(f"a pass of {type(module).__name__}")

    hook = register_module_forward_pre_hook(passed)
    try:
        with no_update():
            yield
    finally:
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
        return eval(expression, globals() | vars(bad_objectives) | own)


# ---------------------------------------------------------------------------------- checkpoints, damaged in one thing
def _config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


def _weights(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return damage


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _cut(name: str, length: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def _without(*patterns: str) -> Callable[[Path], object]:
    return lambda folder: [file.unlink() for pattern in patterns for file in folder.glob(pattern)]


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no weights": _without("model.safetensors"),
    "pickled weights": _pickle,
    "empty weights": _write("model.safetensors", b""),
    "half the weights": _cut("model.safetensors", 5000),
    "a cut header": _cut("model.safetensors", 20),
    "noise for weights": _write("model.safetensors", b"x" * 5000),
    "no tensors": _weights(lambda weights: {}),
    "a layer missing": _weights(lambda weights: {k: v for k, v in weights.items() if "layer.1." not in k}),
    "no words": _weights(lambda weights: {k: v for k, v in weights.items() if "word_embeddings" not in k}),
    "no head": _weights(lambda weights: {k: v for k, v in weights.items() if "classifier" not in k}),
    "other names": _weights(lambda weights: {f"x.{k}": v for k, v in weights.items()}),
    "other shapes": _weights(lambda weights: {k: v[1:].clone() for k, v in weights.items()}),
    "weights not finite": _weights(lambda weights: {k: v * math.nan for k, v in weights.items()}),
    "no config": _without("config.json"),
    "empty config": _write("config.json", b""),
    "broken config": _write("config.json", b"{"),
    "a list for a config": _write("config.json", b"[]"),
    "bytes for a config": _write("config.json", b"\xff\xfe\x00"),
    "an empty mapping": _write("config.json", b"{}"),
    "an unknown type": _config(model_type="nonsense"),
    "another type": _config(model_type="gpt2"),
    "too many layers": _config(num_hidden_layers=6),
    "too few layers": _config(num_hidden_layers=2),
    "no layers": _config(num_hidden_layers=0),
    "layers as text": _config(num_hidden_layers="four"),
    "another width": _config(hidden_size=64),
    "odd heads": _config(num_attention_heads=5),
    "more words": _config(vocab_size=400),
    "an unknown activation": _config(hidden_act="nope"),
    "one class": _config(id2label={"0": "a"}, label2id={"a": 0}),
    "three classes": _config(id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2}),
    "no tokenizer": _without("*token*", "vocab*"),
    "an empty tokenizer": _write("tokenizer.json", b""),
    "a broken tokenizer": _write("tokenizer.json", b"{"),
    "a tokenizer of nothing": _write("tokenizer.json", b"{}"),
    "a broken tokenizer config": _write("tokenizer_config.json", b"{"),
}  # fmt: skip


# --------------------------------------------------------------------------------------------------- a place's input
def give(place: str, content: Any, kit: Kit, folder: Path) -> Any:
    """Give a place of the table its input, in a folder of its own."""
    kind, _, which = place.partition(" ")
    if kind == "notebook":
        return read_template(NOTEBOOKS[which]).check(content)
    if kind == "grid":
        (folder / "some.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_stages(folder / "some.yaml")
    if kind in ("data", "texts", "records", "report"):
        for name, text in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        if kind == "records":
            return load_records(folder)
        if kind == "report":
            return read_folder(folder)
        return load_texts(folder) if kind == "texts" else load_task({"": OWN, "pairs": PAIRS}[which], folder)
    if kind == "checkpoint":
        shutil.copytree(kit.teacher, folder / "model")
        DAMAGES[content](folder / "model")
        load = {"classifier": pkdlib.load_classifier, "backbone": pkdlib.load_backbone}
        load |= {
            "tokenizer": pkdlib.load_tokenizer,
            "teacher": lambda model: kit.evaluate("distill", folder)(teacher=model),
        }
        return load[which](folder / "model")
    if kind == "command":
        return _command(content, kit, folder)
    return kit.evaluate(content, folder)


def _command(line: str, kit: Kit, folder: Path) -> None:
    """Run a command in this process; ValueError with what it says on stderr when its status is 2."""
    files = {"bad.yaml": "notebook: [\n", "good.yaml": GRID, "file": "x", "broken/result.json": "{"}
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    shutil.copytree(kit.teacher, folder / "run")
    save_result(kit.record, folder / "run")
    results = ROOT / "data" / "results"
    names = {"tmp": folder, "out": folder / "out", "file": folder / "file", "run": folder / "run", "results": results}
    said = io.StringIO()
    with redirect_stderr(said):
        status = main([word.format(**names, teacher=kit.teacher) for word in shlex.split(line)])
    if status:
        assert status == 2
        raise ValueError(said.getvalue().removesuffix("\n"))
