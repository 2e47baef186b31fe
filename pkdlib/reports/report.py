"""The report of a folder's runs: `report.ipynb`, executed, as one page; tables and figures lie beside it as files."""

import json
import re
from collections.abc import Iterable
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import papermill
from IPython.core.pylabtools import print_figure
from IPython.display import HTML
from matplotlib.figure import Figure
from papermill.exceptions import PapermillExecutionError

from pkdlib.analysis.figures import STYLE
from pkdlib.analysis.tables import results_frame
from pkdlib.engine.files import write_text
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE, RunRecord
from pkdlib.reports.layouts import NONE, Drawing, as_latex, speed_table
from pkdlib.reports.pages import write_page
from pkdlib.sweeps.folder import RUN_FILE, SPEC_FILE, SWEEP_FILE, failed, finished, listed, read_json

NOTEBOOK = Path(__file__).with_name("report.ipynb")


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
    for name, record in speed.items():
        try:
            speed_table(record)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / name}: no timings as notebook 05 writes them: {error!r}") from None
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


def show_table(
    out: Path, name: str, table: pd.DataFrame, index: bool = True, notes: Iterable[str] = (), kind: str = ""
) -> HTML | None:
    """A table of a class of style above notes, also written to `out` as LaTeX (booktabs); None of an empty one."""
    if table.empty:
        return None
    write_text(out / f"{file_name(name)}.tex", as_latex(table, index))
    html = table.to_html(index=index, border=0, na_rep=NONE, index_names=False, classes=kind)
    return HTML(html + "".join(f"<p class='note'>{escape(note)}</p>" for note in notes))


def show_figures(out: Path, drawings: Iterable[Drawing]) -> HTML | None:
    """Figures side by side, also written to `out` as SVG; None where there is none."""
    html = ""
    for caption, draw in drawings:
        with plt.style.context([STYLE, {"svg.hashsalt": "pkd"}]):
            figure = Figure(figsize=(5.2, 3.4), layout="constrained")
            draw(figure.subplots())
            png = print_figure(figure, bbox_inches=None, dpi=110, base64=True)
            svg = print_figure(figure, "svg", bbox_inches=None, metadata={"Date": None})
        write_text(out / f"{file_name(caption)}.svg", svg)
        image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{png}">'
        html += f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
    return HTML(f"<div class='figures'>{html}</div>") if html else None


def file_name(text: str) -> str:
    """A file's name from a caption: its letters and digits; a long one is cut and ends in a hash of the whole."""
    name = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
    return name if len(name) <= 80 else f"{name[:70]}-{sha256(text.encode()).hexdigest()[:8]}"


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Execute the notebook into `out` (FOLDER/report) and write it as index.html; the page's path.

    Raises FileNotFoundError or ValueError as `read_folder` does, before anything is written.
    """
    folder = Path(folder).resolve()
    out = Path(out or folder / "report").resolve()
    read_folder(folder)
    out.mkdir(parents=True, exist_ok=True)
    try:
        notebook = papermill.execute_notebook(
            NOTEBOOK, out / NOTEBOOK.name, {"folder": str(folder), "out": str(out)}, progress_bar=False,
            cwd=Path.cwd(), extra_arguments=["--log-level=ERROR"],
        )  # fmt: skip
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
