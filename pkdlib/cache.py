"""The teacher's outputs over a split, computed once: logits and the needed [CLS] states, on disk, by content."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from pkdlib.data import EncodedSplit
from pkdlib.evaluation import forward_split, make_accelerator
from pkdlib.models import cls_states, weights_fingerprint

FORMAT = 1  # of the file; a new one leaves old files unread


@dataclass(frozen=True)
class TeacherOutputs:
    """Memory-mapped half-precision outputs of every row: logits (rows, classes), cls (rows, layers, hidden)."""

    logits: Tensor
    cls: Tensor
    path: Path
    teacher_weights: str  # their fingerprint

    def of(self, rows: Tensor) -> dict[str, Tensor]:
        """Of some rows (batch,), by the names in a batch: teacher_logits (batch, classes) and, where layers are
        matched, teacher_cls (batch, layers, hidden).
        """
        found = {"teacher_logits": self.logits[rows]}
        return found | {"teacher_cls": self.cls[rows]} if self.cls.shape[1] else found


def teacher_outputs(
    teacher: PreTrainedModel,
    split: EncodedSplit,
    layers: Sequence[int],
    folder: Path,
    batch_size: int = 128,
    accelerator: Accelerator | None = None,
) -> TeacherOutputs:
    """The teacher's logits and its [CLS] states after the given 1-based layers, for every row of the split.

    They are computed when no file of the same content (teacher weights, token ids, layers, precision) is in
    `folder`, else read. The file appears whole or not at all; runs that want it at once wait for the first.
    """
    accelerator = accelerator or make_accelerator()
    weights = weights_fingerprint(teacher)
    parts = [FORMAT, weights, split.fingerprint, list(layers), accelerator.mixed_precision]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]
    path = Path(folder) / f"{key}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                _build(teacher, split, list(layers), path, batch_size, accelerator)
    with safe_open(path, framework="pt") as file:
        return TeacherOutputs(file.get_tensor("logits"), file.get_tensor("cls"), path, weights)


def _build(
    teacher: PreTrainedModel,
    split: EncodedSplit,
    layers: list[int],
    path: Path,
    batch_size: int,
    accelerator: Accelerator,
) -> None:
    shapes = {
        "logits": (len(split), teacher.config.num_labels),
        "cls": (len(split), len(layers), teacher.config.hidden_size),
    }
    temporary = path.with_suffix(".part")  # ours alone: the caller holds the lock
    try:
        arrays = _create(temporary, shapes)
        passes = forward_split(teacher, split, batch_size, accelerator, hidden_states=True, label="teacher outputs")
        with closing(passes):  # a refused output, too, gives the teacher its mode back at once
            for rows, output in passes:
                index = rows.numpy()
                arrays["logits"][index] = _half(output.logits)
                if layers:
                    arrays["cls"][index] = _half(cls_states(output.hidden_states, layers))
        del arrays  # unmapped, and so written
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _half(tensor: Tensor) -> np.ndarray:
    half = tensor.half().cpu()  # the one wait for the device
    if not torch.isfinite(half).all():
        raise ValueError("the teacher's outputs do not fit in half precision (not finite)")
    return half.numpy()


def _create(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """An empty safetensors file of half-precision tensors, each memory-mapped to be filled row by row.

    The library's own writer wants whole tensors in memory; the format is a length, a JSON header and raw bytes.
    """
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return {
        name: np.memmap(path, np.float16, "r+", 8 + len(text) + header[name]["data_offsets"][0], shape)
        if np.prod(shape)
        else np.zeros(shape, np.float16)
        for name, shape in shapes.items()
    }
