"""The GLUE benchmark's archive: a TSV of index and prediction for each test file, checked against that file."""

import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex

from pkdlib.data import encode_split
from pkdlib.evaluation import predict
from pkdlib.models import load_classifier, load_tokenizer
from pkdlib.readers.layouts import layout_of
from pkdlib.readers.records import load_records
from pkdlib.readers.sources import load_split, read_tsv
from pkdlib.records import RESULT_FILE
from pkdlib.tasks import Task, get_task

# task -> name of its file in the archive, rows of the official test file
FILES = {
    "sst2": ("SST-2.tsv", 1821), "mrpc": ("MRPC.tsv", 1725), "qqp": ("QQP.tsv", 390965), "mnli": ("MNLI-m.tsv", 9796),
    "mnli-mm": ("MNLI-mm.tsv", 9847), "qnli": ("QNLI.tsv", 5463), "rte": ("RTE.tsv", 3000), "cola": ("CoLA.tsv", 1063),
    "stsb": ("STS-B.tsv", 1379),
}  # fmt: skip
TASKS = {file: name for name, (file, _) in FILES.items()}
ALL_FILES = (*TASKS, "WNLI.tsv", "AX.tsv")  # the last two come from elsewhere
VALUE = re.compile(r"[0-4]\.\d{3}|5\.000")  # of STS-B
HEADER = ["index", "prediction"]


def format_labels(task: Task) -> list[str]:
    """How the format writes the classes: names for inference tasks, numbers for the others."""
    return list(task.label_names) if "entailment" in task.label_names else [str(n) for n in range(task.num_labels)]


def official_indices(task: Task, source: str | Path) -> list[str]:
    """The index of every row of a GLUE test file: its column `index`, or 0, 1, ... where it has none."""
    source, layout = Path(source), layout_of(task)
    file = f"test{layout.ending}.tsv"
    own = source / layout.folder / file  # a task's own folder wins, as where its texts are read
    header, rows = read_tsv(own if own.is_file() else source / file)
    return [row[header.index("index")] if "index" in header else str(number) for number, row in enumerate(rows)]


def predictions(folder: Path, task: Task, source: str | Path) -> list[str]:
    """A student's label or value for each row of the task's test file; ValueError where it has other classes."""
    model, tokenizer = load_classifier(folder, task.label_names), load_tokenizer(folder)
    max_length = load_records(folder / RESULT_FILE)[0].max_length
    encoded = encode_split(load_split(task.name, source, "test"), tokenizer, max_length)
    decided = task.decide(predict(model, encoded))
    if task.is_regression:
        return [f"{value:.3f}" for value in decided.clip(0, 5)]
    return [format_labels(task)[number] for number in decided]


def students_by_task(folders: Iterable[str | Path]) -> dict[str, Path]:
    """Each trained student's folder by its task; one of MNLI predicts matched and mismatched."""
    students: dict[str, Path] = {}
    for folder in map(Path, folders):
        if not all((folder / name).is_file() for name in (RESULT_FILE, "model.safetensors")):
            raise ValueError(f"{folder}: no trained student: it needs {RESULT_FILE} and model.safetensors")
        task = load_records(folder / RESULT_FILE)[0].task
        if task not in FILES:
            raise ValueError(f"{folder}: task = {task!r}: must be one of {', '.join(FILES)}")
        for name in ("mnli", "mnli-mm") if task.startswith("mnli") else (task,):
            if students.setdefault(name, folder) is not folder:
                raise ValueError(f"{folder}: task {name} has a student already, {students[name]}")
    return students


def check_archive(path: str | Path, source: str | Path, any_size: bool = False) -> list[str]:
    """The archive's files, their header, indices, labels and size checked; ValueError names file, row and allowed."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names) or not set(names) <= set(ALL_FILES):
            raise ValueError(f"{path}: holds {', '.join(names)}: must be some of {', '.join(ALL_FILES)}, each once")
        for name in [name for name in names if name in TASKS]:
            _check_rows(name, *read_tsv(zipfile.Path(archive, name)), source, any_size)
    return names


def _check_rows(name: str, header: list[str], rows: list[list[str]], source: str | Path, any_size: bool) -> None:
    if header != HEADER:
        raise ValueError(f"{name}: the header is {', '.join(header)}: must be {', '.join(HEADER)}")
    task, (_, official) = get_task(TASKS[name]), FILES[TASKS[name]]
    indices, labels = official_indices(task, source), format_labels(task)
    held, wanted = Counter(index for index, _ in rows), Counter(indices)
    for index in (held - wanted) + (wanted - held):
        fault = "stands there twice" if index in wanted else "is not in the test file"
        fault = fault if index in held else "is missing"
        raise ValueError(f"{name}: index {index} {fault}: {len(rows)} rows where the test file has {len(indices)}")
    for index, label in rows:
        if not VALUE.fullmatch(label) if task.is_regression else label not in labels:
            allowed = "a number from 0.000 to 5.000" if task.is_regression else f"one of {', '.join(labels)}"
            raise ValueError(f"{name}: index {index}: label {label!r}: must be {allowed}")
    if len(indices) != official and not any_size:
        raise ValueError(f"{name}: {len(indices)} rows where the benchmark's test file has {official}")


def write_archive(path: Path, students: Iterable[str | Path], source: str | Path, any_size: bool = False) -> list[str]:
    """Predict the test files, write the archive and check it; its files. One that fails its check is not left."""
    part = path.with_name(f".{path.name}.{token_hex(8)}.part")
    if not path.parent.is_dir():
        raise ValueError(f"out = {str(path)!r}: must lie in a folder that is there")
    try:
        with zipfile.ZipFile(part, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, folder in students_by_task(students).items():
                task = get_task(name)
                rows = zip(official_indices(task, source), predictions(folder, task, source), strict=True)
                archive.writestr(FILES[name][0], "".join("\t".join(row) + "\n" for row in (HEADER, *rows)))
        names = check_archive(part, source, any_size)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return names
