"""Every bad input of the table `refusals.tsv` is refused: one line per mistake, as the table has it, before any work.

A row is a place, an input as Python, and the lines expected, regular expressions joined by " && ". A row that is
`pending` is one that a room does not refuse so yet: it names the room, and fails as soon as that has changed.
"""

import csv
import os
import re
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # what is not there is not looked for elsewhere

import places
from places import Kit, give, no_update, no_work

LITERAL = ("python", "command", "first")  # whose input is text


def rows() -> list:
    with open(Path(__file__).with_name("refusals.tsv"), encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    numbers: dict[str, int] = {}
    params = []
    for row in table:
        numbers[row["place"]] = number = numbers.get(row["place"], 0) + 1
        late = pytest.mark.xfail(strict=True, reason=f"pending: {row['pending']}")
        marks = [late] if row["pending"] else []
        params.append(pytest.param(*list(row.values())[:3], id=f"{row['place']}-{number}", marks=marks))
    return params


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
    content = source if place.startswith(LITERAL[0]) or place == "first batch" else eval(source, vars(places))
    guard = no_update if place == "first batch" else no_work
    with guard(), pytest.raises((ValueError, OSError, TypeError)) as refused:
        give(place, content, kit, tmp_path)
    said, expected = str(refused.value).splitlines(), lines.split(" && ")
    assert len(said) == len(expected), refused.value
    for line, pattern in zip(said, expected, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not like {pattern!r}"
