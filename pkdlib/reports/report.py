"""The report of a folder's runs: `report.ipynb`, executed, as one page; tables and figures lie beside it as files.

The folder is what a sweep wrote, or any one of result.json or .jsonl files. The page opens without a network.
"""

import base64
import io
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import papermill
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pkdlib.analysis.comparisons import (
    Comparison,
    all_differences,
    comparisons,
    main_comparisons,
    sensitivities,
    told_apart,
    unique_runs,
)
from pkdlib.analysis.figures import STYLE, plot_ablation, plot_comparison, plot_history
from pkdlib.analysis.tables import history_frame, results_frame
from pkdlib.engine.files import write_text
from pkdlib.engine.machine import timestamp
from pkdlib.reports import layouts
from pkdlib.reports.contents import read_folder, tidy_runs
from pkdlib.reports.pages import drop_silent_texts, write_page

NOTEBOOK = Path(__file__).with_name("report.ipynb")


# ------------------------------------------------------------------------------------------------------ figures
Drawing = tuple[str, Callable[[Axes], Any]]  # a caption, and what draws the figure


def comparison_figures(mains: dict[str, Comparison]) -> Iterator[Drawing]:
    """For every task and size of its main setting: the scores by method, and dev's by epoch."""
    for task, comparison in mains.items():
        metric = comparison.metrics[0]
        by_epoch = f"dev_{metric.partition('_')[2]}"
        teachers = results_frame(comparison.teachers)
        line = teachers[metric].mean() if metric in teachers else None
        for size in comparison.sizes:
            runs = [record for record in comparison.records if record.config["num_hidden_layers"] == size]
            history = history_frame(runs).sort_values("method", kind="stable")
            what = f"{task}, {size} layers"
            yield what, partial(plot_comparison, comparison.frame(size), metric, teacher=line)
            if by_epoch in history:
                yield f"{what}: learning curves", partial(plot_history, history, by_epoch)


def sensitivity_figures(compared: list[Comparison]) -> dict[str, list[Drawing]]:
    """Under "main" where all but one field is as in the task's main setting; a full grid has many "other" ones."""
    mains = main_comparisons(compared)
    figures: dict[str, list[Drawing]] = {"main": [], "other": []}
    for comparison, name, size, table in sensitivities(compared):
        if not pd.api.types.is_numeric_dtype(table[name]) or pd.api.types.is_bool_dtype(table[name]):
            table = table.assign(**{name: table[name].astype(str)})  # so that values can be ordered
        changed = told_apart({k: v for k, v in comparison.setting.items() if k != name}, mains[comparison.task].setting)
        rest = f"; {changed}" if changed else ""
        layers = "" if size is None else f", {size} layers"
        caption = f"{comparison.task}{layers}: {name.replace('_', ' ')}{rest}"
        draw = partial(plot_ablation, table, name, comparison.metrics[0])
        figures["other" if changed else "main"].append((caption, draw))
    return figures


# -------------------------------------------------------------------------------------------- what cells show
class Report:
    """A folder's runs, compared. Its methods return what the notebook's cells show: HTML, or None for nothing.

    Every table and figure is also written below `out`: tables/NAME.tex (booktabs) and figures/NAME.svg.
    """

    def __init__(self, folder: str | Path, out: str | Path):
        self.folder, self.out = Path(folder), Path(out)
        self.contents = read_folder(self.folder)
        self.records = unique_runs(self.contents.records)
        self.compared = comparisons(self.records)
        self.mains = main_comparisons(self.compared)
        self.differences = all_differences(self.compared)

    def write_data(self) -> None:
        """Write runs.parquet and runs.csv, a row per run, and differences.csv."""
        runs = tidy_runs(self.records)
        self.out.mkdir(parents=True, exist_ok=True)
        runs.to_parquet(self.out / "runs.parquet", index=False)
        write_text(self.out / "runs.csv", runs.to_csv(index=False))
        write_text(self.out / "differences.csv", self.differences.to_csv(index=False))

    def what_was_run(self) -> HTML:
        """How many runs there are, left out as doubled, failed and not finished."""
        runs, doubled = len(self.records), len(self.contents.records) - len(self.records)
        hours = sum(sum(record.durations_s.values()) for record in self.records) / 3600
        text = f"Written {timestamp()}: {runs} finished run{'s' * (runs != 1)}, teachers included"
        text += f"; {hours:.1f} hours of training and evaluation." if runs else "."
        if doubled:
            text += f" {doubled} more record{'s' * (doubled != 1)} of the same settings, seed, data and teacher "
            text += f"{'was' if doubled == 1 else 'were'} left out: a run counts once."
        if self.contents.failures:
            text += f" <strong>{len(self.contents.failures)} failed</strong>: see <a href='#Failures'>below</a>."
        if unfinished := [run["id"] for run in self.contents.runs if run["state"] == "not finished"]:
            named = f": {escape(', '.join(unfinished))}" if len(unfinished) <= 20 else ""
            text += f" <strong>{len(unfinished)} not finished</strong>{named}."
        return HTML(f"<p>{text}</p>")

    def table(
        self, name: str, table: pd.DataFrame, index: bool = True, notes: Iterable[str] = (), kind: str = "",
        folded: str = "",
    ) -> HTML | None:  # fmt: skip
        """A table above notes, which are HTML; `kind` is its class of style, `folded` the title that unfolds it."""
        if table.empty:
            return None
        write_text(self.out / "tables" / f"{file_name(name)}.tex", layouts.as_latex(table, index))
        html = table.to_html(index=index, border=0, na_rep=layouts.NONE, index_names=False)
        html = f"<div class='table {kind}'>{html}</div>" + "".join(f"<p class='note'>{note}</p>" for note in notes)
        return HTML(f"<details><summary>{folded}</summary>{html}</details>" if folded else html)

    def figures(self, drawings: Iterable[Drawing], folded: str = "") -> HTML | None:
        """Figures side by side; under a title that folds them where there is one, folded when they are many."""
        drawn = [self._figure(*drawing) for drawing in drawings]
        html = f"<div class='figures'>{''.join(drawn)}</div>"
        if folded:
            html = f"<details{' open' * (len(drawn) <= 12)}><summary>{folded}</summary>{html}</details>"
        return HTML(html) if drawn else None

    def _figure(self, caption: str, draw: Callable[[Axes], Any]) -> str:
        png, svg = io.BytesIO(), io.StringIO()
        with plt.style.context([STYLE, {"svg.hashsalt": "pkd"}]):
            drawn = Figure(figsize=(5.2, 3.4), layout="constrained")
            draw(drawn.subplots())
            drawn.savefig(png, format="png", dpi=110)
            drawn.savefig(svg, format="svg", metadata={"Date": None})
        write_text(self.out / "figures" / f"{file_name(caption)}.svg", svg.getvalue())
        data, text = base64.b64encode(png.getvalue()).decode(), escape(caption)
        return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'

    def main_settings(self) -> list[str]:
        """Every main setting in full, after the tasks that have it."""
        tasks: dict[str, list[str]] = {}
        for task, comparison in self.mains.items():
            kept = {name: value for name, value in comparison.setting.items() if name != "task" and " rows" not in name}
            tasks.setdefault(told_apart(kept, dict.fromkeys(kept, object())), []).append(task)
        return [
            f"<strong>{escape(', '.join(names))}</strong>, main setting: {escape(text)}."
            for text, names in tasks.items()
        ]

    def failures(self) -> HTML | None:
        parts = [
            f"<div class='failed'><p><b>{escape(run['id'])}</b> ({escape(run['grid'])}; cause: {escape(run['cause'])})"
            f"<br>notebook: <code>{escape(run['notebook'])}</code></p><pre>{escape(run['error'])}</pre></div>"
            for run in self.contents.failures
        ]
        return HTML("".join(parts)) if parts else None


def file_name(text: str) -> str:
    """A file's name from a caption: its letters and digits; a long one is cut and ends in a hash of the whole."""
    name = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
    return name if len(name) <= 80 else f"{name[:70]}-{sha256(text.encode()).hexdigest()[:8]}"


# --------------------------------------------------------------------------------------------------- the page
def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Execute the notebook into `out` (FOLDER/report) and write it as index.html; the page's path.

    Raises FileNotFoundError or ValueError as `read_folder` does, before anything is written.
    """
    folder = Path(folder).resolve()
    out = folder / "report" if out is None else Path(out).resolve()
    read_folder(folder)
    out.mkdir(parents=True, exist_ok=True)
    executed = out / NOTEBOOK.name
    parameters = {"folder": str(folder), "out": str(out)}
    papermill.execute_notebook(
        NOTEBOOK, executed, parameters, progress_bar=False, cwd=Path.cwd(), extra_arguments=["--log-level=ERROR"]
    )
    notebook = drop_silent_texts(nbformat.read(executed, as_version=4))
    write_page(notebook, out / "index.html", f"Runs: {folder.name}", show_code=False)
    return out / "index.html"
