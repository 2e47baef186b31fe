"""The tutorial's page, made of the course's notebooks as they are committed, with their outputs."""

import base64
import io
import re
from collections.abc import Sequence

import nbformat
import numpy as np
import pytest
from helpers import make_record
from PIL import Image

from pkdlib import ROOT, load_records
from pkdlib.records import RunRecord
from pkdlib.reports.tutorial import NOTEBOOKS, compare_starts, plot_starts, what_was_seen, write_page

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


def start(kd: Sequence[float], skip: Sequence[float]) -> list[RunRecord]:
    """Students of both methods with these test accuracies, in percent, of 3000 rows; a seed for each."""
    scores = [(m, seed, value) for m, of in (("KD", kd), ("PKD-Skip", skip)) for seed, value in enumerate(of)]
    return [
        make_record(f"{m}-{seed}", method=m, seed=seed, config={"num_hidden_layers": 3, "seed": seed},
                    eval_rows={"test": 3000}, metrics={"dev": {}, "test": {"accuracy": value / 100}})
        for m, seed, value in scores
    ]  # fmt: skip


FIRST, AHEAD = start([92, 93, 94], [92, 93.5, 93.5]), start([70, 71, 72, 73], [76, 78, 77, 79])
BEHIND = start([76, 78, 77, 79], [70, 71, 72, 73])


@pytest.mark.parametrize(
    ("name", "students", "said"),
    [
        ("random weights", AHEAD, r"PKD-Skip is ahead of KD by \+6\.0 points \[\+4\.7, \+7\.3\] \(4 seeds\)"),
        ("random weights", BEHIND, r"PKD-Skip is behind KD by -6\.0 points \[-7\.3, -4\.7\] \(4 seeds\)"),
        ("the first layers", FIRST, r".+ KD is not decided: \+0\.0 points \[-1\.2, \+1\.2\]; .+ \(3 seeds\)"),
        ("one", start([70], [76]), r"PKD-Skip against KD is not decided by one seed: \+6\.0 points"),
        ("one", start([70], [69.9]), r"PKD-Skip .+ by one seed: -0\.1 points, less than so many rows can tell apart"),
    ],
)
def test_a_start_s_sentence_follows_its_numbers(name: str, students: list[RunRecord], said: str) -> None:
    assert re.fullmatch(f"From {name}, {said}\\.", compare_starts({"other": FIRST, name: students})[1])


def test_holm_spans_both_starts() -> None:
    near = start([70, 70, 70, 70], [76, 78, 71, 75])  # p = 0.0344 alone
    assert "is ahead of" in compare_starts({"random weights": near})[0]
    assert "is not decided" in compare_starts({"first layers": FIRST, "random weights": near})[1]


def test_both_starts_stand_in_one_figure() -> None:
    alternative, image = re.fullmatch(
        r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)">', plot_starts({"a": FIRST, "b": AHEAD}, 0.955)
    ).groups()
    assert "from a and from b" in alternative
    assert Image.open(io.BytesIO(base64.b64decode(image))).size == (800, 340)


def test_the_page_leads_to_itself_and_to_other_sites_alone(page: str) -> None:
    links = re.findall('<a href="([^"]+)"', page)
    assert any(link.startswith("https://arxiv.org/") for link in links)
    assert all(link.startswith(("#", "https://")) for link in links)
