"""What lies in a folder of runs: records, the state of a sweep's runs, speed records; as tidy tables."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pkdlib.analysis.tables import results_frame
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE, RunRecord
from pkdlib.sweeps.folder import RUN_FILE, SPEC_FILE, SWEEP_FILE, failed, finished, read_json


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
    named = {str(file.relative_to(folder)): read_json(file) for file in sorted(folder.rglob("*speed*.json"))}
    speed = {name: record for name, record in named.items() if {"parameters", "speedups"} <= set(record)}
    if not (files or runs or speed):
        raise FileNotFoundError(f"{folder}: no runs there: no {SWEEP_FILE}, {RESULT_FILE} or .jsonl file")
    return Contents([record for file in files for record in load_records(file)], runs, speed)


def _states(sweep: Path) -> list[dict[str, Any]]:
    """What became of every run that a sweep lists, and of every teacher that it made."""
    content, folder, states = read_json(sweep), sweep.parent, []
    if not {"runs", "teachers"} <= set(content):  # a benchmark's record may have the same name
        return []
    listed = {folder / entry["folder"]: kind for kind in ("run", "teacher") for entry in content[f"{kind}s"]}
    earlier = {file.parent: "run of an earlier grid" for file in folder.glob(f"runs/*/{RUN_FILE}")}
    for run, what in (earlier | listed).items():
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


def counts_table(contents: Contents, records: list[RunRecord]) -> pd.DataFrame:
    """Of every grid how many runs and teachers are finished, failed or not finished, and the hours of the finished."""
    if not contents.runs:
        frame = results_frame(records).reindex(columns=["task", "method"])
        return pd.crosstab(frame["task"], frame["method"]).rename_axis(columns=None)
    frame = pd.DataFrame(contents.runs)
    table = pd.crosstab([frame["grid"], frame["what"]], frame["state"]).rename_axis(columns=None)
    table = table.reindex(columns=["finished", "failed", "not finished"], fill_value=0)
    hours = frame.groupby(["grid", "what"])["seconds"].sum() / 3600
    return table.assign(all=table.sum(axis=1), **{"hours of the finished": hours.map("{:.2f}".format)})
