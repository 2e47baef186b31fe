"""Multiple choice: a question's options as a text each, and the files in which RACE has its questions."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pkdlib.engine.configs import shortened
from pkdlib.readers.tables import Table, one_line

PARTS = ("question", "options")
LISTS = ("questions", "options", "answers")
BLANK = re.compile("_+")  # of a question, which an option fills


def with_choices(table: Table, columns: Sequence[str]) -> Table:
    """The table with a column for each choice, columns[1:], in place of `question` and `options`, where it has these.

    The text of a choice is the question with the option in its blank, or behind it.
    """
    if len(columns) < 3 or "options" in columns or "options" not in table.header:
        return table
    if any(table.header.count(name) != 1 for name in PARTS):
        raise ValueError(f"{table.where}: must have one column question and one options: {', '.join(table.header)}")
    kept = [name for name in table.header if name not in PARTS]

    def rows() -> Iterator[tuple | ValueError]:
        for row in table.read([*PARTS, *kept]):
            if isinstance(row, ValueError):
                yield row
            elif fault := _fault(*row[:2], len(columns) - 1):
                yield ValueError(fault)
            else:
                yield (*(_choice(row[0], option) for option in row[1]), *row[2:])

    return table._replace(header=[*columns[1:], *kept], rows=rows(), fields=list)


def _fault(question: Any, options: Any, count: int) -> str:
    if not isinstance(question, str):
        return f"question is {shortened(question, 80)}: must be a text"
    if isinstance(options, list) and len(options) == count and all(isinstance(option, str) for option in options):
        return ""
    return f"options is {shortened(options, 80)}: must be a list of {count} texts"


def _choice(question: str, option: str) -> str:
    return option.join(BLANK.split(question)) if "_" in question else f"{question} {option}"


def read_questions(folder: Path, levels: Sequence[str]) -> Table:
    """The questions of all files folder/LEVEL/*.txt, a JSON record each, as rows named "2 of middle/7.txt"."""
    rows: list[Any] = []
    numbers: list[str] = []
    for file in sorted(file for level in levels for file in (folder / level).glob("*.txt")):
        try:
            questions: Sequence[Any] = _questions(json.loads(file.read_bytes()))
        except (ValueError, RecursionError) as error:
            questions = [ValueError(f"the file cannot be read: {one_line(error)}")]
        rows += questions
        numbers += [f"{number} of {file.parent.name}/{file.name}" for number in range(1, len(questions) + 1)]
    return Table(str(folder), ["article", *PARTS, "answer"], rows, unit="question", numbers=numbers)


def _questions(record: Any) -> list[tuple]:
    """The questions of one article; without answers where the record has none."""
    if not isinstance(record, dict) or not {"article", *LISTS[:2]} <= {*record}:
        raise ValueError(f"must be a record of article, {', '.join(LISTS)}")
    questions, options = (record[name] for name in LISTS[:2])
    answers = record.get("answers", [""] * len(questions) if isinstance(questions, list) else [])
    if not all(isinstance(one, list) and len(one) == len(questions) for one in (questions, options, answers)):
        raise ValueError(f"{', '.join(LISTS)} must be lists of one length")
    return [(record["article"], *parts) for parts in zip(questions, options, answers, strict=True)]
