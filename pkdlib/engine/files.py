"""Where the project's files lie, and how one is written."""

import hashlib
import os
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

VERSION = "0.1.0"
# data/ and runs/ are found from ROOT: PKD_HOME, else the checkout that holds this library, else (a wheel) from here.
_CHECKOUT = Path(__file__).resolve().parents[2]
_IS_CHECKOUT = (_CHECKOUT / "notebooks").is_dir() and (_CHECKOUT / "data").is_dir()
ROOT = Path(os.environ.get("PKD_HOME") or (_CHECKOUT if _IS_CHECKOUT else Path.cwd())).resolve()
RUNS = ROOT / "runs"


@cache
def library_fingerprint() -> str:
    """A hash of the code that a training's result depends on: the core, the engine and the readers."""
    package = Path(__file__).parents[1]
    files = sorted(path for folder in (".", "engine", "readers") for path in (package / folder).glob("*.py"))
    return digest(*(path.relative_to(package).as_posix().encode() + path.read_bytes() for path in files))


def locate(name: str | Path) -> str:
    """The local folder of that name, looked up from ROOT and then from the current folder; else `name`, a hub id."""
    return str(next(filter(Path.is_dir, (ROOT / name, Path(name))), name))


def digest(*parts: bytes) -> str:
    """A short hash of bytes, the same however they are cut into parts."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token_hex(8)}.part")  # of this call alone, in any process of any machine
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_model(model: Any, folder: Path) -> None:
    """Call a model's `save_pretrained`, and let who may read its configuration read its weights too."""
    model.save_pretrained(folder)
    for file in Path(folder).glob("*.safetensors"):  # written as 0600, whatever the umask is
        file.chmod((Path(folder) / "config.json").stat().st_mode & 0o777)
