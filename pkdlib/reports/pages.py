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
            cell.source = re.sub(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", _mathml, cell.source, flags=re.DOTALL)
    exporter = HTMLExporter(
        template_name="classic", template_file=str(TEMPLATE), exclude_input=not show_code, exclude_input_prompt=True,
        exclude_output_prompt=True, exclude_anchor_links=True,
    )  # fmt: skip
    write_text(path, exporter.from_notebook_node(notebook, {"metadata": {"name": title}})[0])


def _mathml(equation: re.Match) -> str:
    return convert(equation[1], display="block") if equation[1] else convert(equation[2])


def drop_widgets(notebook: NotebookNode) -> NotebookNode:
    """The notebook without its widgets, which are blank without a kernel; a static figure stands beside each."""
    notebook.metadata.pop("widgets", None)  # a code host refuses a notebook whose widgets' state is not complete
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return notebook
