"""The report of a folder's runs: `report.ipynb`, executed, as one page; tables and figures lie beside it as files.

The folder is what a sweep wrote, or any one of result.json or .jsonl files. The page opens without a network.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import papermill
from IPython.core.pylabtools import print_figure
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pkdlib.analysis.comparisons import all_differences, comparisons, main_comparisons, told_apart, unique_runs
from pkdlib.analysis.figures import STYLE
from pkdlib.engine.files import write_text
from pkdlib.engine.machine import timestamp
from pkdlib.reports.contents import read_folder, tidy_runs
from pkdlib.reports.layouts import NONE, Drawing, as_latex
from pkdlib.reports.pages import write_page

NOTEBOOK = Path(__file__).with_name("report.ipynb")


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
        self.failed, self.unfinished = (
            [run for run in self.contents.runs if run["state"] == state] for state in ("failed", "not finished")
        )

    def write_data(self) -> None:
        """Write runs.parquet and runs.csv, a row per run, and differences.csv."""
        runs = tidy_runs(self.records)
        write_text(self.out / "runs.csv", runs.to_csv(index=False))
        write_text(self.out / "differences.csv", self.differences.to_csv(index=False))
        runs.to_parquet(self.out / "runs.parquet", index=False)

    def what_was_run(self) -> HTML:
        """How many runs there are, left out as doubled, failed and not finished."""
        runs, doubled = len(self.records), len(self.contents.records) - len(self.records)
        hours = sum(sum(record.durations_s.values()) for record in self.records) / 3600
        text = f"Written {timestamp()}: {runs} finished run{'s' * (runs != 1)}, teachers included"
        text += f"; {hours:.1f} hours of training and evaluation." if runs else "."
        if doubled:
            text += f" Left out as doubled, of equal settings, seed, data and teacher: {doubled}; a run counts once."
        if self.failed:
            text += f" <strong>{len(self.failed)} failed</strong>: see <a href='#Failures'>below</a>."
        if self.unfinished:
            named = f": {escape(', '.join(run['id'] for run in self.unfinished))}" * (len(self.unfinished) <= 20)
            text += f" <strong>{len(self.unfinished)} not finished</strong>{named}."
        return HTML(f"<p>{text}</p>")

    def failures(self) -> HTML | None:
        parts = [
            f"<div class='failed'><p><b>{escape(run['id'])}</b> ({escape(run['grid'])}; cause: {escape(run['cause'])})"
            f"<br>notebook: <code>{escape(run['notebook'])}</code></p><pre>{escape(run['error'])}</pre></div>"
            for run in self.failed
        ]
        return _shown("".join(parts))

    def main_settings(self) -> list[str]:
        """Every main setting in full, after the tasks that have it."""
        tasks = defaultdict(list)
        for task, comparison in self.mains.items():
            kept = {name: value for name, value in comparison.setting.items() if name != "task" and " rows" not in name}
            tasks[told_apart(kept, dict.fromkeys(kept, object()))].append(escape(task))
        return [f"<strong>{', '.join(names)}</strong>, main setting: {escape(text)}." for text, names in tasks.items()]

    def table(
        self, name: str, table: pd.DataFrame, index: bool = True, notes: Iterable[str] = (), kind: str = "",
        folded: str = "",
    ) -> HTML | None:  # fmt: skip
        """A table above notes, which are HTML; `kind` is its class of style, `folded` the title that unfolds it."""
        if table.empty:
            return None
        write_text(self.out / "tables" / f"{file_name(name)}.tex", as_latex(table, index))
        html = table.to_html(index=index, border=0, na_rep=NONE, index_names=False, classes=kind)
        return _shown(html + "".join(f"<p class='note'>{note}</p>" for note in notes), folded)

    def figures(self, drawings: Iterable[Drawing], folded: str = "") -> HTML | None:
        """Figures side by side; under a title that folds them where there is one, folded when they are many."""
        drawn = [self._figure(*drawing) for drawing in drawings]
        return _shown(f"<div class='figures'>{''.join(drawn)}</div>" if drawn else "", folded, len(drawn) <= 12)

    def _figure(self, caption: str, draw: Callable[[Axes], Any]) -> str:
        with plt.style.context([STYLE, {"svg.hashsalt": "pkd"}]):
            figure = Figure(figsize=(5.2, 3.4), layout="constrained")
            draw(figure.subplots())
            png = print_figure(figure, bbox_inches=None, dpi=110, base64=True)
            svg = print_figure(figure, "svg", bbox_inches=None, metadata={"Date": None})
        write_text(self.out / "figures" / f"{file_name(caption)}.svg", svg)
        text = escape(caption)
        return f'<figure><img alt="{text}" src="data:image/png;base64,{png}"><figcaption>{text}</figcaption></figure>'


def _shown(html: str, folded: str = "", unfolded: bool = False) -> HTML | None:
    """What a cell shows, under a title that folds it where there is one; None of nothing."""
    if folded and html:
        html = f"<details{' open' * unfolded}><summary>{folded}</summary>{html}</details>"
    return HTML(html) if html else None


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
    notebook = papermill.execute_notebook(
        NOTEBOOK, out / NOTEBOOK.name, {"folder": str(folder), "out": str(out)}, progress_bar=False, cwd=Path.cwd(),
        extra_arguments=["--log-level=ERROR"],
    )  # fmt: skip
    sections: list[list] = [[]]  # a text and the cells below it; those that show nothing are left out
    for cell in notebook.cells:
        sections += [[]] if cell.cell_type == "markdown" else []
        sections[-1].append(cell)
    notebook.cells = sum((cells for cells in sections if any(cell.get("outputs") for cell in cells)), [])
    write_page(notebook, out / "index.html", f"Runs: {folder.name}", show_code=False)
    return out / "index.html"
