"""Datasets of the hub's library: found by configuration and split, their classes read by name in every format."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdlib import load_task
from pkdlib.data import Split
from pkdlib.engine.files import ask_hub
from pkdlib.readers.sources import load_split
from pkdlib.tasks import Task, get_task

datasets = pytest.importorskip("datasets")

NLI = ("entailment", "neutral", "contradiction")  # the task's order
ORDERS = [("contradiction", "entailment", "neutral"), ("neutral", "contradiction", "entailment"), NLI]
TEXTS = ["all of it", "some of it", "none of it"]
NAMED = ["entailment", "neutral", "contradiction"]  # the right class of each


@pytest.fixture(autouse=True)
def _nothing_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    ask_hub.cache_clear()


def dataset(names: tuple[str, ...] | None, hidden: bool = False):
    """Three rows whose labels are numbers in the order of `names`; None: plain numbers in the task's order."""
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features(
        {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": label}
    )
    order = [name.casefold() for name in names or NLI]
    labels = [-1 if hidden else order.index(name) if name in order else 0 for name in NAMED]
    return datasets.Dataset.from_dict({"premise": TEXTS, "hypothesis": TEXTS, "label": labels}, features=features)


def splits_of(names: tuple[str, ...] | None):
    return {"train": dataset(names), "validation": dataset(names), "test": dataset(names, hidden=True)}


def card(names: tuple[str, ...] | None, config: str | None = None, files: str = "data/{}-*") -> str:
    """A dataset's README.md; JSON is YAML too."""
    kind = {"class_label": {"names": {str(number): name for number, name in enumerate(names)}}} if names else "int64"
    columns = {"premise": "string", "hypothesis": "string", "label": kind}
    information = {"features": [{"name": name, "dtype": dtype} for name, dtype in columns.items()]}
    paths = [{"split": split, "path": files.format(split)} for split in ("train", "validation", "test")]
    named = {"config_name": config} if config else {"config_name": "default"}
    return (
        f"---\n{json.dumps({'dataset_info': named | information, 'configs': [named | {'data_files': paths}]})}\n---\n"
    )


def to_disk(folder: Path, names: tuple[str, ...] | None) -> None:
    datasets.DatasetDict(splits_of(names)).save_to_disk(folder)


def plain_parquet(folder: Path, names: tuple[str, ...] | None) -> None:
    for split, rows in splits_of(names).items():
        rows.to_parquet(folder / f"{split}.parquet")


def shards(folder: Path, names: tuple[str, ...] | None) -> None:
    """As push_to_hub leaves a dataset of one configuration, without its card."""
    (folder / "data").mkdir()
    for split, rows in splits_of(names).items():
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def pushed(folder: Path, names: tuple[str, ...] | None) -> None:
    shards(folder, names)
    (folder / "README.md").write_text(card(names))


def named_configuration(folder: Path, names: tuple[str, ...] | None) -> None:
    shards(folder, names)
    (folder / "README.md").write_text(card(names, "mnli"))


def csv_with_card(folder: Path, names: tuple[str, ...] | None) -> None:
    """Plain files of plain numbers, whose classes the card alone names."""
    for split, rows in splits_of(names).items():
        rows.to_csv(folder / f"{split}.csv")
    (folder / "README.md").write_text(card(names, files="{}.csv"))


def csv_with_infos(folder: Path, names: tuple[str, ...] | None) -> None:
    """As csv_with_card, with the file that older versions of `datasets` wrote in the card's place."""
    csv_with_card(folder, names)
    (folder / "README.md").unlink()
    infos = {"default": {"features": dataset(names).features.to_dict()}}
    (folder / "dataset_infos.json").write_text(json.dumps(infos))


WRITERS: list[Callable] = [to_disk, plain_parquet, shards, pushed, named_configuration, csv_with_card, csv_with_infos]


def named_rows(split: Split) -> list[tuple[str, str]]:
    return [(text, NLI[label]) for text, label in zip(split.texts[0], split.labels, strict=True)]


@pytest.mark.parametrize("names", [*ORDERS, ("Neutral", "CONTRADICTION", "entailment"), None], ids=str)
@pytest.mark.parametrize("write", WRITERS)
def test_classes_are_read_by_name_in_every_format(tmp_path: Path, write: Callable, names: tuple | None) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write(source, names)
    splits = load_task("mnli", source).splits
    for split in ("train", "dev"):
        assert named_rows(splits[split]) == list(zip(TEXTS, NAMED, strict=True))
    assert splits["test"].labels is None


@pytest.mark.parametrize("names", ORDERS, ids=str)
@pytest.mark.parametrize("kind", ["float64", "string"])
def test_numbered_classes_are_read_by_name_whatever_the_column_holds(tmp_path: Path, kind: str, names: tuple) -> None:
    plain_parquet(tmp_path, names)
    for file in tmp_path.glob("*.parquet"):
        table = pq.read_table(file)
        place, metadata = table.column_names.index("label"), table.schema.metadata
        changed = table.set_column(place, "label", table["label"].cast(kind))
        pq.write_table(changed.replace_schema_metadata(metadata), file)
    assert named_rows(load_task("mnli", tmp_path).splits["dev"]) == list(zip(TEXTS, NAMED, strict=True))


def test_one_file_beside_a_card_that_names_its_classes_is_refused(tmp_path: Path) -> None:
    csv_with_card(tmp_path, ORDERS[0])
    (file,) = [*tmp_path.glob("dev*.csv"), *tmp_path.glob("validation*.csv")]
    with pytest.raises(ValueError, match=r"csv': the card beside it names its classes; give the folder$"):
        load_split("mnli", file)
    assert named_rows(load_split("mnli", tmp_path)) == list(zip(TEXTS, NAMED, strict=True))


def test_a_card_above_a_task_s_own_folder_counts(tmp_path: Path) -> None:
    csv_with_card(tmp_path, ORDERS[0])
    (tmp_path / "MNLI").mkdir()
    for file in tmp_path.glob("*.csv"):
        shutil.copy(file, tmp_path / "MNLI")
    assert named_rows(load_task("mnli", tmp_path).splits["dev"]) == list(zip(TEXTS, NAMED, strict=True))


@pytest.mark.parametrize("names", [("no", "maybe", "yes"), ("entailment", "neutral"), (*NLI, "other")], ids=str)
@pytest.mark.parametrize("write", WRITERS)
def test_classes_of_other_names_are_refused_in_one_line(tmp_path: Path, write: Callable, names: tuple) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write(source, names)
    with pytest.raises(ValueError) as error:
        load_task("mnli", source)
    line = f": its classes are {', '.join(names)}: must be entailment, neutral, contradiction, in any order"
    assert str(error.value).startswith(str(source)) and str(error.value).endswith(line)


@given(st.permutations(range(5)), st.lists(st.integers(0, 4), min_size=1))
def test_any_permutation_of_names_gives_the_same_rows(tmp_path_factory, order: list[int], labels: list[int]) -> None:
    task = Task("stars", ("text",), ("awful", "bad", "so-so", "good", "great"))
    names = [task.label_names[index] for index in order]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    table = {"text": ["a"] * len(labels), "label": [order.index(label) for label in labels]}
    folder = tmp_path_factory.mktemp("stars")
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / "dev.parquet")
    assert load_split(task, folder).labels.tolist() == labels


def test_classes_named_by_numbers_are_those_numbers(tmp_path: Path) -> None:
    """`class_encode_column` calls the classes of a column of numbers so."""
    for names, label in ((("0", "1"), 1), (("1", "0"), 0)):
        features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        rows = datasets.Dataset.from_dict({"sentence": ["a"], "label": [1]}, features=features)
        rows.to_parquet(tmp_path / "dev.parquet")
        assert load_split("sst2", tmp_path).labels.tolist() == [label]


def test_a_row_without_its_class_is_refused_or_skipped(tmp_path: Path) -> None:
    features = dataset(ORDERS[0]).features
    table = {"premise": TEXTS, "hypothesis": TEXTS, "label": [1, -1, 2]}
    for split in ("train", "dev"):
        datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"train.parquet, row 1: label '-1': must be one of 0 \(entailment\)"):
        load_task("mnli", tmp_path)
    with pytest.warns(UserWarning, match=r"1 unreadable rows skipped \(rows 1\)"):
        kept = load_task("mnli", tmp_path, bad_rows="skip").splits["train"]
    assert named_rows(kept) == [("all of it", "entailment"), ("none of it", "neutral")]


# ---------------------------------------------------------------------------------- configurations, splits, faults
def test_a_dataset_s_only_configuration_is_taken_unless_it_is_another_task_s(tmp_path: Path) -> None:
    for name in ("plain_text", "wnli"):
        source = tmp_path / name
        source.mkdir()
        shards(source, NLI)
        (source / "README.md").write_text(card(NLI, name))
    assert len(load_split("mnli", tmp_path / "plain_text")) == 3
    line = f"source = '{tmp_path / 'wnli'}': has no configuration mnli or default, but wnli"
    with pytest.raises(ValueError) as error:
        load_split("mnli", tmp_path / "wnli")
    assert str(error.value) == line


def test_one_split_on_disk_is_refused(tmp_path: Path) -> None:
    dataset(NLI).save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match=r"^source = .*/one': is one split, must be a DatasetDict with train and dev$"):
        load_task("mnli", tmp_path / "one")


def test_what_save_to_disk_wrote_and_lost_is_refused_in_one_line(tmp_path: Path) -> None:
    to_disk(tmp_path / "saved", NLI)
    (tmp_path / "saved" / "train" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"^source = [^\n]*/saved': [^\n]*state.json[^\n]*$"):
        load_task("mnli", tmp_path / "saved")


def test_a_dataset_that_is_broken_is_refused_in_one_line(tmp_path: Path) -> None:
    shards(tmp_path, NLI)
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"broken")
    with pytest.raises(ValueError, match=rf"^source = '{tmp_path}': [^\n]+$"):
        load_task("mnli", tmp_path)


def test_without_a_network_a_dataset_is_taken_from_the_library_s_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # as the hub itself says that it is not there
    with pytest.raises(ConnectionError) as error:
        load_task("mnli", "me/mine")
    assert str(error.value) == "source = 'me/mine': no such folder, and the hub cannot be reached"
    source = tmp_path / "mine"
    source.mkdir()
    pushed(source, NLI)
    datasets.load_dataset(str(source))
    (prepared,) = [path for path in (tmp_path / "cache" / "mine").glob("*/*/*") if path.is_dir()]
    shutil.copytree(prepared, tmp_path / "cache" / "me___mine" / "default" / "0.0.0" / "abc")
    shutil.rmtree(source)
    assert named_rows(load_task("mnli", "me/mine").splits["dev"]) == list(zip(TEXTS, NAMED, strict=True))
    assert datasets.config.HF_HUB_OFFLINE is False


def test_glue_itself_is_asked_for_once_and_refused_in_one_line() -> None:
    with pytest.raises(ConnectionError) as error:
        load_task("rte")
    assert str(error.value) == "source = 'nyu-mll/glue': no such folder, and the hub cannot be reached"


def test_without_the_library_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(tmp_path, NLI)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError) as error:
        load_task("mnli", tmp_path)
    line = "no file of the task there; a dataset needs pip install 'pkdlib[hub]'"
    assert (str(error.value), error.value.name) == (f"source = '{tmp_path}': {line}", "datasets")


def test_the_names_of_hidden_labels_do_not_matter(tmp_path: Path) -> None:
    dataset(("a", "b", "c"), hidden=True).to_parquet(tmp_path / "test.parquet")
    assert load_split("mnli", tmp_path, "test").labels is None
    assert get_task("mnli").label_names == NLI


def test_a_table_of_pandas_has_no_class_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"premise": TEXTS, "hypothesis": TEXTS, "label": [0, 1, 2]}, index=[5, 6, 7])
    frame.to_parquet(tmp_path / "dev.parquet")
    assert named_rows(load_split("mnli", tmp_path)) == list(zip(TEXTS, NLI, strict=True))
