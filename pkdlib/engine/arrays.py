"""Arrays on disk, written row by row and larger than memory, whose content is checked when they are opened."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import file_digest
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from pkdlib.engine.files import write_text
from pkdlib.engine.progress import say


def write_rows(batches: Iterable[tuple[Tensor, Mapping[Path, Tensor]]], rows: int) -> None:
    """Write .npy files of half precision, each (rows, ...), that get their names when all rows are there.

    batches: (positions, file -> values of these rows). Every file must be the caller's alone; its checksum goes beside
    it, as .json. Raises ValueError when values do not fit in half precision or their shape differs between batches,
    OSError when the disk is full.
    """
    arrays: dict[Path, np.memmap] = {}
    begun: set[Path] = set()
    try:
        for positions, values_of in batches:
            for path, values in values_of.items():
                begun.add(path)
                half = values.half().cpu().numpy()  # (batch, ...)
                if not np.isfinite(half).all():
                    raise ValueError("the teacher's outputs do not fit in half precision (not finite)")
                if path not in arrays:
                    part = path.with_suffix(".part")
                    arrays[path] = open_memmap(part, "w+", np.float16, (rows, *half.shape[1:]))
                    if hasattr(os, "posix_fallocate"):  # else a page without room on the disk ends the process
                        with open(part, "rb+") as file:
                            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
                if half.shape[1:] != arrays[path].shape[1:]:
                    raise ValueError(f"an output is {half.shape[1:]} per row here, {arrays[path].shape[1:]} before")
                arrays[path][positions.numpy()] = half
        for path, array in arrays.items():
            array.flush()
            part = path.with_suffix(".part")
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            write_text(path.with_suffix(".json"), json.dumps({"sha256": _checksum(part)}))
            os.replace(part, path)
    except OSError as error:
        error.filename = str(next(iter(begun)).parent)  # which a full disk does not say
        raise
    finally:
        for path in begun:
            path.with_suffix(".part").unlink(missing_ok=True)


def open_rows(paths: Mapping[str, Path], rows: int) -> dict[str, Tensor]:
    """The arrays (rows, ...) of `write_rows`'s files, by name, mapped; without those that are absent or damaged."""
    arrays = {}
    for name, path in ((name, path) for name, path in paths.items() if path.exists()):
        with suppress(OSError, ValueError, LookupError, TypeError):  # of JSON and of numpy too
            if json.loads(path.with_suffix(".json").read_text())["sha256"] == _checksum(path):
                array = np.load(path, mmap_mode="c")  # copy-on-write: torch wants memory that may be written to
                if array.dtype == np.float16 and len(array) == rows:
                    arrays[name] = torch.from_numpy(array)
        if name not in arrays:
            say(f"{path}: damaged, made anew")
    return arrays


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
