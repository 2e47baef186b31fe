"""The tutorial's page, made of the course's notebooks as they are committed, with their outputs."""

import re

import nbformat
import numpy as np
import pytest

from pkdlib import ROOT, load_records
from pkdlib.records import RunRecord
from pkdlib.reports.tutorial import NOTEBOOKS, what_was_seen, write_page

PATHS = [ROOT / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS]
RESULTS = ROOT / "data" / "results"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(PATHS, path, "The PKD tutorial", "What was *seen*.")
    return path.read_text(encoding="utf-8")


def test_the_page_opens_with_heading_summary_and_contents(page: str) -> None:
    opening, *sections = page.partition("<main>")[2].split('<details class="section">')
    assert re.findall("<h[12][^>]*>(.*?)</h[12]>", opening) == ["The PKD tutorial", "Contents"]
    assert "<p>What was <em>seen</em>.</p>" in opening
    links = re.findall('<a href="#([^"]+)">([^<]+)</a>', opening)
    titles = [nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ") for path in PATHS]
    assert links == list(zip(NOTEBOOKS, titles, strict=True))
    for section, (name, title) in zip(sections, links, strict=True):
        # A browser unfolds what the target of a link stands in, so the target is within the details.
        assert re.match(rf'\s*<summary>{re.escape(title)}</summary>\s*<div id="{name}">', section)
        assert section.count("<details") + 1 == section.count("</details>")


def test_code_is_folded_and_nothing_is_fetched(page: str) -> None:
    cells = [cell for path in PATHS for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert page.count('<details class="code">') == len(cells) and "<details open" not in page
    assert page.count('<div class="highlight') == len(cells)
    assert not re.search(r"@import|url\(|<script|<link|<iframe", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'<img[^>]*src="([^"]*)"', page))
    assert page.count("<math") >= 4 and "\\frac" not in page


def test_every_figure_has_an_alternative_text_of_its_own_heading(page: str) -> None:
    texts = re.findall(r'<img alt="([^"]*)"', page)
    assert len(texts) == page.count("<img") >= 12 and all(len(text) >= 20 for text in texts)
    assert "No description" not in page
    drawn = "The idea in one picture. The whole of PKD: the layer map, and above it the predictions and the labels"
    assert any(text.startswith(drawn) for text in texts)


def test_the_summary_s_numbers_are_those_of_the_records() -> None:
    records = load_records(RESULTS / "mini-sentiment-6.jsonl")
    students = [r for r in records + load_records(RESULTS / "mini-sentiment-3-tuned.jsonl") if r.method != "teacher"]
    (teacher,) = {r.run_id: r for r in records if r.method == "teacher"}.values()
    text, table = what_was_seen(teacher, students)

    def mean(method: str, size: int) -> float:
        runs: list[RunRecord] = [r for r in students if (r.method, r.config["num_hidden_layers"]) == (method, size)]
        return 100 * float(np.mean([run.metrics["test"]["accuracy"] for run in runs]))

    for method in ("FT", "KD", "PKD-Last", "PKD-Skip"):
        for size in (6, 3):
            assert f"{method} {mean(method, size):.1f}" in text
            assert table.loc[method, size] == pytest.approx(mean(method, size), abs=0.051)
    assert f"is right on {100 * teacher.metrics['test']['accuracy']:.1f} % of the 3000 test rows" in text
    for size in (6, 3):
        assert f"{mean('PKD-Skip', size) - mean('PKD-Last', size):+.1f} with {size} layers" in text
    assert len(re.findall(r"\.(?= [A-Z]|$)", text)) == 2  # sentences
