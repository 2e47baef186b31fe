"""One HTML page and tidy tables of a folder's runs: `python -m pkdlib.report FOLDER [--out FOLDER/report]`.

FOLDER is what a sweep wrote, or any folder of result.json or .jsonl files. The page opens without a network.
"""

import argparse
import base64
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pkdlib.analysis.comparisons import (
    Comparison,
    all_differences,
    comparisons,
    main_comparisons,
    sensitivities,
    told_apart,
)
from pkdlib.analysis.comparisons import unique_runs as unique
from pkdlib.analysis.figures import STYLE, plot_ablation, plot_comparison, plot_history
from pkdlib.analysis.paper import COLUMNS, paper_table
from pkdlib.analysis.tables import history_frame, results_frame
from pkdlib.engine.files import write_text
from pkdlib.engine.machine import timestamp
from pkdlib.engine.progress import say
from pkdlib.records import RESULT_FILE, RunRecord, load_records
from pkdlib.reports import layouts
from pkdlib.sweeps.folder import RUN_FILE, SPEC_FILE, SWEEP_FILE, failed, finished, read_json

TEMPLATE = "report.html"


@dataclass
class Found:
    """What lies in a folder."""

    records: list[RunRecord]
    runs: list[dict[str, Any]] = field(default_factory=list)  # of a sweep: grid, id, state, seconds, error, notebook
    speed: dict[str, dict] = field(default_factory=dict)  # file -> what notebook 05 wrote

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [run for run in self.runs if run["state"] == "failed"]


def read_folder(folder: Path) -> Found:
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
    speed = {name: found for name, found in speed.items() if {"parameters", "speedups"} <= set(found)}
    if not (files or runs or speed):
        raise FileNotFoundError(f"{folder}: no runs there: no {SWEEP_FILE}, {RESULT_FILE} or .jsonl file")
    return Found([record for file in files for record in load_records(file)], runs, speed)


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
        found = pd.DataFrame([getattr(record, kind) for record in records]).add_prefix(f"{prefix}_")
        frame = pd.concat([frame, found], axis=1)
    frame["threads"] = [record.threads for record in records]
    for name in frame.columns[frame.map(lambda value: isinstance(value, list)).any()]:
        frame[name] = [json.dumps(value) if isinstance(value, list) else value for value in frame[name]]
    return frame


def counts_table(found: Found, records: list[RunRecord]) -> pd.DataFrame:
    """Of every grid how many runs and teachers are finished, failed or not finished, and the hours of the finished."""
    if not found.runs:
        frame = results_frame(records)
        return pd.crosstab(frame["task"], frame["method"]).rename_axis(columns=None)
    frame = pd.DataFrame(found.runs)
    frame["seconds"] = frame.get("seconds", pd.Series(0.0, index=frame.index)).fillna(0.0)
    table = frame.pivot_table(index=["grid", "what"], columns="state", values="id", aggfunc="count", fill_value=0)
    table = table.reindex(columns=["finished", "failed", "not finished"], fill_value=0)
    table["all"] = table.sum(axis=1)
    table["hours of the finished"] = (frame.groupby(["grid", "what"])["seconds"].sum() / 3600).map("{:.2f}".format)
    return table


def provenance(records: Iterable[RunRecord]) -> pd.DataFrame:
    """What the runs were made with, and how many of them: versions, devices, threads, rows, teachers, days."""
    counted: dict[str, Counter] = {}
    for record in records:
        values = {f"version of {name}": version for name, version in record.versions.items()}
        values |= {"device": record.device, "threads": record.threads, "day": record.created_at[:10]}
        for kind, what in {"train": "training rows", "dev": "dev rows", "teacher_weights": "teacher's weights"}.items():
            values[f"{record.task}: {what}"] = record.fingerprints.get(kind)
        for name, value in values.items():
            if value is not None:
                counted.setdefault(name, Counter())[value] += 1
    rows = {name: ", ".join(f"{value} ({found[value]})" for value in sorted(found)) for name, found in counted.items()}
    return pd.DataFrame({"value (runs)": rows})


# ------------------------------------------------------------------------------------------------------ figures
def figure(draw: Callable[[Axes], Any], caption: str, width: float = 5.2) -> dict[str, str]:
    """A chart as inline PNG, with its caption."""
    with plt.style.context(STYLE):
        drawn = Figure(figsize=(width, 3.4), layout="constrained")
        draw(drawn.subplots())
        data = io.BytesIO()
        drawn.savefig(data, format="png", dpi=110)
    return {"png": base64.b64encode(data.getvalue()).decode(), "caption": caption}


def comparison_figures(mains: dict[str, Comparison]) -> list[dict[str, str]]:
    """For every task and size of its main setting: the scores by method, and dev's by epoch."""
    figures = []
    for task, comparison in mains.items():
        metric = comparison.metrics[0]
        teacher = layouts.teacher_scores(comparison.teachers, metric)
        for size in comparison.sizes:
            runs = [record for record in comparison.records if record.config["num_hidden_layers"] == size]
            frame, history = comparison.frame(size), history_frame(runs).sort_values("method", kind="stable")
            line = sum(teacher) / len(teacher) if teacher else None
            what = f"{task}, {size} layers"
            by_epoch = f"dev_{metric.partition('_')[2]}"
            figures.append(figure(lambda ax: plot_comparison(frame, metric, ax, line), what))  # noqa: B023
            if by_epoch in history:
                figures.append(figure(lambda ax: plot_history(history, by_epoch, ax), f"{what}: learning curves"))  # noqa: B023
    return figures


def sensitivity_figures(found: list[Comparison], mains: dict[str, Comparison]) -> dict[str, list[dict[str, str]]]:
    """Under "main" where all but one field is as in the task's main setting; a full grid has many "other" ones."""
    figures: dict[str, list[dict[str, str]]] = {"main": [], "other": []}
    for comparison, name, size, table in sensitivities(found):
        if not pd.api.types.is_numeric_dtype(table[name]) or pd.api.types.is_bool_dtype(table[name]):
            table = table.assign(**{name: table[name].astype(str)})  # so that values can be ordered
        changed = told_apart({k: v for k, v in comparison.setting.items() if k != name}, mains[comparison.task].setting)
        rest = f"; {changed}" if changed else ""
        layers = "" if size is None else f", {size} layers"
        caption = f"{comparison.task}{layers}: {name.replace('_', ' ')}{rest}"
        drawn = figure(lambda ax: plot_ablation(table, name, comparison.metrics[0], ax), caption)  # noqa: B023
        figures["other" if changed else "main"].append(drawn)
    return figures


# --------------------------------------------------------------------------------------------------------- page
def as_html(table: pd.DataFrame, index: bool = True) -> Markup:
    return Markup(table.to_html(index=index, border=0, na_rep=layouts.NONE, index_names=False))


def render(found: Found, title: str) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """The page, the tidy runs and the differences."""
    records = unique(found.records)
    compared = comparisons(records)
    mains = main_comparisons(compared)
    differences = all_differences(compared)
    main = differences["setting"] == "main" if len(differences) else []
    shown = layouts.differences_table(differences)
    tables = {
        "counts": as_html(counts_table(found, records)) if found.runs or records else "",
        "models": as_html(layouts.model_table(mains)) if mains else "",
        "last_skip": _if_any(layouts.last_skip_table(mains)),
        "teachers": _if_any(layouts.teacher_table(compared)),
        "settings": as_html(layouts.settings_table(compared, mains), index=False) if len(compared) > len(mains) else "",
        "differences": _if_any(shown[main].drop(columns="setting"), index=False) if len(shown) else "",
        "other_differences": _if_any(shown[~main], index=False) if len(shown) else "",
        "speed": {name: as_html(layouts.speed_table(record)) for name, record in found.speed.items()},
        "provenance": as_html(provenance(records)) if records else "",
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template(TEMPLATE).render(
        title=title,
        made_at=timestamp(),
        tables=tables,
        runs=len(records),
        doubled=len(found.records) - len(records),
        hours=sum(sum(record.durations_s.values()) for record in records) / 3600,
        failures=found.failures,
        unfinished=[run for run in found.runs if run["state"] == "not finished"],
        main_settings=_settings_of(mains),
        comparison_figures=comparison_figures(mains),
        sensitivity_figures=sensitivity_figures(compared, mains),
        many=len(differences),
        references=_references(mains, found),
    )
    return page, tidy_runs(records), differences


def _if_any(table: pd.DataFrame, index: bool = True) -> str:
    return as_html(table, index) if len(table) else ""


def _references(mains: dict[str, Comparison], found: Found) -> list[dict[str, str]]:
    """Title, source and note of every table of the paper's and the authors' that may stand beside ours."""
    names = ("table_1", "table_2", "table_5", "dev") if set(mains) & set(COLUMNS) else ()
    return [paper_table(name).attrs for name in (*names, *(("table_4",) if found.speed else ()))]


def _settings_of(mains: dict[str, Comparison]) -> dict[str, str]:
    """Every main setting in full, and the tasks that have it."""
    tasks: dict[str, list[str]] = {}
    for task, comparison in mains.items():
        kept = {name: value for name, value in comparison.setting.items() if name != "task" and " rows" not in name}
        tasks.setdefault(told_apart(kept, dict.fromkeys(kept, object())), []).append(task)
    return {", ".join(names): text for text, names in tasks.items()}


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write index.html, runs.parquet, runs.csv and differences.csv into `out` (FOLDER/report); the page's path."""
    folder = Path(folder)
    out = folder / "report" if out is None else Path(out)
    page, runs, differences = render(read_folder(folder), folder.resolve().name)
    out.mkdir(parents=True, exist_ok=True)
    runs.to_parquet(out / "runs.parquet", index=False)
    write_text(out / "runs.csv", runs.to_csv(index=False))
    write_text(out / "differences.csv", differences.to_csv(index=False))
    write_text(out / "index.html", page)
    return out / "index.html"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a sweep's folder, or one of result.json or .jsonl files")
    parser.add_argument("--out", type=Path, help="where the report goes; FOLDER/report unless told")
    chosen = parser.parse_args(arguments)
    try:
        say(f"The page: {write_report(chosen.folder, chosen.out)}")
    except (FileNotFoundError, ValueError) as error:
        say(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
