"""The files by which a sweep knows its runs: a run has finished when its folder holds run.json, and only then."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat, ValidationError

from pkdlib.engine.configs import complaints

SWEEP_FILE = "sweep.json"  # the runs and teachers of the grid, in the sweep's folder
SPEC_FILE, RUN_FILE, FAILURE_FILE = "parameters.json", "run.json", "failure.json"  # at its start, at its two ends
NOTEBOOK_FILE, LOG_FILE = "notebook.ipynb", "log.txt"


class _Ended(BaseModel):
    """What run.json holds, of what is read again."""

    seconds: FiniteFloat


class _Failure(BaseModel):
    """What failure.json holds."""

    cause: str  # "machine" or "notebook"
    error: str  # its last lines
    notebook: str


class _Listed(BaseModel):
    """A run as sweep.json lists it."""

    folder: str


class _Sweep(BaseModel):
    """What sweep.json holds, of what is read again."""

    grid: str
    runs: list[_Listed]
    teachers: list[_Listed]


def read_json(path: Path, kind: type[BaseModel] | None = None) -> dict[str, Any]:
    """The file's object, with the fields of `kind` if that is given; ValueError with the file's name otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"must be an object of JSON, not {type(content).__name__}")
        if kind:
            kind.model_validate(content, strict=True)
        return content
    except ValidationError as error:
        raise ValueError(f"{path}: {complaints(kind or BaseModel, error)[0]}") from None
    except (ValueError, RecursionError) as error:  # of decoding too
        raise ValueError(f"{path}: {error}") from None


def finished(folder: Path) -> dict[str, Any] | None:
    """id, seconds, finished_at and host of a run that came to its end; None of any other."""
    return read_json(folder / RUN_FILE, _Ended) if (folder / RUN_FILE).is_file() else None


def failed(folder: Path) -> dict[str, Any] | None:
    """cause, error and notebook of a run that failed; None of any other."""
    return read_json(folder / FAILURE_FILE, _Failure) if (folder / FAILURE_FILE).is_file() else None


def listed(sweep: Path) -> dict[str, Any] | None:
    """grid, runs and teachers of a sweep.json, a folder each; None of a benchmark's record of the same name."""
    return read_json(sweep, _Sweep) if {"runs", "teachers"} <= read_json(sweep).keys() else None


def state(folder: Path) -> str:
    """How far a run is, in words."""
    if ended := finished(folder):
        return f"finished, {ended['seconds']:.0f} s"
    return "failed" if failed(folder) else "interrupted" if folder.exists() else "to do"
