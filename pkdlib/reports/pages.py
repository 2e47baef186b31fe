"""Notebooks as pages: one HTML file, figures inside it, equations as MathML, nothing fetched when it is opened."""

import re
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from pkdlib.engine.files import write_text

TEMPLATE = Path(__file__).with_name("page.html.j2")
WIDGET = "application/vnd.jupyter.widget-view+json"


def write_page(notebook: NotebookNode, path: Path, title: str, show_code: bool = True) -> None:
    """Write an executed notebook as an HTML page; its code is folded, or left out."""
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # cells that come from several notebooks may have the same one
        if cell.cell_type == "markdown":
            cell.source = _mathml(cell.source)
    exporter = HTMLExporter(
        template_name="classic", template_file=str(TEMPLATE), exclude_input=not show_code, exclude_input_prompt=True,
        exclude_output_prompt=True, exclude_anchor_links=True,
    )  # fmt: skip
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    write_text(path, page)


def _mathml(source: str) -> str:
    source = re.sub(r"\$\$(.+?)\$\$", lambda match: convert(match[1], display="block"), source, flags=re.DOTALL)
    return re.sub(r"\$([^$\n]+?)\$", lambda match: convert(match[1]), source)


def drop_widgets(notebook: NotebookNode) -> NotebookNode:
    """The notebook without its widgets, which are blank without a kernel; a static figure stands beside each."""
    notebook.metadata.pop("widgets", None)  # a code host refuses a notebook whose widgets' state is not complete
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return notebook


def drop_silent_texts(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the texts of which no code cell, up to the next text, shows anything."""
    kept: list[NotebookNode] = []
    shown = False
    for cell in reversed(notebook.cells):
        is_text = cell.cell_type == "markdown"
        if shown or not is_text:
            kept.insert(0, cell)
        shown = not is_text and (shown or bool(cell.outputs))
    notebook.cells = kept
    return notebook
