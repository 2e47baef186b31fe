"""Sphinx's settings for `make book`: notebooks as they are, never executed, and the guide; nothing is fetched."""

import re
from pathlib import Path

import nbformat
from docutils import nodes
from latex2mathml.converter import convert

project = html_title = "The PKD kit"
root_doc = "index"
NOTEBOOKS = "[0-9][0-9]_*.ipynb"
include_patterns = ["index.md", NOTEBOOKS, "guide/*.md"]
extensions = ["myst_nb", "sphinx_design"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 2  # PAGE.md#a-heading, as code hosts have it
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


def edit_source(app, name: str, source: list[str]) -> None:
    """Fill the gallery; a guide's link to a file of the repository outside the book becomes the link's text alone."""
    if name == root_doc:
        cards = [card(path) for path in sorted(app.srcdir.glob(NOTEBOOKS))]
        source[0] = app.builder.templates.render_string(source[0], {"cards": cards})
    elif name.startswith("guide/"):
        source[0] = re.sub(r"\[([^]]+)\]\(\.\./\.\./[^)]+\)", r"\1", source[0])


def write_math(translator, node) -> None:
    """An equation as MathML, which browsers draw themselves."""
    block = isinstance(node, nodes.math_block)
    equation = convert(node.astext(), display="block" if block else "inline")
    translator.body.append(f"<p>{equation}</p>" if block else equation)
    raise nodes.SkipNode


def setup(app) -> None:
    app.connect("source-read", edit_source)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
