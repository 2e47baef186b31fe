"""Rows of any format that is read: GLUE's TSV, CSV, JSON, parquet, plain lines, and datasets of the hub's library."""

import csv
import gzip
import io
import json
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


class Table(NamedTuple):
    """Rows of any format, and how a message names one of them."""

    where: str  # the file, or the hub's dataset and its split
    header: list[str]
    rows: Iterable[Any]  # among them a ValueError in place of one that cannot be read
    fields: Callable[[Any], Sequence[Any]] = list  # of a row
    unit: str = "row"
    first: int = 0  # the number of the first row
    numbers: Sequence[str] = ()  # how a message numbers the rows, where that is not from the first on
    classes: Mapping[str, list[str]] = {}
    torn: frozenset[int] = frozenset()  # rows that may be a part of a quoted text, where the format knows no quotes

    def number(self, row: int) -> str:
        """How a message numbers the row, which is counted from `first`."""
        return self.numbers[row - self.first] if self.numbers else str(row)

    def read(self, names: Sequence[str]) -> Iterator[tuple | ValueError]:
        """Each row's values of the columns of these names, or why it cannot be read."""
        places = [self.header.index(name) for name in names]
        for row in self.rows:
            try:
                if isinstance(row, ValueError):
                    raise row
                fields = self.fields(row)
                if len(fields) != len(self.header):
                    raise ValueError(f"{len(fields)} columns where the header has {len(self.header)}")
                wanted = [fields[place] for place in places]
                yield tuple(value.as_py() if isinstance(value, pa.Scalar) else value for value in wanted)
            except ValueError as error:
                yield error


def read_table(path: Path) -> Table:
    """A file's table; ValueError names the file where it is none of its kind."""
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    try:
        return READERS[f".{suffix}"](path)
    except (ValueError, OSError, EOFError, RecursionError, zlib.error, pa.ArrowException) as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its class's name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_lines(path: Path) -> Table:
    """Lines of text, or GLUE's own TSV: tabs, no quoting at all, sometimes a BOM. path: or a zipfile.Path."""
    # As bytes: a text may hold a lone carriage return, which read_text() turns into a line's end, or a rarer one.
    lines = [line.rstrip(b"\r") for line in _content(path).removesuffix(b"\n").split(b"\n")]
    if path.name.endswith(".txt"):
        return Table(str(path), ["text"], lines, lambda line: [line.decode()], "line", 1)
    header = lines[0].decode(errors="replace").split("\t") if lines[0] else []
    torn = frozenset(number for number, line in enumerate(lines, start=1) if line.count(b'"') % 2)
    return Table(str(path), header, lines[1:], lambda line: line.decode().split("\t"), "line", 2, torn=torn)


def _read_csv(path: Path) -> Table:
    # Strict, as a stray quote would swallow rows; lines end at \n alone; a byte that is no UTF-8 spoils its row alone.
    lines = io.StringIO(_content(path).decode(errors="surrogateescape"), newline="\n")
    longest = csv.field_size_limit(2**31 - 1)  # as long as a text may be
    reader = csv.reader(lines, strict=True)
    try:
        header, *rows = [row for row in reader if row] or [[]]
    except csv.Error as error:
        hint = "a text with a quote, a comma or a line's end must be quoted, its quotes doubled"
        raise ValueError(f"line {reader.line_num}: {error}; {hint}") from None
    finally:
        csv.field_size_limit(longest)
    return Table(str(path), header, rows)


def _read_json(path: Path) -> Table:
    """An array of records, or a record a line."""
    content = _content(path)
    if content.lstrip().startswith(b"["):
        rows = json.loads(content.decode(), object_pairs_hook=_record)
    else:
        rows = [_record_of(line) for line in content.split(b"\n") if line.strip()]
    rows = [row if isinstance(row, dict | ValueError) else ValueError(f"{row!r:.80} is no record") for row in rows]
    header = list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))
    if rows and not header:
        raise ValueError(f"row 0: {rows[0]}")
    return Table(str(path), header, rows, lambda row: [row.get(name) for name in header])


def _record_of(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), object_pairs_hook=_record)
    except ValueError as error:  # spoils its row alone
        return error


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a key stands twice in it."""
    if len(record := dict(pairs)) < len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(key for key, _ in pairs)}")
    return record


def arrow_table(table: pa.Table, where: str) -> Table:
    """A table of Arrow's, with the names of its classes where `datasets` has written them into its schema."""
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    classes = {column: list(map(str, kind["names"])) for column, kind in features.items() if "names" in kind}
    return Table(where, table.column_names, zip(*table.columns, strict=True), classes=classes)


def _content(path: Path) -> bytes:
    """A text file's bytes, unpacked, without a byte order mark."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.name.endswith(".gz") else content
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise ValueError("is UTF-16, must be UTF-8")
    return content.removeprefix(BOM_UTF8)


READERS: dict[str, Callable[[Path], Table]] = {
    ".tsv": read_lines, ".parquet": lambda path: arrow_table(pq.ParquetFile(path).read(), str(path)),
    ".csv": _read_csv, ".jsonl": _read_json, ".json": _read_json, ".txt": read_lines,
}  # fmt: skip
TABLES = [f"{suffix}{packed}" for suffix in READERS for packed in ("", ".gz") if suffix != ".txt"]
TABLES.remove(".parquet.gz")  # parquet packs itself
