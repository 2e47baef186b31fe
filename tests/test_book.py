"""`make book`'s pages: a gallery of every notebook, all figures and equations, nothing fetched and nothing run."""

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from pkdlib import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEW = "98_added"


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The pages of the committed notebooks, of one added without any other change, and of none that has no number."""
    out = tmp_path_factory.mktemp("book")
    source = out / "notebooks"
    shutil.copytree(ROOT / "notebooks", source, ignore=shutil.ignore_patterns(".*"))
    opening = nbformat.v4.new_markdown_cell("# 98 · Added\n\n**Question.** Is it *found*?\n\n**Before this.** Nothing.")
    cells = [opening, nbformat.v4.new_code_cell(f"open({str(out / 'executed')!r}, 'w')")]
    metadata = nbformat.read(NOTEBOOKS[0], as_version=4).metadata
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), source / f"{NEW}.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=cells[1:], metadata=metadata), source / "Untitled.ipynb")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(source), str(out / "html")]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert not (out / "executed").exists()
    return out / "html"


def page(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def cells(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def figures(path: Path) -> list[bytes]:
    outputs = [output.get("data", {}) for cell in cells(path, "code") for output in cell.outputs]
    return [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]


def test_the_gallery_shows_every_notebook_s_title_question_and_a_figure_of_it(book: Path) -> None:
    cards = page(book / "index.html").select("article .sd-card")
    assert [card.a["href"] for card in cards] == [f"{path.stem}.html" for path in NOTEBOOKS] + [f"{NEW}.html"]
    for path, card in zip(NOTEBOOKS, cards, strict=False):
        title, question = re.match(r"# (.+)\n\n\*\*Question\.\*\* (.+)", cells(path, "markdown")[0].source).groups()
        opening = re.split(r"[$*`]", f"{title} {question}")[0].replace("'", "’")  # as far as it is plain text
        assert len(opening) > len(title) and " ".join(card.get_text().split()).startswith(opening)
        shown = [base64.b64decode(image["src"].partition("base64,")[2]) for image in card.select("img")]
        assert len(shown) == bool(figures(path)) and set(shown) <= set(figures(path))
    assert "Is it found?" in cards[-1].get_text() and not cards[-1].select("img")


def test_every_page_has_the_table_of_contents_in_order(book: Path) -> None:
    names = ["index", *(path.stem for path in NOTEBOOKS), NEW]
    assert sorted(names) == sorted(path.stem for path in book.glob("*.html") if path.stem not in ("genindex", "search"))
    for name in names:
        links = page(book / f"{name}.html").select("nav.bd-links a")
        targets = [name if link["href"] == "#" else link["href"].removesuffix(".html") for link in links]
        assert targets == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_has_every_figure_and_every_line_of_code(book: Path, path: Path) -> None:
    article = page(book / f"{path.stem}.html").select_one("article")
    assert [(book / image["src"]).read_bytes() for image in article.select("img")] == figures(path)
    code = [block.get_text().strip() for block in article.select(".cell_input")]
    assert code == [cell.source.strip() for cell in cells(path, "code")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_has_its_equations_as_mathml(book: Path, path: Path) -> None:
    article = page(book / f"{path.stem}.html").select_one("article")
    source = "\n".join(re.sub(r"`[^`]*`", "", cell.source) for cell in cells(path, "markdown"))
    assert len(article.select("math[display=block]")) == source.count("$$") / 2
    assert len(article.select("math[display=inline]")) == source.replace("$$", "").count("$") / 2
    for code in article.select("pre, code"):
        code.decompose()
    assert not re.search(r"[$\\]", article.get_text()), "an equation, or a part of one, is left as it was typed"


def test_nothing_is_fetched_from_another_host(book: Path) -> None:
    for path in book.glob("*.html"):
        html = page(path)
        loaded = [tag["src"] for tag in html.select("[src]")] + [tag["href"] for tag in html.select("link[href]")]
        files = [re.split("[?#]", name)[0] for name in loaded if not name.startswith(("data:", "#"))]
        assert files and [name for name in files if not (book / name).is_file()] == []
    for path in book.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_the_search_knows_every_notebook(book: Path) -> None:
    index = (book / "searchindex.js").read_text(encoding="utf-8")
    assert all(f'"{path.stem}"' in index for path in NOTEBOOKS)
