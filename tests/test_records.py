"""Records on disk."""

import json
import math
from pathlib import Path

import pytest
from helpers import make_record
from pydantic import ValidationError

from pkdlib import load_records
from pkdlib.engine.files import write_text
from pkdlib.readers.records import save_records
from pkdlib.records import RESULT_FILE, save_result


def test_a_record_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = make_record()
    assert save_result(saved, tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / RESULT_FILE
    assert load_records(tmp_path) == [saved]


def test_a_record_states_versions_and_time_and_is_frozen() -> None:
    assert make_record().versions.keys() == {"python", "pkdlib", "torch", "transformers", "accelerate", "numpy"}
    assert make_record().created_at.endswith("+00:00")
    with pytest.raises(ValidationError, match="frozen"):
        make_record().best_epoch = 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_survives_the_file(tmp_path: Path, value: float) -> None:
    save_result(make_record(metrics={"dev": {"loss": value}}), tmp_path)
    save_records(load_records(tmp_path), tmp_path / "all.jsonl")
    for place in (tmp_path, tmp_path / "all.jsonl"):
        (found,) = load_records(place)
        assert found.metrics["dev"]["loss"] == pytest.approx(value, nan_ok=True)


def test_a_folder_s_records_are_found_at_any_depth_and_other_files_are_left(tmp_path: Path) -> None:
    for run_id, folder in (("c", "."), ("a", "x/y"), ("b", "x")):
        save_result(make_record(run_id), tmp_path / folder)
    (tmp_path / "config.json").write_text("{}")
    assert {found.run_id for found in load_records(tmp_path)} == {"a", "b", "c"}


def test_collected_records_are_read_back_ordered_by_run_id(tmp_path: Path) -> None:
    saved = [make_record(run_id, device="odd\u2028device\x85name") for run_id in ("c", "a", "b")]
    save_records(saved, tmp_path / "out" / "all.jsonl")
    assert load_records(tmp_path / "out" / "all.jsonl") == [saved[1], saved[2], saved[0]]
    assert len((tmp_path / "out" / "all.jsonl").read_bytes().split(b"\n")) == 3 + 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "content: Invalid JSON"),
        (b'{"run_id": "a", "meth', "content: Invalid JSON"),
        (b'{"run_id": "\xff"}', "content: Invalid JSON"),
        (b'{"run_id": "a"}', "method: missing"),
        (
            make_record().model_dump_json().replace('"threads":1', '"threads":1,"colour":"red"').encode(),
            "colour = 'red': unknown name",
        ),
        (
            make_record().model_dump_json().replace('"best_epoch":2', '"best_epoch":"two"').encode(),
            "best_epoch = 'two': must be a valid integer",
        ),
        (b"[]", "content: must be an object"),
    ],
    ids=["empty", "cut", "not-utf-8", "incomplete", "unknown-field", "wrong-type", "not-a-record"],
)
def test_a_file_that_is_no_complete_record_is_refused_by_name(tmp_path: Path, content: bytes, complaint: str) -> None:
    save_result(make_record(), tmp_path / "good")
    bad = tmp_path / "bad" / RESULT_FILE
    bad.parent.mkdir()
    bad.write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_records(tmp_path)
    assert str(error.value).startswith(f"{bad}, record 1: {complaint}")


def test_a_bad_line_of_a_collected_file_is_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text(make_record().model_dump_json() + "\n" + "{}\n")
    with pytest.raises(ValueError, match=r"all\.jsonl, record 2: run_id: missing, it has no default"):
        load_records(path)


@pytest.mark.parametrize("name", ["nowhere", "empty", "empty.jsonl"])
def test_no_records_are_a_file_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(FileNotFoundError, match=f"{name}: no result files"):
        load_records(tmp_path / name)


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    for text in ("first, the longer one", "second"):
        write_text(path, text)
        assert path.read_text() == text
        assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new, but a lone surrogate cannot be written: \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_saved_record_is_plain_json(tmp_path: Path) -> None:
    path = save_result(make_record(), tmp_path)
    assert json.loads(path.read_text())["layer_map"] == [4, 8]


def test_a_folder_s_collected_files_are_read_where_it_has_no_single_ones(tmp_path: Path) -> None:
    save_records([make_record("a"), make_record("b")], tmp_path / "one.jsonl")
    save_records([make_record("c")], tmp_path / "two.jsonl")
    assert [run.run_id for run in load_records(tmp_path)] == ["a", "b", "c"]
    save_result(make_record("a"), tmp_path / "a")  # which the collected files are of
    assert [run.run_id for run in load_records(tmp_path)] == ["a"]
