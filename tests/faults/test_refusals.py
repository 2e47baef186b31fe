"""Every bad input of the table `refusals.tsv` is refused: one line per mistake, as the table has it, before any work.

A row is a place (see `places.give`), an input as Python, and the lines expected, regular expressions joined by " && ".
"""

import csv
import os
import re
from collections import Counter
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # what is not there is not looked for elsewhere

import places
from places import Kit, give, no_update, no_work


def rows() -> list:
    """The table's rows, each named by its place and its number there."""
    with open(Path(__file__).with_name("refusals.tsv"), encoding="utf-8", newline="") as file:
        table = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    numbers: Counter[str] = Counter()
    named = []
    for row in table:
        numbers[row[0]] += 1
        named.append(pytest.param(*row, id=f"{row[0]}-{numbers[row[0]]}"))
    return named


ROWS = rows()


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("kit"))


def test_the_table_is_long_and_each_row_stands_there_once() -> None:
    inputs = [row.values[:2] for row in ROWS]
    assert len(inputs) >= 250 and len(set(inputs)) == len(inputs)
    assert {place.partition(" ")[0] for place, _ in inputs} == {
        "notebook", "grid", "data", "texts", "checkpoint", "records", "report", "command", "python", "first",
    }  # fmt: skip


@pytest.mark.parametrize(("place", "source", "lines"), ROWS)
def test_a_bad_input_is_refused(place: str, source: str, lines: str, kit: Kit, tmp_path: Path) -> None:
    content = source if place in ("python", "first batch") else eval(source, vars(places))
    guard = no_update if place == "first batch" else no_work
    with guard(), pytest.raises((ValueError, OSError, TypeError)) as refused:
        give(place, content, kit, tmp_path)
    said, expected = str(refused.value).splitlines(), lines.split(" && ")
    assert len(said) == len(expected), refused.value
    for line, pattern in zip(said, expected, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not like {pattern!r}"
