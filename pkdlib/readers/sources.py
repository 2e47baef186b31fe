"""Reading a task's rows: GLUE TSV folders, CSV, parquet, JSON lines, the hub's layout; and texts of your own."""

import warnings
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from pkdlib.data import BadRows, EncodedTask, Split, TaskData, encode_task
from pkdlib.engine.files import locate
from pkdlib.models import load_tokenizer
from pkdlib.readers.layouts import layout_of
from pkdlib.records import RunRecord
from pkdlib.tasks import Task, get_task

GLUE_HUB_ID = "nyu-mll/glue"
EMBEDDED = "data"  # the miniature tasks, from the project's root


def load_task(
    task: str | Task,
    source: str | Path | None = None,
    *,
    train_rows: int | None = None,
    subset_seed: int = 0,
    bad_rows: BadRows = "error",
) -> TaskData:
    """The task's train, dev and (where there is one) test split.

    task: a name of the task table, or a Task of your own. source: a folder of GLUE TSV files as downloaded (the
    task's own folder or the one above it); a folder with train/dev/test as .csv, .parquet, .jsonl or .tsv; or a
    dataset in the hub's layout, by hub id or local folder. None means the embedded files for the miniature tasks and
    the hub's GLUE for the others.
    train_rows keeps that many training rows, drawn by subset_seed; a larger draw contains the smaller ones.
    bad_rows="skip" drops unreadable rows of a TSV file, with a warning, where the default refuses the file.

    Raises ValueError (bad label, column or row, with file and line), FileNotFoundError (no such split).
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


def load_split(task: str | Task, source: str | Path | None = None, split: str = "dev") -> Split:
    """One split of a task, labelled or not, to look at: where `load_task` finds it, and no other split is needed.

    Raises ValueError when there is no such split.
    """
    splits, source = _read_splits(get_task(task), source, "error")
    if split not in splits:
        raise ValueError(f"split = {split!r}: {source} has {', '.join(splits) or 'none'} of task {get_task(task).name}")
    return splits[split]


def _read_splits(task: Task, source: str | Path | None, bad_rows: BadRows) -> tuple[dict[str, Split], str]:
    """Every split that is there, and where."""
    if bad_rows not in get_args(BadRows):
        raise ValueError(f"bad_rows = {bad_rows!r}: must be one of {', '.join(get_args(BadRows))}")
    if source is None:
        source = EMBEDDED if task.name.startswith("mini-") else GLUE_HUB_ID
    folder = _file_folder(task, Path(locate(source)))
    if folder is None:
        return _read_hub(task, locate(source)), str(source)
    found = {split: _read_file(task, split, folder, bad_rows) for split in layout_of(task).splits}
    return {name: split for name, split in found.items() if split is not None}, str(source)


def reload_data(record: RunRecord) -> EncodedTask:
    """The rows a run was trained on, read and tokenised again; ValueError when they have changed since."""
    data = load_task(
        record.get_task(),
        record.source,
        train_rows=record.train_rows,
        subset_seed=record.subset_seed,
        bad_rows=record.bad_rows,
    )
    encoded = encode_task(data, load_tokenizer(record.config["backbone"]), record.max_length)
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


def load_texts(folder: str | Path) -> Split:
    """Texts of your own, without labels, from a folder's files in the order of their names, hidden files apart.

    A .txt file gives its lines, a .csv, .jsonl or .parquet file its column `text`; blank texts are left out.

    Raises FileNotFoundError (no such folder, no such file in it), ValueError (a file that cannot be read, lacks the
    column or holds no text), with the file.
    """
    folder = Path(locate(folder))
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    suffixes = (".txt", *READERS)
    files = sorted(file for suffix in suffixes for file in folder.glob(f"[!.]*{suffix}") if file.is_file())
    if not files:
        raise FileNotFoundError(f"{folder}: no texts there: no file that ends in {', '.join(suffixes)}")
    texts = []
    for file in files:
        found = _text_lines(file) if file.suffix == ".txt" else _text_columns(["text"], _read_table(file), str(file))[0]
        texts += [text for text in found if text.strip()]
    if not texts:
        raise ValueError(f"{folder}: only blank lines in {', '.join(file.name for file in files)}")
    return Split("texts", (texts,), None)


# ------------------------------------------------------------------------------------------------- files
def _read_csv(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)  # texts may look like numbers
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes surplus fields for an index
        raise ValueError("the rows have more fields than the header: quote texts that hold a comma")
    return frame


READERS = {
    ".parquet": pd.read_parquet,
    ".csv": _read_csv,
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
}


def _text_lines(path: Path) -> list[str]:
    texts = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            texts.append(line.decode().rstrip("\r"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return texts


def _lines(path: Path) -> list[bytes]:
    """As bytes: a text may hold a lone carriage return, which read_text() turns into a line's end, or a rarer one."""
    lines = path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _read_table(path: Path) -> dict[str, list]:
    try:
        frame = READERS[path.suffix](path)
    except ValueError as error:  # of decoding and of pyarrow too
        raise ValueError(f"{path}: {error}") from None
    return {name: frame[name].tolist() for name in frame.columns}


def _file_folder(task: Task, folder: Path) -> Path | None:
    """The folder that holds the task's files, or None when the source is a dataset in the hub's layout."""
    layout = layout_of(task)
    for candidate in (folder / layout.folder, folder):
        files = (candidate / f"{stem}{suffix}" for stem in layout.splits.values() for suffix in (".tsv", *READERS))
        if any(file.is_file() for file in files):
            return candidate
    return None


def _read_file(task: Task, split: str, folder: Path, bad_rows: BadRows) -> Split | None:
    stem = layout_of(task).splits[split]
    tsv = folder / f"{stem}.tsv"
    if tsv.is_file():
        return _read_tsv(task, split, tsv, bad_rows)
    for suffix in READERS:
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return _from_columns(task, split, _read_table(path), str(path))
    return None


def read_tsv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a file of GLUE's, as texts; of a zipfile.Path too.

    Raises ValueError with the line's number at the first line that is no UTF-8 or has not the header's columns.
    """
    header, lines = _tsv_lines(path)
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(_tsv_fields(line, header))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return header, rows


def _tsv_lines(path: Path) -> tuple[list[str], list[bytes]]:
    """The header and the other lines of GLUE's own TSV: tabs, no quoting at all, sometimes a BOM."""
    first, *lines = _lines(path) or [b""]
    return first.decode(errors="replace").rstrip("\r").split("\t"), lines


def _tsv_fields(line: bytes, header: list[str]) -> list[str]:
    fields = line.decode().rstrip("\r").split("\t")
    if len(fields) != len(header):
        raise ValueError(f"{len(fields)} columns where the header has {len(header)}")
    return fields


def _read_tsv(task: Task, split: str, path: Path, bad_rows: BadRows) -> Split:
    header, lines = _tsv_lines(path)
    layout = layout_of(task)
    wanted = layout.tsv_columns if set(layout.tsv_columns) & set(header) else task.columns
    texts = [_position(header, name, path) for name in wanted]
    label_name = layout.tsv_label if layout.tsv_label in header else "label"
    label = header.index(label_name) if label_name in header else None
    rows, labels, refused = [], [], []
    for number, line in enumerate(lines, start=2):
        try:
            fields = _tsv_fields(line, header)
            if label is not None:
                labels.append(label_index(task, fields[label]))
            rows.append([fields[position] for position in texts])
        except ValueError as error:
            if bad_rows == "error":
                raise ValueError(f"{path}, line {number}: {error}") from None
            refused.append(number)
    if refused:
        shown = ", ".join(map(str, refused[:5])) + (", ..." if len(refused) > 5 else "")
        warnings.warn(f"{path}: {len(refused)} unreadable rows skipped (lines {shown})", stacklevel=2)
    if not rows:
        raise ValueError(f"{path}: no rows")
    columns = tuple(list(column) for column in zip(*rows, strict=True))
    return Split(split, columns, None if label is None else np.array(labels, dtype=np.int64))


def _position(header: Sequence[str], name: str, path: Path) -> int:
    if name not in header:
        raise ValueError(f"{path}, line 1: no column {name!r}; it has {', '.join(header)}")
    return header.index(name)


# --------------------------------------------------------------------------------------------------- hub
def _read_hub(task: Task, source: str) -> dict[str, Split]:
    """A dataset by hub id, or a local folder in the same layout, by the same call."""
    import datasets  # here, because pkdlib works without it

    layout, splits = layout_of(task), {}
    dataset = datasets.load_dataset(source, layout.config)
    for split, hub_split in layout.hub_splits.items():
        if hub_split in dataset:
            table = dataset[hub_split]
            columns = {name: list(table[name]) for name in table.column_names}
            where = "/".join(filter(None, (source, layout.config, hub_split)))
            splits[split] = _from_columns(task, split, columns, where)
    return splits


def _from_columns(task: Task, split: str, columns: dict[str, list], where: str) -> Split:
    """A split from named columns; a label column of -1 (the hub's way) or of nothing is a hidden one."""
    texts = _text_columns(task.columns, columns, where)
    labels: Iterable = columns.get("label", ())
    labels = [str(label).strip() for label in labels]
    if all(label in ("-1", "-1.0", "", "nan", "None") for label in labels):
        return Split(split, texts, None)
    indices = []
    for row, label in enumerate(labels):
        try:
            indices.append(label_index(task, label))
        except ValueError as error:
            raise ValueError(f"{where}, row {row}: {error}") from None
    return Split(split, texts, np.array(indices, dtype=np.int64))


def label_index(task: Task, label: str | int | float) -> int:
    """Class index of a label given by name or number; ValueError names what is allowed."""
    text = str(label).strip()
    if text in task.label_names:
        return task.label_names.index(text)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number not in range(task.num_labels):
        allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(task.label_names))
        raise ValueError(f"label {text!r}: must be one of {allowed}")
    return int(number)


def _text_columns(names: Sequence[str], columns: dict[str, list], where: str) -> tuple[list[str], ...]:
    """The named columns; ValueError where one is missing, has no rows or holds anything but texts."""
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(f"{where}: no column {missing[0]!r}; it has {', '.join(map(str, columns))}")
    if not columns[names[0]]:
        raise ValueError(f"{where}: no rows")
    for name in names:
        for row, text in enumerate(columns[name]):
            if not isinstance(text, str):
                raise ValueError(f"{where}, row {row}: {name} is {text!r}, not a text")
    return tuple(columns[name] for name in names)
