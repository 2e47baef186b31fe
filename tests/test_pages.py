"""README, CONTRIBUTING and the guide: links lead somewhere, their code runs, the picture and the commands are there."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pkdlib import ROOT
from pkdlib.layer_maps import STRATEGIES, layer_map
from pkdlib.variants.distances import DISTANCES

GUIDE = sorted((ROOT / "notebooks" / "guide").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md", *GUIDE]
PICTURE = ROOT / "notebooks" / "guide" / "pkd.svg"
LINK = re.compile(r"\]\(([^)\s]+)\)")
SMALL = {  # what makes the README's example one of few rows, and keeps its files out of the checkout
    'load_task("mini-sentiment")': 'load_task("mini-sentiment", train_rows=64)',
    "seed=0)": "seed=0, num_train_epochs=1)",
    "beta=0.3)": "beta=0.3, num_train_epochs=1)",
    "config, teacher.model)": "config, teacher.model, cache_dir=folder)",
    '"runs/my-student"': "folder / 'my-student'",
}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", read(path), re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The places of a page as code hosts and the book name them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", read(path), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> dict:
    """The names that the README's example leaves, run on few rows."""
    (code,) = blocks(ROOT / "README.md")
    for shown, small in SMALL.items():
        assert code.count(shown) == 1, f"README's example: {shown}"
        code = code.replace(shown, small)
    names = {"folder": tmp_path_factory.mktemp("example")}
    exec(code, names)
    return names


@pytest.fixture
def in_the_project(monkeypatch) -> Iterator[None]:
    """In the project's root, with the tables of distances and strategies left as they were."""
    monkeypatch.chdir(ROOT)
    were = [(table, dict(table)) for table in (DISTANCES, STRATEGIES)]
    yield
    for table, names in were:
        table.clear()
        table.update(names)


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_place_in_it(path: Path) -> None:
    for link in LINK.findall(read(path)):
        parts = urlsplit(link)
        if not parts.scheme:
            goal = (path.parent / parts.path).resolve() if parts.path else path
            assert goal.exists(), link
            assert not parts.fragment or parts.fragment in anchors(goal), link


def test_the_readme_leads_to_every_notebook_and_every_page_of_the_guide() -> None:
    linked = {(ROOT / urlsplit(link).path).resolve() for link in LINK.findall(read(ROOT / "README.md"))}
    assert linked >= {*(ROOT / "notebooks").glob("*.ipynb"), *GUIDE, ROOT / "LICENSE", ROOT / "CITATION.cff"}


def test_the_picture_is_small_stands_on_white_fetches_nothing_and_has_a_text() -> None:
    assert PICTURE.stat().st_size < 60_000
    picture = ElementTree.parse(PICTURE).getroot()
    assert picture.tag.endswith("svg") and "fill: #ffffff" in read(PICTURE)  # a white ground, on dark pages too
    assert not re.search(r'href="(?!#)|url\((?!#)', read(PICTURE))  # nothing is fetched
    (alternative,) = re.findall(r"!\[([^]]*(?:\[CLS\][^]]*)*)\]\(notebooks/guide/pkd\.svg\)", read(ROOT / "README.md"))
    named = ", ".join(map(str, layer_map(12, 6, "skip")[:-1]))
    assert f"{named} and 10" in " ".join(alternative.split())


def test_the_readme_s_example_runs(example: dict) -> None:
    assert 0 <= example["student"].record.metrics["test"]["accuracy"] <= 1
    assert example["student"].record.layer_map == [4, 8]
    assert (example["folder"] / "my-student" / "model.safetensors").is_file()


def test_what_contributing_adds_works(example: dict, in_the_project, tmp_path: Path) -> None:
    pkdlib, names = example["pkdlib"], dict(example)
    distance, strategy, figure, objective = blocks(ROOT / "CONTRIBUTING.md")
    for code in (distance, strategy, figure):
        exec(code, names)
    changes = {"distance": "absolute", "strategy": "first"}
    config = pkdlib.validate(pkdlib.DistillConfig, num_hidden_layers=3, num_train_epochs=1, **changes)
    assert pkdlib.distill(names["data"], config, names["teacher"].model, cache_dir=tmp_path).record.layer_map == [1, 2]
    assert len(names["ax"].lines) == 5 and names["ax"].get_xlabel() == "seed"
    exec(objective.replace("objective=LastState", "objective=LastState, cache_dir=folder"), names)
    assert names["run"].record.method == "LastState" and names["run"].record.history[0]["train_loss_state"] > 0
    names["plt"].close("all")


@pytest.mark.parametrize("name", ["reports", "reference"])
def test_the_guide_s_code_runs(name: str, example: dict, in_the_project, tmp_path: Path, capsys) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"{split}.csv").write_text("text,label\nbuy now,yes\nsee you at noon,no\n")
    code, *more = blocks(ROOT / "notebooks" / "guide" / f"{name}.md")
    names: dict = {}
    exec(code.replace('"runs/spam"', repr(str(tmp_path))), names)
    if name == "reference":
        assert names["data"].splits["train"].labels.tolist() == [1, 0]
        follow, several = more
        follow = follow.replace('"runs/followed"', "folder / 'followed'")
        exec(follow.replace("on_epoch=follow", "on_epoch=follow, cache_dir=folder"), example)
        assert list((example["folder"] / "followed" / "tensorboard").glob("events.*"))
        pkdlib, sentiment = example["pkdlib"], example["data"]
        inference = pkdlib.encode_task(pkdlib.load_task("mini-inference", train_rows=32), sentiment.tokenizer, 64)
        teachers = {
            task.name: pkdlib.build_student(example["teacher"].model.base_model, None, task.label_names).eval()
            for task in (sentiment.task, inference.task)
        }
        names = {"pkdlib": pkdlib, "sentiment": sentiment, "inference": inference, "teachers": teachers}
        several = several.replace("num_hidden_layers=3", "num_hidden_layers=3, num_train_epochs=1")
        several = several.replace("teachers, ", f"teachers, cache_dir={str(tmp_path)!r}, output_dir=")
        exec(several.replace('"runs/both"', repr(str(tmp_path / "both"))), names)
        assert names["student"].num_labels == 3 and names["both"].records.keys() == teachers.keys()
    else:
        assert "PKD-Skip" in capsys.readouterr().out


def test_the_reference_names_every_file_of_the_core_in_reading_order() -> None:
    import pkdlib

    order = re.search(r"in this order: (.+?)\. `", " ".join(pkdlib.__doc__.split()))[1].split(", ")
    named = re.findall(r"^\| `(\w+)\.py`", read(ROOT / "notebooks" / "guide" / "reference.md"), re.MULTILINE)
    assert named == order
    assert set(named) == {path.stem for path in (ROOT / "pkdlib").glob("*.py") if not path.stem.startswith("__")}


def test_the_reference_names_every_room() -> None:
    named = re.findall(r"^\| `(\w+)/`", read(ROOT / "notebooks" / "guide" / "reference.md"), re.MULTILINE)
    assert set(named) == {path.parent.name for path in (ROOT / "pkdlib").glob("*/__init__.py")}


def test_the_guide_names_every_shipped_grid() -> None:
    named = re.findall(r"^\| `(\w+)` \|", read(ROOT / "notebooks" / "guide" / "sweeps.md"), re.MULTILINE)
    assert sorted(named) == sorted(path.stem for path in (ROOT / "notebooks" / "grids").glob("*.yaml"))
