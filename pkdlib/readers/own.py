"""A task of your own by parameters: which columns of which rows, their classes or values, and how they are scored."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pkdlib.data import TaskData
from pkdlib.engine.configs import ConfigError
from pkdlib.engine.metrics import OF_VALUES
from pkdlib.engine.progress import say_once
from pkdlib.readers.layouts import NAMES
from pkdlib.readers.sources import NUMBER, load_task, tables_of
from pkdlib.readers.tables import TABLES
from pkdlib.tasks import Task, get_task

CUSTOM = "custom"  # what the parameter `task` is then
OWN = ("dataset_config", "text_columns", "label_column", "label_names", "metrics", "dev_fraction")
OF_A_TASK = ("task", "source", *OWN[:-1])  # `task_of`'s


def own_task(
    source: str, text_columns: Sequence[str] = (), label_column: str = "", label_names: Sequence[str] = (),
    metrics: Sequence[str] = (), dataset_config: str = "",
) -> Task:  # fmt: skip
    """A task of these columns ("text" and "label" where they are empty), called custom- and the source's name (and
    the label column's, where that is another).

    label_names: in the order of the classes; empty: as a dataset names its classes, else all that training rows have,
    sorted; both are printed. metrics: accuracy and macro_f1 where they are empty; pearson and spearman make it
    regression. Raises ConfigError or ValueError where a column is missing or the labels can be no classes.
    """
    columns, label = tuple(text_columns) or ("text",), label_column or "label"
    name = _name(Path(source), label)
    if set(metrics) & {*OF_VALUES}:
        return Task(name, columns, tuple(label_names) or (label,), tuple(metrics), label)
    if not label_names:
        label_names = _classes(name, source, columns, label, dataset_config)
    return Task(name, columns, tuple(label_names), tuple(metrics) or ("accuracy", "macro_f1"), label)


def _name(source: Path, label: str) -> str:
    """custom-, the name of the file or folder (of its folder, where it is called train or the like), the column's."""
    ending = next((ending for ending in sorted(TABLES, key=len, reverse=True) if source.name.endswith(ending)), "")
    stem = source.name.removesuffix(ending)
    words = [source.parent.name or stem if _split_of(source) else stem, *([label] if label != "label" else [])]
    return "-".join([CUSTOM, *(re.sub(r"[^\w-]+", "-", word).strip("-") for word in words)])


def _split_of(source: Path) -> str:
    """The split that a file is by its name; "" of any other name."""
    stem = source.name.partition(".")[0]
    return next((split for split, names in NAMES.items() if stem in names), "")


def _classes(name: str, source: str, columns: tuple[str, ...], label: str, config: str) -> list[str]:
    """The names of the classes of a source's training rows, or of its only file's."""
    split = _split_of(Path(source)) or "train"
    tables, where = tables_of(Task(name, columns, (label,), ("pearson",), label), source, split, config)
    if split not in tables:
        raise FileNotFoundError(f"{where}: no train split there")
    table = tables[split]()
    if label not in table.header:
        raise ConfigError(f"label_column = {label!r}: {table.where} has no such column, but {', '.join(table.header)}")
    labels = (row[0] for row in table.read([label]) if isinstance(row, tuple))
    values = [str(one).strip() for one in labels if one is not None]
    values = [value.partition(".")[0] if NUMBER.fullmatch(value) else value for value in values]  # 1.0 is 1
    counts = Counter(value for value in values if value.casefold() not in ("", "nan"))
    names, rows = table.classes.get(label, []), sum(counts.values())
    if names:
        say_once(f"{name}: the classes are {', '.join(names)}, as {table.where} names them")
        return names
    if len(counts) < 2 or len(counts) > max(2, rows // 2):
        hint = "numbers to be predicted as values need metrics pearson or spearman"
        raise ConfigError(f"label_column = {label!r}: {len(counts)} labels in {rows} rows can be no classes; {hint}")
    are_numbers = all(map(NUMBER.fullmatch, counts))
    names = sorted(counts, key=float) if are_numbers else sorted(counts)
    say_once(f"{name}: the classes are {', '.join(f'{one} ({counts[one]} rows)' for one in names)}")
    return names


def task_of(task: str | Task, source: str = "", **own: Any) -> Task:
    """The task that a notebook's parameters name: of the table, or with "custom" of your own, by `own_task`'s."""
    return own_task(source, **own) if task == CUSTOM else get_task(task)


def load_rows(
    task: str | Task, source: str = "", train_rows: int = 0, dataset_config: str = "", dev_fraction: float = 0.0,
    unlabelled: str = "", **own: Any,
) -> TaskData:  # fmt: skip
    """The rows that a notebook's parameters name, as `task_of` their task; empty and 0 mean what they mean there.

    Raises as `load_task` and `own_task` do.
    """
    return load_task(
        task_of(task, source, dataset_config=dataset_config, **own), source or None, train_rows=train_rows or None,
        dataset_config=dataset_config, dev_fraction=dev_fraction, unlabelled=unlabelled,
    )  # fmt: skip


def reading_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a notebook's parameters, or of a configuration's fields, that `load_rows` takes."""
    return {
        name: parameters[name] for name in ("task", "source", "train_rows", "unlabelled", *OWN) if name in parameters
    }
