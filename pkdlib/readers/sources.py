"""Reading a task's rows: GLUE TSV folders, CSV, parquet, JSON lines, the hub's layout; and texts of your own."""

import warnings
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from pkdlib.data import BadRows, EncodedTask, Split, TaskData, encode_task
from pkdlib.engine.files import locate
from pkdlib.models import load_tokenizer
from pkdlib.readers.layouts import Layout, layout_of
from pkdlib.records import RunRecord
from pkdlib.tasks import Task, get_task

Source = str | Path | None


def load_task(
    task: str | Task, source: Source = None, *, train_rows: int | None = None, subset_seed: int = 0,
    bad_rows: BadRows = "error",
) -> TaskData:  # fmt: skip
    """The task's train, dev and (where there is one) test split.

    source: a folder of GLUE TSV files as downloaded (the task's own or the one above it), or of train/dev/test as .csv,
    .parquet, .jsonl or .tsv; or a dataset in the hub's layout, by hub id or local folder. None: the embedded files of
    the miniature tasks, the hub's GLUE for others. train_rows: so many, drawn by subset_seed, the smaller draws within
    the larger. bad_rows="skip" drops unreadable rows with a warning. Raises ValueError (bad label, column or row, with
    file and line), FileNotFoundError (no such split).
    """
    task = get_task(task)
    splits, source = _read_splits(task, source, bad_rows)
    for required in ("train", "dev"):
        if required not in splits:
            raise FileNotFoundError(f"{source}: task {task.name} has no {required} split there")
        if splits[required].labels is None:
            raise ValueError(f"{source}: the {required} split of task {task.name} has no labels")
    if train_rows is not None:
        splits["train"] = subset(splits["train"], train_rows, subset_seed)
    return TaskData(task, splits, source, subset_seed, bad_rows)


def load_split(task: str | Task, source: Source = None, split: str = "dev") -> Split:
    """One split of a task, labelled or not, from where `load_task` finds it; ValueError when it is not there."""
    splits, source = _read_splits(get_task(task), source, "error")
    if split not in splits:
        raise ValueError(f"split = {split!r}: {source} has {', '.join(splits) or 'none'} of task {get_task(task).name}")
    return splits[split]


def load_texts(folder: str | Path) -> Split:
    """Texts of your own, without labels, from a folder's files in the order of their names, hidden files apart.

    A .txt file gives its lines, a .csv, .jsonl or .parquet file its column `text`; blank texts are left out.
    Raises FileNotFoundError (no such folder or file), ValueError (a file that cannot be read or has no texts).
    """
    folder = Path(locate(folder))
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    suffixes = (".txt", *FRAMES)
    files = sorted(file for file in folder.glob("[!.]*") if file.suffix in suffixes and file.is_file())
    if not files:
        raise FileNotFoundError(f"{folder}: no texts there: no file that ends in {', '.join(suffixes)}")
    splits = [_to_split(Task("texts", ("text",), ()), "texts", _read_table(file)) for file in files]
    texts = [text for split in splits for text in split.texts[0] if text.strip()]
    if not texts:
        raise ValueError(f"{folder}: only blank lines in {', '.join(file.name for file in files)}")
    return Split("texts", (texts,), None)


def reload_data(record: RunRecord) -> EncodedTask:
    """The rows a run was trained on, read and tokenised again; ValueError when they have changed since."""
    reading = {name: getattr(record, name) for name in ("source", "train_rows", "subset_seed", "bad_rows")}
    tokenizer = load_tokenizer(record.config["backbone"])
    encoded = encode_task(load_task(record.get_task(), **reading), tokenizer, record.max_length)
    for split, fingerprint in encoded.fingerprints.items():
        if record.fingerprints.get(split) != fingerprint:
            raise ValueError(f"{record.source}: the {split} split of {record.task} is not the one of {record.run_id}")
    return encoded


def subset(split: Split, rows: int, seed: int) -> Split:
    """So many rows drawn by the seed, in the split's order; ValueError when it has fewer."""
    if not 1 <= rows <= len(split):
        raise ValueError(f"train_rows = {rows}: must be between 1 and the split's {len(split)} rows")
    return split.take(np.sort(np.random.default_rng(seed).permutation(len(split))[:rows]))


def draw_rows(split: Split, rows: int = 0, seed: int = 0) -> Split:
    """At most so many rows of a split, drawn by the seed, in the split's order; 0 takes all."""
    return subset(split, rows, seed) if 0 < rows < len(split) else split


class Table(NamedTuple):
    """Rows of any format, and how a message names one of them."""

    where: str  # the file, or the hub's dataset and its split
    header: list[str]
    rows: Iterable[Any]
    fields: Callable[[Any], Sequence] = tuple  # a row's values; ValueError where it cannot be read
    unit: str = "row"
    first: int = 0  # the number of the first row


def _read_splits(task: Task, source: Source, bad_rows: BadRows) -> tuple[dict[str, Split], str]:
    """Every split that is there, and where."""
    if bad_rows not in get_args(BadRows):
        raise ValueError(f"bad_rows = {bad_rows!r}: must be one of {', '.join(get_args(BadRows))}")
    source = source or ("data" if task.name.startswith("mini-") else "nyu-mll/glue")  # data/: in this project
    layout, place, tables = layout_of(task), locate(source), {}
    for folder in (Path(place, layout.folder), Path(place)):  # a task's own folder wins
        for split, stem in layout.splits.items():
            files = (folder / f"{stem}{suffix}" for suffix in (".tsv", *FRAMES))
            if file := next(filter(Path.is_file, files), None):
                tables[split] = _read_table(file)
        if tables:
            break
    tables = tables or _read_hub(layout, place)
    return {split: _to_split(task, split, table, bad_rows) for split, table in tables.items()}, str(source)


def _read_hub(layout: Layout, source: str) -> dict[str, Table]:
    """A dataset by hub id, or a local folder in the same layout, by the same call."""
    import datasets  # here, because pkdlib works without it

    hub = datasets.load_dataset(source, layout.config)
    path = f"{source}/{layout.config}" if layout.config else source
    names = layout.splits | {"dev": f"validation{layout.ending}"}
    return {split: _from_frame(hub[name].to_pandas(), f"{path}/{name}") for split, name in names.items() if name in hub}


def _read_csv(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)  # texts may look like numbers
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes surplus fields for an index
        raise ValueError("the rows have more fields than the header: quote texts that hold a comma")
    return frame


FRAMES = {".parquet": pd.read_parquet, ".csv": _read_csv, ".jsonl": partial(pd.read_json, lines=True, dtype=False)}


def _read_table(path: Path) -> Table:
    if path.suffix not in FRAMES:
        return _read_lines(path)
    try:
        return _from_frame(FRAMES[path.suffix](path), str(path))
    except ValueError as error:  # of decoding and of pyarrow too
        raise ValueError(f"{path}: {error}") from None


def _from_frame(frame: pd.DataFrame, where: str) -> Table:
    """A table without the column `label` where that hides every label: -1, as the hub has it, or nothing."""
    if "label" in frame and {str(label).strip() for label in frame["label"]} <= {"-1", "-1.0", "", "nan", "None"}:
        frame = frame.drop(columns="label")
    return Table(where, [str(name) for name in frame.columns], frame.itertuples(index=False, name=None))


def read_tsv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as texts, of a file of GLUE's or a zipfile.Path; ValueError names the first unreadable line."""
    table = _read_lines(path)
    columns = _to_split(Task("", tuple(table.header), ()), "", table).texts  # as of a task without labels
    return table.header, list(map(list, zip(*columns, strict=True)))


def _read_lines(path: Path) -> Table:
    """Lines of text, or GLUE's own TSV: tabs, no quoting at all, sometimes a BOM."""
    # As bytes: a text may hold a lone carriage return, which read_text() turns into a line's end, or a rarer one.
    lines = path.read_bytes().removeprefix(BOM_UTF8).removesuffix(b"\n").split(b"\n")
    lines = [line.rstrip(b"\r") for line in lines]
    if path.suffix == ".txt":
        return Table(str(path), ["text"], lines, lambda line: [line.decode()], "line", 1)
    header = lines[0].decode(errors="replace").split("\t")
    return Table(str(path), header, lines[1:], lambda line: line.decode().split("\t"), "line", 2)


def _to_split(task: Task, name: str, table: Table, bad_rows: BadRows = "error") -> Split:
    """The task's columns of a table; without labels where it has no such column or the task has no classes."""
    layout, header = layout_of(task), table.header
    names = layout.columns if set(layout.columns) & set(header) else task.columns
    for column in names:
        if column not in header:
            place = ", line 1" if table.unit == "line" else ""
            raise ValueError(f"{table.where}{place}: no column {column!r}; it has {', '.join(header)}")
    label = next((column for column in (layout.label, "label") if column in header and task.label_names), None)
    texts, labels, skipped = [], [], []
    for number, row in enumerate(table.rows, start=table.first):
        try:
            fields = table.fields(row)
            if len(fields) != len(header):
                raise ValueError(f"{len(fields)} columns where the header has {len(header)}")
            values = dict(zip(header, fields, strict=True))
            for column in names:
                if not isinstance(values[column], str):
                    raise ValueError(f"{column} is {values[column]!r}, not a text")
            labels.append(label_index(task, values[label]) if label else -1)
            texts.append([values[column] for column in names])
        except ValueError as error:
            if bad_rows == "error":
                raise ValueError(f"{table.where}, {table.unit} {number}: {error}") from None
            skipped.append(str(number))
    if skipped:
        shown = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        warnings.warn(f"{table.where}: {len(skipped)} unreadable rows skipped ({table.unit}s {shown})", stacklevel=2)
    if not texts:
        raise ValueError(f"{table.where}: no rows")
    columns = tuple(map(list, zip(*texts, strict=True)))
    return Split(name, columns, np.array(labels, dtype=np.int64) if label else None)


def label_index(task: Task, label: str | int | float) -> int:
    """Class index of a label given by name or number; ValueError names what is allowed."""
    text = str(label).strip()
    if text in task.label_names:
        return task.label_names.index(text)
    with suppress(ValueError):
        return range(task.num_labels).index(float(text))
    allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(task.label_names))
    raise ValueError(f"label {text!r}: must be one of {allowed}")
