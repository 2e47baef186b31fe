"""What a student is to match: the teacher's outputs over a split, computed once and kept on disk by name."""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor
from transformers import PreTrainedModel

from pkdlib.data import EncodedSplit
from pkdlib.engine.arrays import open_rows, write_rows
from pkdlib.engine.checkpoints import weights_fingerprint
from pkdlib.engine.checks import Count, check_folder, check_wanted, checked, config_fingerprint
from pkdlib.engine.files import RUNS, digest
from pkdlib.engine.machine import installed_versions, make_accelerator
from pkdlib.evaluation import forward_split
from pkdlib.models import Output

CACHE = RUNS / "cache"
FORMAT = 3  # of the files; a new one leaves old files unread
Want = Callable[[Output], Tensor]  # (batch, ...), of one shape for every row


@dataclass(frozen=True)
class Targets:
    """The teacher's outputs for every row of a split: name -> (rows, ...), in half precision, mapped from files."""

    arrays: dict[str, Tensor]
    paths: dict[str, Path]

    def of(self, rows: Tensor) -> dict[str, Tensor]:
        """The outputs for some rows (batch,), by name: (batch, ...)."""
        return {name: array[rows] for name, array in self.arrays.items()}


@checked
def teacher_targets(
    teacher: PreTrainedModel, split: EncodedSplit, wants: Mapping[str, Want], folder: str | Path = CACHE,
    asks: Mapping[str, bool] | None = None, batch_size: Count = 128, accelerator: Accelerator | None = None,
    fingerprint: str | None = None,
) -> Targets:  # fmt: skip
    """Every wanted output of the teacher for every row of the split: read from `folder`, else computed in one pass.

    wants: name -> function of the teacher's output. The name stands for the function: a file is found by it, by the
    teacher's weights and configuration, the split's tokens, the precision, cls_alone and this library's code, so
    another function needs another name. asks: flags of the forward pass, `run`'s. fingerprint: of the teacher's
    weights, where it is known. A damaged file is made anew; runs that want the same outputs at once wait for the first.

    Raises ValueError when an output does not fit in half precision or its shape differs between batches.
    """
    accelerator = accelerator or make_accelerator()
    content = [FORMAT, fingerprint or weights_fingerprint(teacher), config_fingerprint(teacher), split.fingerprint]
    content += [accelerator.mixed_precision, installed_versions()["pkdlib"], str((asks or {}).get("cls_alone"))]
    folder = check_folder("cache_dir", folder)
    paths = {name: folder / f"{digest(json.dumps([*content, name]).encode())}.npy" for name in wants}
    arrays = open_rows(paths, len(split))
    if arrays.keys() != paths.keys():
        with FileLock(folder / f"{digest(json.dumps(content).encode())}.lock"):
            found = open_rows(paths, len(split)).keys()  # another run may have made them meanwhile
            missing = {paths[name]: check_wanted(name, want) for name, want in wants.items() if name not in found}
            with closing(forward_split(teacher, split, batch_size, accelerator, asks, "teacher outputs")) as passes:
                outputs = ((rows, {path: want(output) for path, want in missing.items()}) for rows, output in passes)
                write_rows(outputs if missing else (), len(split))
            arrays = open_rows(paths, len(split))
    return Targets(arrays, paths)
