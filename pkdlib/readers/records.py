"""Collected records of runs, read and written."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from pkdlib.engine.configs import complaints
from pkdlib.engine.files import write_text
from pkdlib.records import RESULT_FILE, RunRecord


def flat(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """A record's metrics, by split and name, under the names that tables have: split_metric."""
    return {f"{split}_{name}": score for split, of in scores.items() for name, score in of.items()}


def save_records(records: Iterable[RunRecord], path: Path) -> None:
    """Write records to one JSON-lines file, ordered by run id."""
    ordered = sorted(records, key=lambda record: record.run_id)
    write_text(Path(path), "".join(record.model_dump_json() + "\n" for record in ordered))


def load_records(folder: str | Path) -> list[RunRecord]:
    """Every record of a folder (its result.json files at any depth, else its .jsonl files) or of one such file.

    Raises FileNotFoundError (none there), ValueError (a record is not complete, with its file).
    """
    folder = Path(folder)
    files = [folder] if folder.is_file() else sorted(folder.rglob(RESULT_FILE)) or sorted(folder.glob("*.jsonl"))
    records = []
    for file in files:
        content = file.read_bytes()  # as str, splitlines() would also split at rarer line ends inside a text
        for number, line in enumerate(content.splitlines() if file.suffix == ".jsonl" else [content], start=1):
            try:
                records.append(RunRecord.model_validate_json(line))
            except ValidationError as error:
                raise ValueError(f"{file}, record {number}: {complaints(RunRecord, error)[0]}") from None
    if not records:
        raise FileNotFoundError(f"{folder}: no result files")
    return records
