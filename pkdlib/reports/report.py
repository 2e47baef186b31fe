"""The report of a folder's runs: `report.ipynb`, executed, as one page; tables and figures lie beside it as files."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import papermill
from papermill.exceptions import PapermillExecutionError
from pydantic import BaseModel

from pkdlib.analysis.tables import results_frame
from pkdlib.engine.checks import check_folder
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE, RunRecord
from pkdlib.reports.pages import write_page
from pkdlib.sweeps.folder import RUN_FILE, SPEC_FILE, SWEEP_FILE, failed, finished, listed, read_json

NOTEBOOK = Path(__file__).with_name("report.ipynb")


class _Settings(BaseModel):
    hidden_size: int


class _Sizes(BaseModel):
    embedding: int
    transformer: int
    total: int


class _Timing(BaseModel):
    model: str
    speedup: float
    low: float
    high: float


class _Speed(BaseModel):
    """What notebook 05 writes, as far as a report shows it."""

    settings: _Settings
    parameters: dict[str, _Sizes]
    speedups: dict[str, list[_Timing]]


class Contents(NamedTuple):
    """Every finished run, the state of those that a sweep lists, and the speed records."""

    records: list[RunRecord]
    runs: list[dict[str, Any]]  # of a sweep: grid, id, what, state, seconds; of a failed one cause, error, notebook
    speed: dict[str, dict]  # file -> what notebook 05 wrote


def read_folder(folder: Path) -> Contents:
    """What lies in a folder; FileNotFoundError where there is nothing, ValueError naming a file that is broken."""
    killed = {spec.parent for spec in folder.rglob(SPEC_FILE) if not (spec.parent / RUN_FILE).is_file()}
    results = sorted(file for file in folder.rglob(RESULT_FILE) if killed.isdisjoint(file.parents))
    runs = [run for sweep in sorted(folder.rglob(SWEEP_FILE)) for run in _states(sweep)]
    files = results or ([] if runs else sorted(folder.glob("*.jsonl")))
    timed = {file: read_json(file) for file in sorted(folder.rglob("*speed*.json"))}
    speed = {
        str(file.relative_to(folder)): read_json(file, _Speed)
        for file, record in timed.items()
        if {"parameters", "speedups"} <= set(record)
    }
    if not (files or runs or speed):
        raise FileNotFoundError(f"{folder}: no runs there: no {SWEEP_FILE}, {RESULT_FILE} or .jsonl file")
    return Contents([record for file in files for record in load_records(file)], runs, speed)


def _states(sweep: Path) -> list[dict[str, Any]]:
    """What became of every run that a sweep lists, and of every teacher that it made."""
    content, folder, states = listed(sweep), sweep.parent, []
    if content is None:
        return []
    places = {folder / entry["folder"]: kind for kind in ("run", "teacher") for entry in content[f"{kind}s"]}
    earlier = {file.parent: "run of an earlier grid" for file in folder.glob(f"runs/*/{RUN_FILE}")}
    for run, what in (earlier | places).items():
        state = {"grid": content["grid"], "id": run.name, "what": what, "state": "not finished", "seconds": 0.0}
        if ended := finished(run):
            state |= {"state": "finished", "seconds": ended["seconds"]}
        elif failure := failed(run):
            state |= failure | {"state": "failed", "notebook": f"{run.relative_to(folder)}/{failure['notebook']}"}
        states.append(state)
    return states


def tidy_runs(records: list[RunRecord]) -> pd.DataFrame:
    """A row per run, with its fingerprints, device and versions; lists as JSON text."""
    fingerprints = pd.DataFrame([record.fingerprints for record in records]).add_prefix("fingerprint_")
    versions = pd.DataFrame([record.versions for record in records]).add_prefix("version_")
    frame = pd.concat([results_frame(records), fingerprints, versions], axis=1)
    for name in frame.columns[frame.map(lambda value: isinstance(value, list)).any()]:
        frame[name] = [json.dumps(value) if isinstance(value, list) else value for value in frame[name]]
    return frame.assign(threads=[record.threads for record in records]) if records else frame


def file_name(text: str) -> str:
    """A file's name from a caption: its letters and digits; a long one is cut and ends in a hash of the whole."""
    name = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
    return name if len(name) <= 80 else f"{name[:70]}-{sha256(text.encode()).hexdigest()[:8]}"


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Execute the notebook into `out` (FOLDER/report) and write its page, index.html; the page's path."""
    folder = Path(folder).resolve()
    out = Path(out or folder / "report").resolve()
    read_folder(folder)  # raises what it has to before anything is written
    check_folder("out", out)
    options = {"progress_bar": False, "cwd": Path.cwd(), "extra_arguments": ["--log-level=ERROR"]}
    parameters = {"folder": str(folder), "out": str(out)}
    try:
        notebook = papermill.execute_notebook(NOTEBOOK, out / NOTEBOOK.name, parameters, **options)
    except OSError as error:
        error.filename = error.filename or str(out)  # which a full disk does not say
        raise
    except PapermillExecutionError as error:
        told = f"{error.ename}: {error.evalue.partition(chr(10))[0]}"
        raise ValueError(f"{folder}: cannot be reported: {told}; see {out / NOTEBOOK.name}") from None
    shown, silent = [], True  # from the end: a text stays if a cell between it and the next one shows something
    for cell in reversed(notebook.cells):
        silent = silent and not cell.get("outputs")
        if not silent:
            shown.insert(0, cell)
        silent = silent or cell.cell_type == "markdown"
    notebook.cells = shown
    write_page(notebook, out / "index.html", f"Runs: {folder.name}", show_code=False)
    return out / "index.html"
