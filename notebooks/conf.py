"""Sphinx's settings for `make book`: the notebooks beside this file as they are, never executed; nothing is fetched."""

import re
from pathlib import Path

import nbformat
from docutils import nodes
from latex2mathml.converter import convert

project = html_title = "The PKD kit"
root_doc = "index"
include_patterns = ["index.md", "[0-9][0-9]_*.ipynb"]
extensions = ["myst_nb", "sphinx_design"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # the default comes from another host
html_theme = "sphinx_book_theme"
html_theme_options = {"navbar_persistent": [], "footer_content_items": [], "home_page_in_toc": True}


def card(path: Path) -> dict[str, str]:
    """What index.md shows of a notebook: its name, title, question and richest figure ("" where it has none)."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    figures = [data["image/png"].replace("\n", "") for data in outputs if "image/png" in data]
    title, question = re.match(r"# (.+)[\s\S]+?\*\*Question\.\*\* (.+)", cells[0].source).groups()
    return {"name": path.stem, "title": title, "question": question, "figure": max(figures, key=len, default="")}


def fill_index(app, name: str, source: list[str]) -> None:
    if name == root_doc:
        cards = [card(path) for path in sorted(app.srcdir.glob(include_patterns[1]))]
        source[0] = app.builder.templates.render_string(source[0], {"cards": cards})


def write_math(translator, node) -> None:
    """An equation as MathML, which browsers draw themselves."""
    block = isinstance(node, nodes.math_block)
    equation = convert(node.astext(), display="block" if block else "inline")
    translator.body.append(f"<p>{equation}</p>" if block else equation)
    raise nodes.SkipNode


def setup(app) -> None:
    app.connect("source-read", fill_index)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
