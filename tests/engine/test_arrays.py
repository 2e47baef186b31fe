"""Rows on disk: written in any order, whole or not at all, and opened only if they are what was written."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pkdlib.engine.arrays import open_rows, write_rows

ROWS = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.5]])


def write(folder: Path) -> dict[str, Path]:
    """Three rows of two outputs, the last row first."""
    paths = {"pair": folder / "pair.npy", "one": folder / "one.npy"}
    write_rows(
        ((positions, {paths["pair"]: ROWS[positions], paths["one"]: ROWS[positions, 0]})
         for positions in (torch.tensor([2]), torch.tensor([0, 1]))), 3,
    )  # fmt: skip
    return paths


def test_rows_are_found_at_their_positions(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = open_rows(write(tmp_path), 3)
    assert list(found) == ["pair", "one"]
    assert torch.equal(found["pair"], ROWS.half()) and torch.equal(found["one"], ROWS[:, 0].half())
    assert capsys.readouterr().out == ""


def test_a_file_is_plain_numpy_with_its_checksum_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path)["pair"]
    stored = np.load(path, allow_pickle=False)
    assert stored.dtype == np.float16 and stored.tolist() == ROWS.tolist()
    assert path.stat().st_size == 128 + stored.nbytes  # numpy's header, and nothing after the rows
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(path.with_suffix(".json").read_text()) == {"sha256": checksum}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["one.json", "one.npy", "pair.json", "pair.npy"]


def test_what_is_opened_may_be_written_to_and_leaves_the_file_alone(tmp_path: Path) -> None:
    paths = write(tmp_path)
    open_rows(paths, 3)["pair"][0, 0] = 7
    assert open_rows(paths, 3)["pair"][0, 0] == 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_what_is_opened_is_mapped_and_not_read(tmp_path: Path) -> None:
    paths = write(tmp_path)
    opened = open_rows(paths, 3)
    maps = Path("/proc/self/maps").read_text()
    assert all(str(paths[name].resolve()) in maps for name in opened) and len(opened) == 2


def test_absent_files_are_not_spoken_of_and_damaged_ones_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    paths = write(tmp_path)
    paths["pair"].write_bytes(paths["pair"].read_bytes()[:-1] + b"x")
    found = open_rows(paths | {"none": tmp_path / "none.npy"}, 3)
    assert list(found) == ["one"]
    assert capsys.readouterr().out == f"{paths['pair']}: damaged, made anew\n"


@pytest.mark.parametrize("content", [np.zeros((3, 2), np.float32), np.zeros((4, 2), np.float16)], ids=["type", "rows"])
def test_another_type_or_number_of_rows_is_damage(content: np.ndarray, tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.npy"
    np.save(path, content)
    path.with_suffix(".json").write_text(json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    assert open_rows({"a": path}, 3) == {}
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize("value", [65520.0, float("inf"), float("-inf"), float("nan")])
def test_one_value_beyond_half_precision_leaves_no_file(value: float, tmp_path: Path) -> None:
    rows = ROWS.clone()
    rows[1, 0] = value  # 65,504 is the largest
    with pytest.raises(ValueError, match=r"^the teacher's outputs do not fit in half precision \(not finite\)$"):
        write_rows(((torch.tensor([row]), {tmp_path / "a.npy": rows[[row]]}) for row in range(3)), 3)
    assert not list(tmp_path.iterdir())
    rows[1, 0] = 65504.0
    write_rows([(torch.arange(3), {tmp_path / "a.npy": rows})], 3)
    assert open_rows({"a": tmp_path / "a.npy"}, 3)["a"][1, 0] == 65504


def test_a_shape_that_changes_leaves_no_file(tmp_path: Path) -> None:
    batches = [(torch.tensor([0]), {tmp_path / "a.npy": torch.zeros(1, width)}) for width in (2, 3)]
    with pytest.raises(ValueError, match=r"^an output is \(3,\) per row here, \(2,\) before$"):
        write_rows(batches, 2)
    assert not list(tmp_path.iterdir())


def test_no_batches_are_no_files(tmp_path: Path) -> None:
    write_rows((), 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate")
def test_room_on_the_disk_is_taken_before_the_rows_come(tmp_path: Path) -> None:
    """A full disk is then an error here, and not the end of the process at some later row."""
    seen = []

    def batches() -> Iterator[tuple[torch.Tensor, dict[Path, torch.Tensor]]]:
        for position in range(2):
            seen.extend(one.stat() for one in tmp_path.glob("*.part"))
            yield torch.tensor([position]), {tmp_path / "a.npy": torch.zeros(1, 1_000_000)}

    write_rows(batches(), 2)
    (part,) = seen
    assert part.st_blocks * 512 >= part.st_size == 128 + 4_000_000
