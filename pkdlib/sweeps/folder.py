"""The files by which a sweep knows its runs: a run has finished when its folder holds run.json, and only then."""

import json
from pathlib import Path
from typing import Any

SWEEP_FILE = "sweep.json"  # the runs and teachers of the grid, in the sweep's folder
SPEC_FILE, RUN_FILE, FAILURE_FILE = "parameters.json", "run.json", "failure.json"  # at its start, at its two ends
NOTEBOOK_FILE, LOG_FILE = "notebook.ipynb", "log.txt"


def read_json(path: Path) -> dict[str, Any]:
    """The file's content; ValueError with its name where it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of decoding too
        raise ValueError(f"{path}: {error}") from None


def finished(folder: Path) -> dict[str, Any] | None:
    """id, seconds, finished_at and host of a run that came to its end; None of any other."""
    return read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else None


def failed(folder: Path) -> dict[str, Any] | None:
    """cause ("machine" or "notebook"), error (its last lines) and notebook of a run that failed; None of any other."""
    return read_json(folder / FAILURE_FILE) if (folder / FAILURE_FILE).is_file() else None


def state(folder: Path) -> str:
    """How far a run is, in words."""
    if ended := finished(folder):
        return f"finished, {ended['seconds']:.0f} s"
    return "failed" if failed(folder) else "interrupted" if folder.exists() else "to do"
