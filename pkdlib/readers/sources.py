"""Reading a task's rows: GLUE's and RACE's folders, tables of many formats, the hub's datasets; and own texts."""

import math
import os
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from pkdlib.data import READING, BadRows, EncodedTask, Split, TaskData, encode_task
from pkdlib.engine.checks import Count, Seed, checked, label_order, spelled
from pkdlib.engine.configs import pick, whole
from pkdlib.engine.files import ROOT, ask_hub, locate
from pkdlib.engine.progress import say_once
from pkdlib.models import load_tokenizer
from pkdlib.readers.choices import read_questions, with_choices
from pkdlib.readers.layouts import GLUE, LAYOUTS, NAMES, Layout, layout_of
from pkdlib.readers.tables import TABLES, Table, arrow_table, one_line, read_lines, read_table
from pkdlib.records import RunRecord
from pkdlib.tasks import Task, get_task

Source = str | Path | None
Fraction = Annotated[float, Field(ge=0, lt=1)]
Tables = dict[str, Callable[[], Table]]  # split -> its rows, when they are asked for
FILES = f"a file {', '.join(TABLES)}"
NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
LONGEST_TEXT = 20  # lines of a quoted text that stands in a file without quotes
HINT = "; dev_fraction draws one"
HIDDEN = {"-1", "-1.0", "", "nan", "none"}  # -1, as the hub has it, or nothing


@checked
def load_task(
    task: str | Task, source: Source = None, *, train_rows: Count | None = None, subset_seed: Seed = 0,
    bad_rows: BadRows = "error", dataset_config: str = "", dev_fraction: Fraction = 0.0, unlabelled: str | Path = "",
) -> TaskData:  # fmt: skip
    """The task's train, dev and (where there is one) test split.

    source: a folder of GLUE's or RACE's files as downloaded (the task's own or the one above it), or of train, dev (or
    validation, valid, val) and test as .csv, .tsv, .jsonl, .json (each also as .gz) or .parquet; a folder written by
    save_to_disk of `datasets`; or a dataset in the hub's layout, by hub id or local folder. None: the embedded files of
    the miniature tasks, the hub's GLUE or RACE for others. Labels are numbers in the task's order, or names; numbers of
    a dataset that names its classes are read by those names. train_rows: so many, drawn by subset_seed, the smaller
    draws within the larger. bad_rows="skip" drops unreadable rows with a warning. dataset_config: of a dataset that has
    several, or of RACE's levels one. dev_fraction: this share of the training rows becomes dev, where the source has
    none; it may be one file then. unlabelled: texts for students to learn from their teacher alone, as `load_texts`
    reads them. Raises ValueError (bad argument, label, column or row, with file and row), FileNotFoundError (no such
    folder, dataset or split), ConnectionError (no hub).
    """
    task = get_task(task)
    tables, source = tables_of(task, source, "train" if dev_fraction else "", dataset_config)
    if dev_fraction and "dev" in tables:
        raise ValueError(f"dev_fraction = {dev_fraction}: must be 0, as {source} has a dev split")
    for required in ("train",) if dev_fraction else ("train", "dev"):
        if required not in tables:
            names = ", ".join(name for group in layout_of(task).names(required) for name in group)
            hint = HINT if required == "dev" else ""
            raise FileNotFoundError(f"{source}: task {task.name} has no {required} split there (names: {names}){hint}")
    splits = {}
    for split, read in tables.items():
        splits[split] = _to_split(task, split, read(), bad_rows)
        if split == "dev" and splits[split].labels is None:
            raise ValueError(f"{source}: the {split} split of task {task.name} has no labels")
    if dev_fraction:
        splits["train"], splits["dev"] = _draw_dev(splits["train"], task, dev_fraction, subset_seed)
    if train_rows is not None:
        splits["train"] = subset(splits["train"], train_rows, subset_seed)
    if unlabelled:
        splits = _with_unlabelled(splits, task, unlabelled)
    return TaskData(task, splits, source, subset_seed, bad_rows, dataset_config, dev_fraction, str(unlabelled))


def load_split(
    task: str | Task, source: Source = None, split: str = "dev", dataset_config: str = "", dev_fraction: float = 0.0
) -> Split:  # fmt: skip
    """One split of a task, labelled or not, from where `load_task` finds it, or from one file.

    dev_fraction: as of `load_task`, whose train and dev rows are then given. Raises ValueError or FileNotFoundError as
    `load_task` does, ValueError when the split is not there.
    """
    task = get_task(task)
    pick("split", split, NAMES)
    if dev_fraction and split != "test":
        return load_task(task, source, dataset_config=dataset_config, dev_fraction=dev_fraction).splits[split]
    tables, source = tables_of(task, source, split, dataset_config)
    if split not in tables:
        raise ValueError(f"split = {split!r}: {source} has {', '.join(tables) or 'none'} of task {task.name}")
    return _to_split(task, split, tables[split]())


def load_texts(folder: str | Path, columns: tuple[str, ...] = ("text",), field: str = "folder") -> Split:
    """Texts of your own, without labels, from a file, or from a folder's files in the order of their names.

    A table gives these columns, a .txt file its lines, if it is one column; blank texts and hidden files are left out.
    field: how a message names the folder. Raises FileNotFoundError (no such folder or file), ValueError (a file that
    cannot be read or has no texts).
    """
    place, suffixes = Path(locate(folder, field, files=True)), (".txt", *TABLES)
    if not place.exists():
        raise FileNotFoundError(f"{field} = {str(folder)!r}: no such folder")
    files = [place] if place.is_file() else sorted(file for file in place.glob("[!.]*") if file.is_file())
    files = [file for file in files if file.name.endswith(suffixes)]
    if not files:
        raise FileNotFoundError(f"{place}: no texts there: no file that ends in {', '.join(suffixes)}")
    rows: list[tuple[str, ...]] = []
    for file in files:
        table = read_table(file)
        table = table._replace(header=[*columns]) if file.suffix == ".txt" and len(columns) == 1 else table
        rows += zip(*_to_split(_Texts(columns), "texts", table).texts, strict=True)
    rows = [row for row in rows if any(map(str.strip, row))]
    if not rows:
        raise ValueError(f"{place}: only blank lines in {', '.join(file.name for file in files)}")
    return Split("texts", tuple(map(list, zip(*rows, strict=True))), None)


@checked
def reload_data(record: RunRecord, unlabelled: str = "") -> EncodedTask:
    """The rows a run was trained on, read and tokenised again; ValueError when they have changed since.

    unlabelled: further texts for students of this run's model, as of `load_task`.
    """
    reading = {name: getattr(record, name) for name in ("train_rows", *READING)}
    tokenizer = load_tokenizer(record.config.get("backbone", ""))
    raw = load_task(record.get_task(), **reading)
    encoded = encode_task(raw, tokenizer, record.max_length)
    for split, fingerprint in encoded.fingerprints.items():
        if record.fingerprints.get(split) != fingerprint:
            raise ValueError(f"{record.source}: the {split} split of {record.task} is not the one of {record.run_id}")
    if record.fingerprints.get("tokens", encoded.tokens) != encoded.tokens:  # older records have none
        where = f"{record.config.get('backbone')}: its tokenizer"
        raise ValueError(f"{where} does not give the tokens on which {record.run_id} was trained")
    if unlabelled:
        splits = _with_unlabelled(raw.splits, raw.task, unlabelled)
        encoded = encode_task(replace(raw, splits=splits, unlabelled=unlabelled), tokenizer, record.max_length)
    return encoded


@checked
def subset(split: Split, train_rows: Count, seed: Seed) -> Split:
    """So many rows drawn by the seed, in the split's order; ValueError when it has fewer."""
    whole("train_rows", train_rows, 1, len(split), f"the split's {len(split)} rows")
    order = np.random.default_rng(seed).permutation(len(split))
    return split.take(np.sort(order[:train_rows]))


def draw_rows(split: Split, rows: int = 0, seed: int = 0) -> Split:
    """At most so many rows of a split, drawn by the seed, in the split's order; 0 takes all."""
    return subset(split, rows, seed) if 0 < whole("rows", rows) < len(split) else split


# ------------------------------------------------------------------------------------------------- where rows lie
def tables_of(task: Task, source: Source, split: str = "", config: str = "") -> tuple[Tables, str]:
    """Each split that is there (or, of one file, the split that is asked for), and the source as it was given."""
    layout, embedded = layout_of(task), task.name.startswith("mini-")
    if source in (None, ""):
        if not embedded and task.name not in LAYOUTS:
            raise ValueError(f"source = {source!r}: must be given, as {task.name} is a task of your own")
        source = "data" if embedded else layout.hub
        place = locate(ROOT / "data" if embedded else source, "source")
    else:
        source, place = str(source), locate(source, "source", files=True)
    if os.path.isfile(place):
        if not place.endswith(tuple(TABLES)):
            raise ValueError(f"source = {source!r}: must be a folder with files, or {FILES}")
        if not split:
            raise ValueError(f"source = {source!r}: is one file, must be a folder with a train and a dev file{HINT}")
        stem = os.path.basename(place).partition(".")[0]
        others = {other for other in NAMES if any(stem in group for group in layout.names(other))}
        if others - {split}:
            raise ValueError(f"split = {split!r}: {source} is by its name another split")
        if _card(Path(place).parent)[1]:
            raise ValueError(f"source = {source!r}: the card beside it names its classes; give the folder")
        return {split: partial(read_table, Path(place))}, source
    if not os.path.isdir(place):
        return _from_datasets(layout, place, config, split), source
    own, whole = Path(place, layout.folder), Path(place)
    for folder in [whole] if _card(whole)[1] else [own, whole]:  # a task's own folder wins
        if tables := _from_folder(layout, folder, config, split):
            return tables, source
    named = f"train, dev{layout.ending}, test{layout.ending}"
    raise FileNotFoundError(f"{source}: no rows of task {task.name} there: no {named} as {FILES}, nor a dataset")


def _from_folder(layout: Layout, folder: Path, config: str, split: str) -> Tables:
    """The splits of a folder: its files, or what `datasets` reads there; of any other folder none."""
    there = _splits(layout, lambda name: [folder / name for of in layout.levels if (folder / name / of).is_dir()][:1])
    if there:  # RACE's folders
        levels = layout.levels if config in ("", "all") else [pick("dataset_config", config, ["all", *layout.levels])]
        return {split: partial(read_questions, place, levels) for split, place in there.items()}

    def is_there(*patterns: str) -> bool:
        return any(file.is_file() for pattern in patterns for file in folder.glob(pattern))

    files = _splits(layout, lambda name: [path for suffix in TABLES if (path := folder / f"{name}{suffix}").exists()])
    has_card, names_classes = _card(folder)
    if files and not names_classes:
        return {split: partial(read_table, file) for split, file in files.items()}
    # Not any folder, as `datasets` would take whatever lies below it for rows.
    saved = is_there("dataset_dict.json", "state.json")
    if saved or has_card or is_there("train-*-of-*", "data/train*"):
        return _from_datasets(layout, str(folder), config, split, saved)
    return {}


def _card(folder: Path) -> tuple[bool, bool]:
    """Whether a dataset's card lies in the folder, and whether it says which classes numbers stand for."""
    files = (folder / "README.md", folder / "dataset_infos.json")
    card, older = (file.read_bytes() if file.is_file() else b"" for file in files)
    header = card.partition(b"\n---")[0] if card.startswith(b"---") else b""
    header = b"" if b"\nlibrary_name:" in header else header  # a model's card
    return bool(header or older), b"class_label" in header or b"ClassLabel" in older


def _splits(layout: Layout, named: Callable[[str], list]) -> dict[str, Any]:
    """Split -> its only file or its name on the hub, of those called so; ValueError where a split has two."""
    splits = {}
    for split in NAMES:
        groups = ([one for name in names for one in named(name)] for names in layout.names(split))
        first, *others = next(filter(None, groups), [None])
        if others:
            raise ValueError(f"{first} and {others[0]}: both are the {split} split; leave one there")
        if first:
            splits[split] = first
    return splits


def _from_datasets(layout: Layout, source: str, config: str, split: str, saved: bool = False) -> Tables:
    """The splits of a dataset by hub id, of a local folder in the same layout, or of what save_to_disk wrote."""
    try:
        import datasets  # here, because pkdlib works without it
    except ModuleNotFoundError as error:
        line = f"source = {source!r}: no file of the task there; a dataset needs pip install 'pkdlib[hub]'"
        raise ModuleNotFoundError(line, name=error.name) from None
    offline, unreachable, where = datasets.config.HF_HUB_OFFLINE, None, source
    if not os.path.isdir(source):
        try:
            ask_hub(source, "dataset", "source")
        except OSError as error:
            unreachable = error  # it may still lie in the cache of `datasets`
            datasets.config.HF_HUB_OFFLINE = True  # else it would wait minutes for a network that is not there
    try:
        if saved:
            rows = datasets.load_from_disk(source)
        else:
            config = _configuration(layout, datasets.get_dataset_config_names(source), config)
            rows, where = datasets.load_dataset(source, config), source if config == "default" else f"{source}/{config}"
        if not isinstance(rows, datasets.DatasetDict):
            if not split:
                raise ValueError("is one split, must be a DatasetDict with train and dev")
            rows = datasets.DatasetDict({split: rows})
    except Exception as error:  # of any class, and often with its cause beneath it
        while error.__cause__ is not None:
            error = error.__cause__
        raise unreachable or ValueError(f"source = {source!r}: {one_line(error)}") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline

    def read(name: str) -> Table:
        return arrow_table(rows[name].with_format("arrow")[:], f"{where}/{name}")

    names = _splits(layout, lambda name: [name] if name in rows else [])
    return {split: partial(read, name) for split, name in names.items()}


def _configuration(layout: Layout, known: list[str], asked: str) -> str:
    """The configuration asked for, else the task's, or the default, or the only one where it is not another task's."""
    if asked:
        return pick("dataset_config", asked, known)
    name = next(name for name in (layout.config, "default", *known) if name in known)
    if name in (layout.config, "default") or (len(known) == 1 and name not in GLUE):
        return name
    raise ValueError(f"has no configuration {layout.config} or default, but {', '.join(known)}")


# ------------------------------------------------------------------------------------------------ rows of a table
def read_tsv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as texts, of a file of GLUE's or a zipfile.Path; ValueError names the first unreadable line."""
    table = read_lines(path)
    columns = _to_split(_Texts(tuple(table.header)), "", table).texts
    return table.header, list(map(list, zip(*columns, strict=True)))


class _Texts(NamedTuple):
    """Columns of texts without labels, which are read as a task's are."""

    columns: tuple[str, ...]
    name: str = "texts"
    label_names: tuple[str, ...] = ()
    label_column: str = "label"


def _to_split(task: Task | _Texts, name: str, table: Table, bad_rows: BadRows = "error") -> Split:
    """The task's columns of a table; without labels where it has no such column or the task has no classes."""
    table = with_choices(_with_header(layout_of(task), table), task.columns)
    columns, label = _columns(task, table)
    rows: dict[int, tuple] = {}
    bad: dict[int, str] = {}
    for number, row in enumerate(table.read([*columns, *label]), start=table.first):
        if fault := str(row) if isinstance(row, ValueError) else _fault(columns, row):
            bad[number] = fault
        else:
            rows[number] = row
    labels = {number: row[-1] for number, row in rows.items()} if label else {}
    if all(value not in task.label_names and str(value).strip().casefold() in HIDDEN for value in labels.values()):
        labels = {}
    classes = _classes(task, table, label[0]) if labels else []
    is_regression = len(task.label_names) == 1
    for number, value in labels.items():
        try:
            if is_regression:
                labels[number] = _value(value)
                continue
            index = int(float(value)) if classes and NUMBER.fullmatch(str(value)) else -1
            labels[number] = label_index(task, classes[index] if 0 <= index < len(classes) else value)
        except ValueError as error:
            bad[number] = str(error)
    if bad and bad_rows == "error":
        number = min(bad)
        raise ValueError(f"{table.where}, {table.unit} {table.number(number)}: {bad[number]}")
    # The torn: other parts of bad rows' texts. A text goes from one to the next, or is torn in two.
    pairs = [lines for lines in pairwise(sorted(table.torn)) if lines[1] - lines[0] < LONGEST_TEXT]
    parts = {row for first, last in pairs if {first, last} & bad.keys() for row in range(first, last + 1)}
    parts |= table.torn & {near for number in bad for near in (number - 1, number + 1)}
    skipped = sorted(bad.keys() | (parts & rows.keys()))
    if skipped:
        shown = ", ".join(map(table.number, skipped[:5])) + (", ..." if len(skipped) > 5 else "")
        warnings.warn(f"{table.where}: {len(skipped)} unreadable rows skipped ({table.unit}s {shown})", stacklevel=2)
    kept = sorted(rows.keys() - {*skipped})
    if not kept:
        raise ValueError(f"{table.where}: no rows")
    texts = tuple([rows[number][place] for number in kept] for place in range(len(columns)))
    dtype = np.float32 if is_regression else np.int64
    return Split(name, texts, np.array([labels[number] for number in kept], dtype) if labels else None)


def _with_header(layout: Layout, table: Table) -> Table:
    """The table; where it is of GLUE's files without a header, that, its first line a row like the others."""
    if table.unit != "line" or len(table.header) != len(layout.header) or {*layout.header} & {*table.header}:
        return table
    first = "\t".join(table.header).encode()
    return table._replace(header=[*layout.header], rows=[first, *table.rows], first=1)


def _value(label: Any) -> float:
    """A label that is a number; ValueError where it is none."""
    try:
        value = float(label)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"label {str(label).strip()!r}: must be a number")
    return value


def _draw_dev(split: Split, task: Task, fraction: float, seed: int) -> tuple[Split, Split]:
    """The split without a share of its rows, and that share as dev: drawn by the seed, as many of every class."""
    from sklearn.model_selection import train_test_split  # here, because it takes a second to import

    if split.labels is None:
        raise ValueError(f"dev_fraction = {fraction}: must be 0, as the rows of task {task.name} have no labels")
    stratify = None if task.is_regression else split.labels
    few = [] if stratify is None else np.flatnonzero(np.bincount(stratify) == 1)
    if len(few):
        raise ValueError(
            f"dev_fraction = {fraction}: must be 0, as of class {task.label_names[few[0]]} there is one row"
        )
    rows = np.arange(len(split))
    try:
        train, dev = train_test_split(rows, test_size=fraction, random_state=seed, stratify=stratify)
    except ValueError as error:  # too few rows, of a class too
        raise ValueError(f"dev_fraction = {fraction}: cannot draw from {len(split)} rows: {one_line(error)}") from None
    train, dev = split.take(np.sort(train)), replace(split.take(np.sort(dev)), name="dev")
    _tell_shared(task, dev, train, "training")
    return train, dev


def _with_unlabelled(splits: dict[str, Split], task: Task, unlabelled: str | Path) -> dict[str, Split]:
    texts = load_texts(unlabelled, task.columns, "unlabelled")
    for name in ("dev", "test"):
        if name in splits:
            _tell_shared(task, splits[name], texts, "unlabelled")
    return splits | {"unlabelled": texts}


def _tell_shared(task: Task, held_out: Split, learned: Split, kind: str) -> None:
    """Say in one line how many held-out rows a student learns from all the same."""
    known = {*zip(*learned.texts, strict=True)}
    if twice := sum(row in known for row in zip(*held_out.texts, strict=True)):
        say_once(f"{task.name}: {twice} of {len(held_out)} {held_out.name} rows have texts that {kind} rows have too")


def _columns(task: Task | _Texts, table: Table) -> tuple[Collection[str], list[str]]:
    """The columns of the task's texts and, where there is one, of its labels; ValueError unless each is there once."""
    layout, header = layout_of(task), table.header
    line = f"{table.where}, line 1" if table.unit == "line" else table.where
    if not header or any("\0" in column for column in header):
        raise ValueError(f"{line}: {'NUL bytes, must be text in UTF-8' if header else 'no columns, it is empty'}")
    columns = layout.columns if set(layout.columns) & set(header) else task.columns
    names = (layout.label, "label") if task.name in LAYOUTS else (layout.label,)
    label = [column for column in names if column in header and task.label_names][:1]
    for column in (*columns, *label):
        if header.count(column) != 1:
            count = "two columns" if column in header else "no column"
            raise ValueError(f"{line}: {count} {column!r}; it has {', '.join(header)}")
    return columns, label


def _fault(columns: Collection[str], row: tuple) -> str:
    """What keeps a row's texts from being read; empty where nothing does."""
    for column, value in zip(columns, row, strict=False):  # a label may follow
        if not isinstance(value, str):
            return f"{column} is {value!r}, not a text"
        if "\0" in value:
            return f"{column} holds a NUL character: {value[:40]!r}"
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{column} is not in UTF-8: {value[:40]!r}"
    return ""


def _classes(task: Task, table: Table, label: str) -> list[str]:
    """The task's names of a dataset's numbered classes, in the order of the dataset; ValueError where it has others."""
    names = table.classes.get(label, [])
    if all(map(NUMBER.fullmatch, names)):  # of a column of numbers that was declared to be of classes, or none
        return names
    return [task.label_names[ours] for ours in np.argsort(label_order(names, task.label_names, table.where))]


def label_index(task: Task, label: str | int | float | None) -> int:
    """Class index of a label given by name or number; ValueError names what is allowed.

    Upper case, spaces, - and _ make no difference to a name. Where classes are called by numbers, a number is a name.
    """
    index = None if label is None else _index(task.label_names, str(label).strip())  # no label is no class called none
    if index is None:
        allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(task.label_names))
        raise ValueError(f"label {str(label).strip()!r}: must be one of {allowed}")
    return index


@cache
def _index(names: tuple[str, ...], label: str) -> int | None:
    if label in names:
        return names.index(label)
    if NUMBER.fullmatch(label):
        numbers = {index: float(name) for index, name in enumerate(names) if NUMBER.fullmatch(name)}
        numbers = numbers or {index: index for index in range(len(names))}
        found = [index for index, number in numbers.items() if number == float(label)]
    else:
        found = [index for index, name in enumerate(names) if spelled(name) == spelled(label)]
    return found[0] if len(found) == 1 else None
