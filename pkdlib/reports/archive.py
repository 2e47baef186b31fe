"""The GLUE benchmark's archive: `python -m pkdlib.submission OUT.zip --students FOLDER... --source GLUE_FOLDER`.

A TSV per test file, index and prediction, in the format's labels, each checked against the test file itself. The
benchmark scores whole archives: CoLA's, STS-B's, WNLI's and AX's files, no tasks of this kit, come from elsewhere.
"""

import argparse
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pkdlib.data import encode_split
from pkdlib.engine.progress import say
from pkdlib.evaluation import predict
from pkdlib.models import load_classifier, load_tokenizer
from pkdlib.readers.layouts import layout_of
from pkdlib.readers.records import load_records
from pkdlib.readers.sources import load_split
from pkdlib.records import RESULT_FILE
from pkdlib.tasks import Task, get_task

# task -> name of its file in the archive, rows of the official test file
FILES = {
    "sst2": ("SST-2.tsv", 1821), "mrpc": ("MRPC.tsv", 1725), "qqp": ("QQP.tsv", 390965), "mnli": ("MNLI-m.tsv", 9796),
    "mnli-mm": ("MNLI-mm.tsv", 9847), "qnli": ("QNLI.tsv", 5463), "rte": ("RTE.tsv", 3000),
}  # fmt: skip
ELSEWHERE = ("CoLA.tsv", "STS-B.tsv", "WNLI.tsv", "AX.tsv")
ALL_FILES = (*(file for file, _ in FILES.values()), *ELSEWHERE)
HEADER = ["index", "prediction"]


def format_labels(task: Task) -> list[str]:
    """How the format writes the classes: names for inference tasks, numbers for the others."""
    return list(task.label_names) if "entailment" in task.label_names else [str(n) for n in range(task.num_labels)]


def read_table(path: Path | zipfile.Path) -> pd.DataFrame:
    """GLUE's TSV as texts: a header, tabs, no quoting, lines that end in newlines only; ValueError names the line."""
    lines = path.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
    header, *rows = [line.removesuffix("\r").split("\t") for line in lines]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: {len(row)} columns where the header has {len(header)}")
    return pd.DataFrame(rows, columns=header)


def official_indices(task: Task, source: str | Path) -> list[str]:
    """The index of every row of a GLUE test file: its column `index`, or 0, 1, ... where it has none."""
    layout = layout_of(task)
    inner, outer = (Path(source) / folder / f"{layout.splits['test']}.tsv" for folder in (layout.folder, ""))
    table = read_table(outer if outer.is_file() else inner)  # of neither, the error names the usual place
    return table["index"].tolist() if "index" in table else [str(row) for row in range(len(table))]


def predicted_table(folder: Path, task: Task, source: str | Path) -> pd.DataFrame:
    """A student's predictions on the task's test file; ValueError where it has other classes than the task."""
    model, tokenizer = load_classifier(folder), load_tokenizer(folder)
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    if names != list(task.label_names):
        raise ValueError(f"{folder}: its classes are {', '.join(names)}, not {', '.join(task.label_names)}")
    record = load_records(folder / RESULT_FILE)[0]
    encoded = encode_split(load_split(task.name, source, "test"), tokenizer, record.max_length)
    labels = format_labels(task)
    predicted = [labels[number] for number in predict(model, encoded).argmax(dim=-1).tolist()]
    return pd.DataFrame({"index": official_indices(task, source), "prediction": predicted})


def students_by_task(folders: Iterable[str | Path]) -> dict[str, Path]:
    """Each trained student's folder by its task; one of MNLI predicts matched and mismatched."""
    found: dict[str, Path] = {}
    for folder in map(Path, folders):
        if not all((folder / name).is_file() for name in (RESULT_FILE, "model.safetensors")):
            raise ValueError(f"{folder}: no trained student: it needs {RESULT_FILE} and model.safetensors")
        task = load_records(folder / RESULT_FILE)[0].task
        if task not in FILES:
            raise ValueError(f"{folder}: task = {task!r}: must be one of {', '.join(FILES)}")
        for name in ("mnli", "mnli-mm") if task.startswith("mnli") else (task,):
            if found.setdefault(name, folder) is not folder:
                raise ValueError(f"{folder}: task {name} has a student already, {found[name]}")
    return found


def check_archive(path: str | Path, source: str | Path, any_size: bool = False) -> list[str]:
    """The archive's files, checked against the test files: header, indices, labels, official size unless any_size.

    Raises ValueError, one line: file, row and what is allowed.
    """
    tasks = {file: (get_task(name), rows) for name, (file, rows) in FILES.items()}
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names) or not set(names) <= set(ALL_FILES):
            raise ValueError(f"{path}: holds {', '.join(names)}: must be some of {', '.join(ALL_FILES)}, each once")
        for name in [name for name in names if name in tasks]:
            task, official = tasks[name]
            indices = official_indices(task, source)
            _check_table(name, read_table(zipfile.Path(archive, name)), indices, format_labels(task))
            if len(indices) != official and not any_size:
                raise ValueError(f"{name}: {len(indices)} rows where the benchmark's test file has {official}")
    return names


def _check_table(name: str, table: pd.DataFrame, indices: list[str], labels: list[str]) -> None:
    if list(table.columns) != HEADER:
        raise ValueError(f"{name}: the header is {', '.join(table.columns)}: must be {', '.join(HEADER)}")
    held, wanted = table["index"], pd.Series(indices)
    doubled, missing = held[held.duplicated()].tolist(), wanted[~wanted.isin(held)].tolist()
    surplus = held[~held.isin(wanted)].tolist()
    for found, what in ((doubled, "stands there twice"), (missing, "is missing"), (surplus, "is not in the test file")):
        if found:
            raise ValueError(
                f"{name}: index {found[0]} {what}: {len(table)} rows where the test file has {len(indices)}"
            )
    for index, label in table[~table["prediction"].isin(labels)].itertuples(index=False):
        raise ValueError(f"{name}: index {index}: label {label!r}: must be one of {', '.join(labels)}")


def write_archive(path: Path, students: Iterable[str | Path], source: str | Path, any_size: bool = False) -> list[str]:
    """Predict the test files, write the archive and check it; its files. One that fails its check is not left."""
    part = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, folder in students_by_task(students).items():
                table = predicted_table(folder, get_task(name), source)
                archive.writestr(FILES[name][0], table.to_csv(sep="\t", index=False, lineterminator="\n"))
        names = check_archive(part, source, any_size)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return names


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the archive, a .zip file")
    parser.add_argument("--students", nargs="+", required=True, help="folders of result.json and a checkpoint")
    parser.add_argument("--source", type=Path, required=True, help="GLUE's folder as downloaded")
    parser.add_argument("--any-size", action="store_true", help="accept test files that are not of the official size")
    chosen = parser.parse_args(arguments)
    try:
        names = write_archive(chosen.out, chosen.students, chosen.source, chosen.any_size)
    except (OSError, ValueError) as error:
        say(str(error))
        return 2
    say(f"{chosen.out}: {', '.join(names)}: checked")
    say(f"not in it, though the benchmark asks for them: {', '.join(name for name in ALL_FILES if name not in names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
