"""Which folder a name means, which names are refused at once, and what is asked of the hub, once and briefly."""

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread

import huggingface_hub.constants
import pytest
from helpers import MINI_BERT, mini_tokenizer

from pkdlib import ROOT, load_backbone, load_classifier, load_task, load_tokenizer
from pkdlib.engine import files
from pkdlib.engine.files import ask_hub, here, locate, reach


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a `mine`, a `data` of its own, and a file."""
    for name in ("mine/model", "data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file.csv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ask_hub.cache_clear()
    files.say_once.cache_clear()
    return tmp_path


@pytest.mark.parametrize("name", ["mine", "mine/model", "./mine", "./data", "../{}/mine", "{}/mine", "~/mine", "."])
def test_a_path_of_the_current_folder_is_found(folder: Path, name: str) -> None:
    name = name.format(folder.name if name.startswith("..") else folder)
    expected = Path(str(folder) + name[1:]) if name.startswith("~") else Path(name)
    assert Path(locate(name)).samefile(expected)
    assert Path(here(name)[0]).resolve().is_relative_to(folder)


def test_a_bare_name_means_the_project_s_folder_and_says_so_where_another_has_it(folder: Path, capsys) -> None:
    for _ in range(2):
        assert locate("data", "source") == str(ROOT / "data")
    line = f"source = 'data': {ROOT / 'data'} is read; for the one in the current folder write ./data\n"
    assert capsys.readouterr().out == line  # once
    assert locate("mine") == "mine" and locate("data/mini-bert-12") == str(ROOT / MINI_BERT)
    assert Path(locate("./data")).samefile(folder / "data")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name",
    [
        "./dta/x", "../nothing", "data/mini-bert-13", "mine/bert", "runs/rte/teacher", "~/x", "~nobody/x", "a\\b",
        "a/b/c", "a//b", "/nowhere", "has space", "trailing/", ".hidden", "a\0b", "x" * 5000 + "/y/z",
    ],
)  # fmt: skip
def test_what_can_only_be_a_path_is_refused_without_asking_the_hub(folder: Path, name: str, monkeypatch) -> None:
    monkeypatch.setattr(files, "ask_hub", lambda *_: pytest.fail("the hub was asked"))
    for function in (load_tokenizer, load_backbone):
        with pytest.raises(FileNotFoundError) as error:
            function(name)
        assert str(error.value).endswith(f" = {name!r}: no such folder")
    with pytest.raises(FileNotFoundError) as error:
        load_task("sst2", name)
    assert str(error.value) == f"source = {name!r}: no such folder"


@pytest.mark.parametrize("name", [5, None, True, "", "  ", b"data", ["data"]])
def test_what_is_no_path_is_refused(name: object) -> None:
    blank = "must be the path of a folder or a hub id"
    other = blank if isinstance(name, str) else "must be a valid string or an instance of Path"
    for function, field, allowed in (
        (load_tokenizer, "backbone", blank),
        (load_classifier, "path", other),  # whose arguments are checked by their types
        (load_backbone, "path", blank),
    ):
        with pytest.raises(ValueError) as error:
            function(name)
        assert str(error.value) == f"{field} = {name!r}: {allowed}"


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^path = './file.csv': is a file, must be a folder or a hub id$"):
        load_backbone("./file.csv")


# ------------------------------------------------------------------------------------------------------- the hub
@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine that has the model me/known, answers 503 or 404 for others, and nothing for me/silent."""
    asked, done = [], Event()

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/api/models"):  # not what the library asks for itself
                asked.append(self.path)
            if "silent" in self.path:
                done.wait()
                return
            body = json.dumps({"id": "me/known"}).encode()
            self.send_response(200 if "known" in self.path else 503 if "busy" in self.path else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(files, "HUB_SECONDS", 0.2)
    yield asked
    done.set()
    server.shutdown()
    server.server_close()
    ask_hub.cache_clear()


def test_an_id_that_the_hub_has_is_left_to_the_hub(hub: list[str]) -> None:
    assert reach("me/known") == reach("me/known") == "me/known"
    assert hub == ["/api/models/me/known"]


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("me/other", FileNotFoundError, r"has no such model \(it answers 404\)"),
        ("me/busy", ConnectionError, "answers 503"),
        ("me/silent", ConnectionError, "cannot be reached"),
    ],
)
def test_an_id_that_the_hub_does_not_give_is_asked_for_once_and_refused_in_one_line(
    hub: list[str], name: str, kind: type[OSError], reason: str
) -> None:
    with pytest.raises(kind, match=rf"^backbone = '{name}': no such folder, and the hub {reason}$"):
        load_tokenizer(name)
    assert hub == [f"/api/models/{name}"]


def test_without_a_network_a_model_is_taken_from_the_hub_s_cache(folder: Path, monkeypatch) -> None:
    with pytest.raises(ConnectionError, match=r"^path = 'me/tiny': no such folder, and the hub cannot be reached$"):
        load_backbone("me/tiny")
    cache = folder / "cache"
    snapshot = cache / "models--me--tiny" / "snapshots" / "abc"
    shutil.copytree(ROOT / MINI_BERT, snapshot)
    (cache / "models--me--tiny" / "refs").mkdir()
    (cache / "models--me--tiny" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    assert reach("me/tiny") == str(snapshot)
    assert load_tokenizer("me/tiny").get_vocab() == mini_tokenizer().get_vocab()
