"""Files of rows, read and written so that every row and every column is kept."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from secrets import token_hex

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pkdlib.data import Split
from pkdlib.engine.configs import distinct_names
from pkdlib.readers.tables import one_line, read_table

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


def check_ending(field: str, path: Path) -> None:
    """ValueError unless the file's name has an ending that is read and written."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"{field} = {str(path)!r}: must end in {', '.join(ENDINGS)}")


def read_rows(path: Path, text_columns: Sequence[str], field: str = "file") -> tuple[pd.DataFrame, Split]:
    """All of a file, and its texts: one column, or two for pairs.

    What stands in a .csv or .tsv stays a text ("007", "NA"); values of the other formats keep their types. A column
    that a record of a .jsonl lacks is None there. Raises ValueError or FileNotFoundError with one line: no such file or
    column, no rows, an unreadable row, or a value that is no text, with its row.
    """
    check_ending(field, path)
    columns = distinct_names("text_column", tuple(text_columns), 1, 2)
    if not path.is_file():
        raise FileNotFoundError(f"{field} = {str(path)!r}: no such file")
    table = read_table(path)
    if repeated := {name for name in table.header if table.header.count(name) > 1}:
        raise ValueError(f"{path}: two columns {repeated.pop()!r}; it has {', '.join(table.header)}")
    for name in columns:
        if table.header and name not in table.header:
            raise ValueError(f"text_column = {name!r}: {path} has no such column; it has {', '.join(table.header)}")
    places = [table.header.index(name) for name in columns if table.header]
    rows = []
    for number, row in enumerate(table.read(table.header), start=table.first):
        if fault := str(row) if isinstance(row, ValueError) else _fault(row, table.header, places):
            raise ValueError(f"{path}, {table.unit} {number}: {fault}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows, it is empty")
    if path.suffix == ".parquet":  # its own types, down to the width of a number
        kept = pq.ParquetFile(path).read().to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    else:
        kept = pd.DataFrame(rows, columns=table.header, dtype=object)
    return kept, Split(path.name, tuple([row[place] for row in rows] for place in places), None)


def _fault(row: tuple, header: Sequence[str], places: Sequence[int]) -> str:
    """What keeps a row's texts from being read, or the row from being written; empty where nothing does."""
    for place in places:
        if not isinstance(row[place], str):
            return f"{header[place]} is {row[place]!r}, must be a text"
    for name, value in zip(header, row, strict=True):
        try:
            str(value).encode()
        except UnicodeEncodeError:
            return f"{name} is not in UTF-8: {value[:40]!r}"
    return ""


def check_rows(frame: pd.DataFrame, path: Path) -> None:
    """ValueError where the rows do not fit into the format of a file that is to be written."""
    cells = (str(value) for name in frame for value in (name, *frame[name].dropna()))
    wrong = next((cell for cell in cells if "\t" in cell or "\n" in cell), None) if path.suffix == ".tsv" else None
    if wrong is not None:
        line = f"a .tsv holds no tab or line's end within a text: {wrong[:40]!r}; write a .csv"
        raise ValueError(f"out = {str(path)!r}: {line}")


def write_rows(frame: pd.DataFrame, path: Path) -> None:
    """Write a file of any of ENDINGS, which appears whole or not at all; ValueError where its format cannot hold it."""
    part = path.with_name(f".{path.name}.{token_hex(8)}.part")
    try:
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), part)
        elif path.suffix == ".csv":
            frame.to_csv(part, index=False, lineterminator="\n")
        else:
            with open(part, "x", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in _lines(frame, path.suffix))
        os.replace(part, path)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"out = {str(path)!r}: {one_line(error)}") from None
    finally:
        part.unlink(missing_ok=True)


def _lines(frame: pd.DataFrame, ending: str) -> Iterator[str]:
    """Records as JSON, or lines with tabs and without quotes, as GLUE's and as this kit reads them."""
    names = list(frame)
    columns = [[None if value is pd.NA else value for value in frame[name].tolist()] for name in names]
    for row in zip(*columns, strict=True) if ending == ".jsonl" else [names, *zip(*columns, strict=True)]:
        if ending == ".jsonl":
            yield json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, default=str)
            continue
        yield "\t".join("" if value is None else str(value) for value in row)
