"""Where the project's files lie, and how one is written."""

import hashlib
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from pkdlib.engine.progress import say_once

VERSION = "0.1.0"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
HUB_SECONDS = 5  # for the hub's first answer; what it then sends may take as long as it takes
# data/ and runs/ are found from ROOT: PKD_HOME, else the checkout that holds this library, else (a wheel) from here.
_CHECKOUT = Path(__file__).resolve().parents[2]
_IS_CHECKOUT = (_CHECKOUT / "notebooks").is_dir() and (_CHECKOUT / "data").is_dir()
ROOT = Path(os.environ.get("PKD_HOME") or (_CHECKOUT if _IS_CHECKOUT else Path.cwd())).resolve()
RUNS = ROOT / "runs"


@cache
def library_fingerprint() -> str:
    """A hash of the code that a training's result depends on: the core, engine, variants, readers and beyond."""
    package = Path(__file__).parents[1]
    rooms = (".", "engine", "variants", "readers", "beyond")
    files = sorted(path for room in rooms for path in (package / room).glob("*.py"))
    return digest(*(path.relative_to(package).as_posix().encode() + path.read_bytes() for path in files))


def here(name: str | Path) -> list[str]:
    """The folders or files of that name, the one that is taken first.

    A path that is absolute or begins with ~ or a dot is taken as it stands; any other is looked up from ROOT and then
    from the current folder.
    """
    path, as_it_stands = os.path.expanduser(name), str(name).startswith((".", "~"))
    roots = [Path()] if as_it_stands else [ROOT, Path()]
    return list(dict.fromkeys(str(root / path) for root in roots if os.path.exists(root / path)))


def locate(name: Any, field: str = "path", files: bool = False) -> str:
    """The local folder of that name, or with `files` the file; else `name` itself, where it can be a hub id.

    Says so when the current folder has another one of that name. Raises FileNotFoundError when the name can only be
    a path and nothing is there, ValueError when it is none at all, or a file's where a folder is needed.
    """
    if not isinstance(name, str | Path) or not str(name).strip():
        raise ValueError(f"{field} = {name!r}: must be the path of a folder or a hub id")
    text, places = str(name), here(name)
    if len(places) > 1 and not os.path.samefile(*places):
        say_once(f"{field} = {text!r}: {places[0]} is read; for the one in the current folder write ./{text}")
    if places and not files and not os.path.isdir(places[0]):
        raise ValueError(f"{field} = {text!r}: is a file, must be a folder or a hub id")
    above = text.rpartition("/")[0]
    if not places and (not HUB_ID.fullmatch(text) or (above and here(above))):
        raise FileNotFoundError(f"{field} = {text!r}: no such folder")
    return (places or [text])[0]


def reach(name: str | Path, field: str = "path") -> str:
    """`locate`'s folder, or the id of a model that the hub has, or that model's folder in the hub's local cache.

    Raises FileNotFoundError or ConnectionError within seconds when it is none of these, ValueError as `locate` does.
    """
    place = locate(name, field)
    if not os.path.isdir(place):
        try:
            ask_hub(place, "model", field)
        except OSError:
            from huggingface_hub import snapshot_download  # here, because it is slow to import

            with suppress(Exception):  # of many classes where it is not there
                return snapshot_download(place, local_files_only=True)
            raise
    return place


@cache
def ask_hub(name: str, kind: str, field: str) -> None:
    """Ask the hub once whether it has that "model" or "dataset".

    Raises FileNotFoundError when it says no, ConnectionError when it does not say.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().repo_info(name, repo_type=kind, timeout=HUB_SECONDS)
    except Exception as error:  # of huggingface_hub or of the HTTP client that it happens to use
        status = getattr(getattr(error, "response", None), "status_code", None)
        line = f"{field} = {name!r}: no such folder, and the hub"
        if status in (401, 403, 404):
            raise FileNotFoundError(f"{line} has no such {kind} (it answers {status})") from None
        raise ConnectionError(f"{line} {'cannot be reached' if status is None else f'answers {status}'}") from None


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
    except OSError as error:
        error.filename = str(path)  # which a full disk does not say
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_model(model: Any, folder: Path) -> None:
    """Call a model's `save_pretrained`, and let who may read its configuration read its weights too."""
    model.save_pretrained(folder)
    for file in Path(folder).glob("*.safetensors"):  # written as 0600, whatever the umask is
        file.chmod((Path(folder) / "config.json").stat().st_mode & 0o777)
