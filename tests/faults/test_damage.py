"""Files that were damaged are made anew, with a line; a folder has one writer at a time."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from places import Kit, no_update

from pkdlib.readers.records import load_records


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("kit"))


def _half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _other_shape(file: Path) -> None:
    np.save(file, np.zeros((3, 2), np.float16))


def _text(suffix: str, text: str) -> Callable[[Path], object]:
    return lambda file: file.with_suffix(suffix).write_text(text)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "half of it": _half,
    "zeros": _zeros,
    "one bit": _flip,
    "another shape": _other_shape,
    "noise": _text(".npy", "nonsense"),
    "no checksum": lambda file: file.with_suffix(".json").unlink(),
    "an empty checksum": _text(".json", ""),
    "half a checksum": _text(".json", '{"sha'),
    "a list": _text(".json", "[]"),
    "a number": _text(".json", "5"),
    "another name": _text(".json", '{"md5": "x"}'),
    "another checksum": _text(".json", '{"sha256": "x"}'),
    "bytes": lambda file: file.with_suffix(".json").write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_cache_file_is_made_anew_with_a_line(name: str, kit: Kit, tmp_path: Path, capsys) -> None:
    def targets() -> dict[str, np.ndarray]:
        from pkdlib.objectives import pkd_wants
        from pkdlib.targets import teacher_targets

        made = teacher_targets(kit.model, kit.train, pkd_wants([]), tmp_path)
        assert list(made.paths) == ["teacher_logits"]
        return {"logits": made.arrays["teacher_logits"].numpy().copy(), "path": made.paths["teacher_logits"]}

    first = targets()
    before = first["path"].read_bytes()
    DAMAGES[name](first["path"])
    capsys.readouterr()
    again = targets()
    assert np.array_equal(first["logits"], again["logits"]) and first["path"].read_bytes() == before
    lines = capsys.readouterr().out.splitlines()
    assert set(lines) == {f"{first['path']}: damaged, made anew"}


def test_a_folder_has_one_writer_at_a_time(kit: Kit, tmp_path: Path) -> None:
    kit.tmp, refused = tmp_path, []

    def another(*_: object) -> None:
        with no_update(), pytest.raises(ValueError) as error:
            kit.fine_tune(tmp_path / "run", seed=5)
        refused.append(str(error.value))

    run = kit.fine_tune(tmp_path / "run", on_epoch=another)
    line = f"output_dir = '{tmp_path / 'run'}': must be a folder to which no other process is writing"
    assert refused == [line] * 2  # before training, and after its one epoch
    assert load_records(tmp_path / "run") == [run.record]


def test_two_writers_of_the_cache_read_the_same(kit: Kit, tmp_path: Path) -> None:
    """The second comes while the first one's pass is going on: in a process of its own, it waits."""
    pytest.importorskip("fcntl")
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            status = 1
            try:
                kit.tmp = tmp_path
                run = kit.distill(cache=tmp_path / "cache")
                (tmp_path / f"{os.getpid()}.json").write_text(json.dumps(run.record.fingerprints))
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    one, two = (json.loads((tmp_path / f"{child}.json").read_text()) for child in children)
    assert one == two
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2 and not list((tmp_path / "cache").glob("*.part"))
