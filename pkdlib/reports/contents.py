"""What lies in a folder of runs: records, the state of a sweep's runs, speed records; as tidy tables."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pkdlib.analysis.tables import results_frame
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE, RunRecord
from pkdlib.sweeps.folder import RUN_FILE, SPEC_FILE, SWEEP_FILE, failed, finished, read_json


@dataclass
class Contents:
    """What lies in a folder."""

    records: list[RunRecord]
    runs: list[dict[str, Any]] = field(default_factory=list)  # of a sweep: grid, id, state, seconds, error, notebook
    speed: dict[str, dict] = field(default_factory=dict)  # file -> what notebook 05 wrote

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [run for run in self.runs if run["state"] == "failed"]


def read_folder(folder: Path) -> Contents:
    """Every finished run, the state of those that a sweep lists, and the speed records.

    Raises FileNotFoundError where there is neither a run nor a sweep, ValueError naming a file that is not what it
    should be.
    """
    folder = Path(folder)
    results = sorted(file for file in folder.rglob(RESULT_FILE) if _finished(file.parent, folder))
    runs = [run for sweep in sorted(folder.rglob(SWEEP_FILE)) for run in _states(sweep)]
    files = results or ([] if runs else sorted(folder.glob("*.jsonl")))
    speed = {
        str(file.relative_to(folder)): read_json(file)
        for file in sorted(folder.rglob("*.json"))
        if "speed" in file.name
    }
    speed = {name: record for name, record in speed.items() if {"parameters", "speedups"} <= set(record)}
    if not (files or runs or speed):
        raise FileNotFoundError(f"{folder}: no runs there: no {SWEEP_FILE}, {RESULT_FILE} or .jsonl file")
    return Contents([record for file in files for record in load_records(file)], runs, speed)


def _finished(run: Path, folder: Path) -> bool:
    """Whether a result stands: a sweep's run that was killed may have left one, but no run.json."""
    for parent in (run, *run.parents):
        if (parent / SPEC_FILE).is_file():
            return (parent / RUN_FILE).is_file()
        if parent == folder:
            break
    return True


def _states(sweep: Path) -> list[dict[str, Any]]:
    """What became of every run that a sweep lists, and of every teacher that it made."""
    content, states = read_json(sweep), []
    if not {"runs", "teachers"} <= set(content):  # a benchmark's record may have the same name
        return []
    whats = {sweep.parent / entry["folder"]: "run" for entry in content["runs"]}
    whats |= {sweep.parent / entry["folder"]: "teacher" for entry in content["teachers"]}
    for file in sorted(sweep.parent.glob(f"runs/*/{RUN_FILE}")):
        whats.setdefault(file.parent, "run of an earlier grid")
    for run, what in whats.items():
        state = {"grid": content["grid"], "id": run.name, "what": what}
        if ended := finished(run):
            state |= {"state": "finished", "seconds": ended["seconds"]}
        elif failure := failed(run):
            named = (run / failure["notebook"]).relative_to(sweep.parent)
            state |= {**failure, "state": "failed", "notebook": str(named)}
        else:
            state |= {"state": "not finished"}
        states.append(state)
    return states


# ------------------------------------------------------------------------------------------------- tidy tables
def tidy_runs(records: Iterable[RunRecord]) -> pd.DataFrame:
    """A row per run, with its fingerprints, device and versions; lists as JSON text."""
    records = list(records)
    frame = results_frame(records)
    if frame.empty:
        return frame
    for kind, prefix in (("fingerprints", "fingerprint"), ("versions", "version")):
        values = pd.DataFrame([getattr(record, kind) for record in records]).add_prefix(f"{prefix}_")
        frame = pd.concat([frame, values], axis=1)
    frame["threads"] = [record.threads for record in records]
    for name in frame.columns[frame.map(lambda value: isinstance(value, list)).any()]:
        frame[name] = [json.dumps(value) if isinstance(value, list) else value for value in frame[name]]
    return frame


def counts_table(contents: Contents, records: list[RunRecord]) -> pd.DataFrame:
    """Of every grid how many runs and teachers are finished, failed or not finished, and the hours of the finished."""
    if not contents.runs:
        frame = results_frame(records).reindex(columns=["task", "method"])
        return pd.crosstab(frame["task"], frame["method"]).rename_axis(columns=None)
    frame = pd.DataFrame(contents.runs)
    frame["seconds"] = frame.get("seconds", pd.Series(0.0, index=frame.index)).fillna(0.0)
    table = frame.pivot_table(index=["grid", "what"], columns="state", values="id", aggfunc="count", fill_value=0)
    table = table.reindex(columns=["finished", "failed", "not finished"], fill_value=0)
    table["all"] = table.sum(axis=1)
    table["hours of the finished"] = (frame.groupby(["grid", "what"])["seconds"].sum() / 3600).map("{:.2f}".format)
    return table


def provenance(records: Iterable[RunRecord]) -> pd.DataFrame:
    """What the runs were made with, and how many of them: versions, devices, threads, rows, teachers, days."""
    rows = []
    for record in records:
        row = {f"version of {name}": version for name, version in record.versions.items()}
        row |= {"device": record.device, "threads": record.threads, "day": record.created_at[:10]}
        for kind, what in {"train": "training rows", "dev": "dev rows", "teacher_weights": "teacher's weights"}.items():
            if kind in record.fingerprints:
                row[f"{record.task}: {what}"] = record.fingerprints[kind]
        rows.append(row)
    counts = {name: values.value_counts().sort_index() for name, values in pd.DataFrame(rows).items()}
    texts = {name: ", ".join(f"{value} ({runs})" for value, runs in count.items()) for name, count in counts.items()}
    return pd.DataFrame({"value (runs)": texts})
