"""Arrays on disk, written row by row and larger than memory."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from torch import Tensor


def write_rows(batches: Iterable[tuple[Tensor, Mapping[Path, Tensor]]], rows: int) -> None:
    """Write .npy files of half precision, each (rows, ...), that get their names when all rows are there.

    batches: (positions, file -> values of these rows). Every file must be the caller's alone.
    Raises ValueError when values do not fit in half precision or their shape differs between batches.
    """
    arrays: dict[Path, np.memmap] = {}
    try:
        for positions, values_of in batches:
            for path, values in values_of.items():
                half = values.half().cpu().numpy()  # (batch, ...)
                if not np.isfinite(half).all():
                    raise ValueError("the teacher's outputs do not fit in half precision (not finite)")
                if path not in arrays:
                    arrays[path] = open_memmap(path.with_suffix(".part"), "w+", np.float16, (rows, *half.shape[1:]))
                if half.shape[1:] != arrays[path].shape[1:]:
                    raise ValueError(f"an output is {half.shape[1:]} per row here, {arrays[path].shape[1:]} before")
                arrays[path][positions.numpy()] = half
        for path, array in arrays.items():
            array.flush()
            os.replace(path.with_suffix(".part"), path)
    finally:
        for path in arrays:
            path.with_suffix(".part").unlink(missing_ok=True)
