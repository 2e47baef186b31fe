"""`make book`'s pages: a gallery, every notebook with its figures and equations, the guide; nothing fetched or run."""

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from pkdlib import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GUIDE = ["results", "real-data", "speed", "sweeps", "reports", "use-a-student", "reference"]
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


def pages(book: Path) -> list[Path]:
    return sorted([*book.glob("*.html"), *book.glob("guide/*.html")])


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
    names = ["index", *(path.stem for path in NOTEBOOKS), NEW, *(f"guide/{name}" for name in GUIDE)]
    assert sorted(GUIDE) == sorted(path.stem for path in (ROOT / "notebooks" / "guide").glob("*.md"))
    assert {book / f"{name}.html" for name in [*names, "genindex", "search"]} == set(pages(book))
    for name in names:
        path = book / f"{name}.html"
        links = page(path).select("nav.bd-links a")
        assert [target(path, link["href"]) for link in links] == [book / f"{other}.html" for other in names]


def target(path: Path, link: str) -> Path:
    """The file that a link of a page leads to."""
    return (path.parent / unquote(urlsplit(link).path)).resolve() if urlsplit(link).path else path


def test_every_link_within_the_book_leads_to_a_page_and_a_place_on_it(book: Path) -> None:
    followed = set()
    for path in pages(book):
        for link in page(path).select("article a[href]"):
            if not urlsplit(link["href"]).scheme:
                goal, place = target(path, link["href"]), urlsplit(link["href"]).fragment
                assert goal.is_file(), f"{path.name}: {link['href']}"
                assert not place or page(goal).find(id=place), f"{path.name}: {link['href']}"
                followed.add((path.stem, goal.stem))
    assert followed >= {("index", name) for name in GUIDE}
    assert followed >= {("results", "07_when_patience_pays"), ("real-data", "sweeps"), ("reports", "reports")}


def test_the_first_page_shows_the_picture_with_a_text_for_those_who_cannot_see_it(book: Path) -> None:
    (picture,) = page(book / "index.html").select("article img[src$='pkd.svg']")
    assert (book / picture["src"]).read_bytes() == (ROOT / "notebooks" / "guide" / "pkd.svg").read_bytes()
    assert "student" in picture["alt"] and "teacher" in picture["alt"]


@pytest.mark.parametrize("name", GUIDE)
def test_a_page_of_the_guide_has_every_table_and_block_and_nothing_left_as_it_was_typed(book: Path, name: str) -> None:
    source = (ROOT / "notebooks" / "guide" / f"{name}.md").read_text(encoding="utf-8")
    article = page(book / "guide" / f"{name}.html").select_one("article")
    assert len(article.select("table")) == len(re.findall(r"^\|---", source, re.MULTILINE))
    assert len(article.select("h2")) == len(re.findall("^## ", source, re.MULTILINE))
    lines = [line for code in article.select("pre") for line in code.get_text().splitlines()]
    assert max(map(len, lines), default=0) <= 78, "the column hides the end of a longer line"
    for code in article.select("pre, code"):
        code.decompose()
    assert not re.search(r"<!--|\]\(|\*\*|`", article.get_text())


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
    for path in pages(book):
        html = page(path)
        loaded = [tag["src"] for tag in html.select("[src]")] + [tag["href"] for tag in html.select("link[href]")]
        files = [re.split("[?#]", name)[0] for name in loaded if not name.startswith(("data:", "#"))]
        assert files and [name for name in files if not (path.parent / name).is_file()] == []
    for path in book.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_the_search_knows_every_notebook_and_every_page_of_the_guide(book: Path) -> None:
    index = (book / "searchindex.js").read_text(encoding="utf-8")
    assert all(f'"{path.stem}"' in index for path in NOTEBOOKS)
    assert all(f'"guide/{name}"' in index for name in GUIDE)
