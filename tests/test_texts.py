"""Texts state no measured figure by hand: code shows those, from records; a page that has one names its record."""

import re

import nbformat
import pytest

from pkdlib import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "notebooks" / "guide").glob("*.md"))]
GENERATED = re.compile(r"<!-- (\S+) -->.*?<!-- /\1 -->", re.DOTALL)  # test_recorded_results holds these
RECORD = re.compile(r"`(data/results/\S+\.jsonl?)`")
COSTS = {"2.6"}  # GB of .venv, in the README: what a reader's machine must give has no record

# Settings and definitions may hold figures: in code, equations and addresses. A section's number measures nothing.
PASSED_OVER = re.compile(
    r"""```.*?``` | `[^`]*` | \$\$.*?\$\$ | \$[^$\n]+\$
    | (?<=\])\([^)\s]*\) | <[a-z/][^>]*> | https?://\S+
    | \b(?:sections?|tables?|equations?|appendix|python|version|arxiv)[\s:]*\d+(?:\.\d+)*
    | \b95\s*(?:%|percent)[\s-]+(?:confidence[\s-]+)?(?:interval|band|level)""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
MEASURED = re.compile(
    r"""(?<!\w)(?:
      (?:accuracy|f1|score|loss|latency|throughput|reach|climb|rise|fall|drop|gain|lose)\w*
        (?:\s+(?:is|was|of|to|by|at|only|about|near|above|below))*\s+\d{2,}(?:\.\d+)?\b
        (?!\s+(?:\w+\s+)?(?:layer|row|seed|epoch|step|token|student|model|run|text))
    | \d+\s+out\s+of\s+\d+ | \d+\s+of\s+\d+\s+(?:rows|seeds|runs)\b
    | [\d,]*\.\d+
    | \d[\d,]*\s*(?:
          % | per\s?cent\b | (?:percentage\s+)?points?\b
        | [x×](?!\s*\d|\w) | -?fold\b
        | times\s+(?:as|more|less|fewer|faster|slower|smaller|larger|shorter|longer|higher|lower|better|worse)\b
        | \w+\s*(?:/\s*s|per\s+second|a\s+second)\b
        | [\s-]?(?:s|ms|[µμ]s|sec|seconds?|milliseconds?|min|minutes?|h|hours?|[kmg]i?b|(?:mega|giga)bytes?)\b
      )
    | (?:±|\+/-)\s*\d+
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def measured_figures(text: str) -> list[str]:
    """What in a markdown text looks like a measured figure."""
    return [found[0].strip() for found in MEASURED.finditer(PASSED_OVER.sub("…", text))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_s_texts_state_no_measured_figure(path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    found = {n: measured_figures(cell.source) for n, cell in enumerate(cells) if cell.cell_type == "markdown"}
    found = {number: figures for number, figures in found.items() if figures}
    assert not found, "let code display measured figures; settings belong in backticks or equations"


def unrecorded_figures(text: str) -> list[str]:
    """The measured figures of a page, its generated tables apart, whose paragraph names no record that is there."""
    text = re.sub(r"```[\s\S]*?```|^ {4}.*$", "", GENERATED.sub("", text), flags=re.MULTILINE)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        records = RECORD.findall(paragraph)
        if not records or not all((ROOT / name).is_file() for name in records):
            found += measured_figures(paragraph)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_s_measured_figures_are_generated_or_name_their_record(path) -> None:
    assert set(unrecorded_figures(path.read_text(encoding="utf-8"))) <= (COSTS if path.stem == "README" else set())


def test_a_figure_without_a_record_is_found_on_a_page() -> None:
    record = "data/results/benchmarks/sweep.json"
    page = "<!-- a -->\n| 91.5 |\n<!-- /a -->\n\nKD is {}.\n\n    1.5\n\nSweeps take 0.54 of the time (`{}`)."
    assert unrecorded_figures(page.format("better", record)) == []
    assert unrecorded_figures(page.format("1.7 points better", record)) == ["1.7"]
    assert unrecorded_figures(page.format("better", "data/results/none.json")) == ["0.54"]


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("the teacher reaches 95.5 percent", ["reaches 95.5"]),
        ("KD is 1.7 points better", ["1.7"]),
        ("the student runs 3.7 times faster", ["3.7"]),
        ("it takes 12 s", ["12 s"]),
        ("right in 93 % of rows", ["93 %"]),
        ("93% of the rows", ["93%"]),
        ("about 90 percent", ["90 percent"]),
        ("Skip stands 2 points above Last", ["2 points"]),
        ("a gain of 3 percentage points", ["3 percentage points"]),
        ("a student is 4x faster", ["4x"]),
        ("a 4× speed-up", ["4×"]),
        ("3 times as fast as the teacher", ["3 times as"]),
        ("a 12-fold gain", ["12-fold"]),
        ("91 ± 1", ["± 1"]),
        ("in 40 minutes on a GPU", ["40 minutes"]),
        ("a latency of 35ms", ["35ms"]),
        ("1,200 MB of memory", ["1,200 MB"]),
        ("a 300-MB checkpoint", ["300-MB"]),
        ("2,400 rows per second", ["2,400 rows per second"]),
        ("800 examples/s", ["800 examples/s"]),
        ("better in 9 of 10 seeds", ["9 of 10 seeds"]),
        ("wrong on 47 out of 1000", ["47 out of 1000"]),
        ("an accuracy of 93 on dev", ["accuracy of 93"]),
        ("FT reaches 91 on test", ["reaches 91"]),
        ("similarity falls to .4 in the last layer", [".4"]),
        ("a correlation of −0.3, $r = 1$, and 0.2", ["0.3", "0.2"]),
        ("| FT | 91.5 |\n| KD | 93.3 |", ["91.5", "93.3"]),
        ("with `beta = 0.3` the score is 0.9", ["0.9"]),
    ],
)
def test_measured_figures_are_found(text: str, figures: list[str]) -> None:
    assert measured_figures(text) == figures


@pytest.mark.parametrize(
    "text",
    [
        "# 02 · Distilling: Last against Skip",
        "the teacher has 12 layers, the students 6 and 3",
        r"with $\beta = 1000$, $T = 2.5$ and 5 matched layers of width 768",
        "$$\nL = 0.5 \\cdot L_{CE} \\quad (95.5\\%)\n$$",
        "run it with `learning_rate = 0.001` and `temperature = 10.5`",
        "```python\nalpha = 0.7  # 93 %\n```",
        "a diamond is the mean with its 95 % interval; a 95% confidence band",
        "section 3.1 of the paper, Table 2, equation 4.2, Python 3.11, arXiv:1908.09355",
        "[Sun et al. 2019](https://arxiv.org/abs/1908.09355), https://example.org/v1.2/x",
        "**1.** A teacher of 24 layers, a student of 4.",
        "About three minutes on one CPU core; minutes to hours on a GPU.",
        "a guess in percent of the test scores; percentage points; a few points",
        "layers 2, 4, 6, 8, 10 of 12; layer 6 of 12",
        "a matrix of 3 x 4, of 2 × 2 entries; a 3x3 kernel",
        "each copied four times before it was trained; read 3 times in 4 epochs",
        "the cost lies between 0 and 4; the similarity of a layer with itself is 1",
        "a loss of 0 means the directions agree; loss is 2 layers deep",
        "10 seeds, 2000 rows, 4 runs/seed, 3 epochs, batches of 32 rows, 128 tokens, 50 steps",
        "a state three times as long costs nothing; two states point the same way",
        "accuracy of 3 students; the score of 10 seeds; falls to 2 layers",
        "BERT-base has 110M parameters in the 2019 paper, F1 and the T² factor",
        '<img src="x.png" width="50%">',
    ],
)
def test_settings_names_and_equations_are_no_measured_figures(text: str) -> None:
    assert measured_figures(text) == []
