"""The report of a folder's runs: `report.ipynb`, executed, as one page; tables and figures lie beside it as files.

The folder is what a sweep wrote, or any one of result.json or .jsonl files. The page opens without a network.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import papermill
from IPython.core.pylabtools import print_figure
from IPython.display import HTML
from matplotlib.figure import Figure

from pkdlib.analysis.figures import STYLE
from pkdlib.engine.files import write_text
from pkdlib.reports.contents import read_folder
from pkdlib.reports.layouts import NONE, Drawing, as_latex
from pkdlib.reports.pages import write_page

NOTEBOOK = Path(__file__).with_name("report.ipynb")


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
    notebook = papermill.execute_notebook(
        NOTEBOOK, out / NOTEBOOK.name, {"folder": str(folder), "out": str(out)}, progress_bar=False, cwd=Path.cwd(),
        extra_arguments=["--log-level=ERROR"],
    )  # fmt: skip
    shown, silent = [], True  # from the end: a text stays if a cell between it and the next one shows something
    for cell in reversed(notebook.cells):
        silent = silent and not cell.get("outputs")
        if not silent:
            shown.insert(0, cell)
        silent = silent or cell.cell_type == "markdown"
    notebook.cells = shown
    write_page(notebook, out / "index.html", f"Runs: {folder.name}", show_code=False)
    return out / "index.html"
