"""Reading rows: GLUE's TSV files with their oddities, the other formats, the hub's layout, subsets and refusals."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import save_hub_dataset

from pkdlib import load_task
from pkdlib.data import Split, TaskData
from pkdlib.readers.sources import draw_rows, load_split, load_texts, reload_data, subset

ODD_TEXTS = [
    'an "unbalanced quote',
    '"quoted" film',
    "it 's a 'treat' , no ?",
    "line\u2028separator",
    "next\u0085line",
    "café — naïve 映画",
    "1984",
    "007",
    "1e5",
    "NA",
    "null",
    "",
    "True",
    "a , comma; and\\backslash",
    "trailing space ",
]
ODD_LABELS = [index % 2 for index in range(len(ODD_TEXTS))]


def write(folder: Path, **files: str | bytes) -> Path:
    """Files by stem, as .tsv; text is written as it is, in UTF-8."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in files.items():
        (folder / f"{stem}.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tsv(*rows: list | tuple) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def sst2(folder: Path, train: str | bytes, **others: str | bytes) -> Path:
    """An SST-2 folder around one training file."""
    dev = tsv(("sentence", "label"), ("fine", 1))
    return write(folder, **{"train": train, "dev": dev, **others})


def rows(split: Split) -> list[tuple]:
    """(text, ..., label) of every row; None for a hidden label."""
    labels = [None] * len(split) if split.labels is None else split.labels.tolist()
    return list(zip(*split.texts, labels, strict=True))


def all_rows(data: TaskData) -> dict[str, list[tuple]]:
    return {name: rows(split) for name, split in data.splits.items()}


def refusal(kind: type[Exception], *args: object, **options: object) -> str:
    with pytest.raises(kind) as error:
        load_task(*args, **options)
    return str(error.value)


# ----------------------------------------------------------------------------------- GLUE's files, task by task
PARSES = "sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse".split()
MNLI_HEADER = ["index", "promptID", "pairID", "genre", *PARSES, "sentence1", "sentence2"]
MNLI_ROW = ["0", "31193", "31193n", "fiction", "( a )", "( b )", "(ROOT a)", "(ROOT b)"]
MRPC_HEADER = ["#1 ID", "#2 ID", "#1 String", "#2 String"]


def mnli_dev(premise: str) -> str:
    five = ["neutral"] * 5
    header = [*MNLI_HEADER, *(f"label{i}" for i in range(1, 6)), "gold_label"]
    return tsv(header, [*MNLI_ROW, premise, "b", *five, "neutral"])


GLUE = {  # task -> (folder, file stem -> content, the rows read)
    "sst2": (
        "SST-2",
        {
            "train": tsv(("sentence", "label"), ("hide new secretions ", 0), ("a fine film", 1)),
            "dev": tsv(("sentence", "label"), ("it 's charming", 1)),
            "test": tsv(("index", "sentence"), (0, "uneasy mishmash")),
        },
        {
            "train": [("hide new secretions ", 0), ("a fine film", 1)],
            "dev": [("it 's charming", 1)],
            "test": [("uneasy mishmash", None)],
        },
    ),
    "mrpc": (  # with a byte order mark and Windows line ends
        "MRPC",
        {
            "train": "\ufeff"
            + tsv(("Quality", *MRPC_HEADER), (1, 702, 703, 'Amrozi "the witness', "Referring")).replace("\n", "\r\n"),
            "dev": "\ufeff" + tsv(("Quality", *MRPC_HEADER), (0, 1, 2, "He said", "She said")).replace("\n", "\r\n"),
            "test": "\ufeff" + tsv(("index", *MRPC_HEADER), (0, 1, 2, "PCCW", "Current")).replace("\n", "\r\n"),
        },
        {
            "train": [('Amrozi "the witness', "Referring", 1)],
            "dev": [("He said", "She said", 0)],
            "test": [("PCCW", "Current", None)],
        },
    ),
    "qqp": (
        "QQP",
        {
            "train": tsv(
                ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"), (0, 1, 2, "how ?", "why ?", 0)
            ),
            "dev": tsv(
                ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"), (0, 1, 2, "who ?", "whom ?", 1)
            ),
            "test": tsv(("id", "question1", "question2"), (0, "where ?", "when ?")),
        },
        {
            "train": [("how ?", "why ?", 0)],
            "dev": [("who ?", "whom ?", 1)],
            "test": [("where ?", "when ?", None)],
        },
    ),
    "qnli": (
        "QNLI",
        {
            "train": tsv(("index", "question", "sentence", "label"), (0, "when ?", "In 1066 .", "entailment")),
            "dev": tsv(("index", "question", "sentence", "label"), (0, "who ?", "In 1066 .", "not_entailment")),
            "test": tsv(("index", "question", "sentence"), (0, "what ?", "A map .")),
        },
        {
            "train": [("when ?", "In 1066 .", 0)],
            "dev": [("who ?", "In 1066 .", 1)],
            "test": [("what ?", "A map .", None)],
        },
    ),
    "rte": (
        "RTE",
        {
            "train": tsv(("index", "sentence1", "sentence2", "label"), (0, "No WMD .", "WMD .", "not_entailment")),
            "dev": tsv(("index", "sentence1", "sentence2", "label"), (0, "Rome fell .", "It fell .", "entailment")),
            "test": tsv(("index", "sentence1", "sentence2"), (0, "Mangla .", "Dam .")),
        },
        {
            "train": [("No WMD .", "WMD .", 1)],
            "dev": [("Rome fell .", "It fell .", 0)],
            "test": [("Mangla .", "Dam .", None)],
        },
    ),
}
MNLI_FILES = {
    "train": tsv(
        [*MNLI_HEADER, "label1", "gold_label"],
        [*MNLI_ROW, "p", "h", "neutral", "contradiction"],
    ),
    "dev_matched": mnli_dev("matched"),
    "dev_mismatched": mnli_dev("mismatched"),
    "test_matched": tsv(MNLI_HEADER, [*MNLI_ROW, "test m", "b"]),
    "test_mismatched": tsv(MNLI_HEADER, [*MNLI_ROW, "test mm", "b"]),
}
for name, kind in (("mnli", "matched"), ("mnli-mm", "mismatched")):
    test_text = {"matched": "test m", "mismatched": "test mm"}[kind]
    GLUE[name] = (
        "MNLI",
        MNLI_FILES,
        {"train": [("p", "h", 2)], "dev": [(kind, "b", 1)], "test": [(test_text, "b", None)]},
    )


@pytest.mark.parametrize("above", [False, True], ids=["own-folder", "folder-above"])
@pytest.mark.parametrize("name", GLUE)
def test_glue_files_are_read_as_downloaded(tmp_path: Path, name: str, above: bool) -> None:
    folder, files, expected = GLUE[name]
    own = write(tmp_path / folder, **files)
    assert all_rows(load_task(name, tmp_path if above else own)) == expected


def test_a_task_s_own_folder_wins_over_files_beside_it(tmp_path: Path) -> None:
    sst2(tmp_path, tsv(("sentence", "label"), ("above", 0)))
    sst2(tmp_path / "SST-2", tsv(("sentence", "label"), ("own", 1)))
    assert rows(load_task("sst2", tmp_path).splits["train"]) == [("own", 1)]


# ------------------------------------------------------------------------------------------- TSV oddities
def test_texts_with_quotes_and_rare_line_ends_are_read_as_they_stand(tmp_path: Path) -> None:
    texts = [*ODD_TEXTS, "carriage\rreturn", "form\x0cfeed", "file\x1cseparator"]
    lines = tsv(("sentence", "label"), *((text, index % 2) for index, text in enumerate(texts)))
    train = load_task("sst2", sst2(tmp_path, lines)).splits["train"]
    assert train.texts == (texts,)
    assert train.labels.tolist() == [index % 2 for index in range(len(texts))]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_line_ends_byte_order_mark_and_a_missing_last_line_end_do_not_matter(
    tmp_path: Path, end: str, mark: str, closed: bool
) -> None:
    lines = mark + tsv(("sentence", "label"), ("a", 0), ("b", 1)).replace("\n", end)
    source = sst2(tmp_path, lines if closed else lines.removesuffix(end))
    assert rows(load_task("sst2", source).splits["train"]) == [("a", 0), ("b", 1)]


def test_labels_are_read_by_name_and_by_number(tmp_path: Path) -> None:
    lines = tsv(("sentence", "label"), ("a", "positive"), ("b", 1), ("c", "negative"), ("d", "0"))
    train = load_task("sst2", sst2(tmp_path, lines)).splits["train"]
    assert train.labels.tolist() == [1, 1, 0, 0]
    assert train.labels.dtype == np.int64


def test_a_glue_folder_with_the_hub_s_column_names_is_read_too(tmp_path: Path) -> None:
    files = {stem: tsv(("sentence1", "sentence2", "label"), ("a", "b", 1)) for stem in ("train", "dev")}
    assert rows(load_task("mrpc", write(tmp_path, **files)).splits["dev"]) == [("a", "b", 1)]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("only text", "1 columns where the header has 2"),
        ("", "1 columns where the header has 2"),
        ("text\t1\textra", "3 columns where the header has 2"),
        ("text\t", "label '': must be one of 0 (negative), 1 (positive)"),
        ("text\t2", "label '2': must be one of 0 (negative), 1 (positive)"),
        ("text\tgood", "label 'good': must be one of 0 (negative), 1 (positive)"),
        (b"caf\xe9\t1", "'utf-8' codec can't decode byte 0xe9"),
    ],
    ids=["short", "blank", "long", "no-label", "number", "name", "latin-1"],
)
def test_a_bad_row_is_refused_with_file_and_line_or_skipped_with_a_warning(
    tmp_path: Path, line: str | bytes, complaint: str
) -> None:
    bad = line if isinstance(line, bytes) else line.encode()
    source = sst2(tmp_path, b"sentence\tlabel\nfirst\t0\n" + bad + b"\nlast\t1\n")
    assert f"{tmp_path / 'train.tsv'}, line 3: {complaint}" in refusal(ValueError, "sst2", source)
    with pytest.warns(UserWarning, match=r"train\.tsv: 1 unreadable rows skipped \(lines 3\)"):
        kept = load_task("sst2", source, bad_rows="skip")
    assert rows(kept.splits["train"]) == [("first", 0), ("last", 1)]


def test_skipped_rows_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    source = sst2(tmp_path, tsv(("sentence", "label"), *[("short",)] * 7, ("kept", 1)))
    with pytest.warns(UserWarning, match=r"7 unreadable rows skipped \(lines 2, 3, 4, 5, 6, \.\.\.\)"):
        assert rows(load_task("sst2", source, bad_rows="skip").splits["train"]) == [("kept", 1)]


def test_a_file_without_a_readable_row_is_refused_even_when_skipping(tmp_path: Path) -> None:
    source = sst2(tmp_path, tsv(("sentence", "label"), ("short",)))
    with pytest.warns(UserWarning, match="skipped"):
        assert refusal(ValueError, "sst2", source, bad_rows="skip") == f"{tmp_path / 'train.tsv'}: no rows"


BAD_ARGUMENTS = [
    ({"bad_rows": "ignore"}, "bad_rows = 'ignore': must be 'error' or 'skip'"),
    ({"bad_rows": None}, "bad_rows = None: must be 'error' or 'skip'"),
    ({"bad_rows": ["skip"]}, "bad_rows = ['skip']: must be 'error' or 'skip'"),
    ({"subset_seed": -1}, "subset_seed = -1: must be greater than or equal to 0"),
    ({"subset_seed": 1.0}, "subset_seed = 1.0: must be a valid integer"),
    ({"subset_seed": None}, "subset_seed = None: must be a valid integer"),
    ({"train_rows": np.float64(5)}, "train_rows = np.float64(5.0): must be a valid integer"),
    ({"source": 5}, "source = 5: must be a valid string or an instance of Path"),
    ({"source": False}, "source = False: must be a valid string or an instance of Path"),
    ({"source": " "}, "source = ' ': must be the path of a folder or a hub id"),
]


@pytest.mark.parametrize(
    ("arguments", "line"), BAD_ARGUMENTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_bad_arguments_are_refused_before_anything_is_read(
    arguments: dict, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pkdlib.readers.sources.read_table", lambda path: pytest.fail(f"{path} was read"))
    assert refusal(ValueError, "mini-sentiment", **arguments) == line


def test_a_split_of_another_name_is_refused_with_the_names() -> None:
    for split in ("validation", None, 3, ["dev"]):
        with pytest.raises(ValueError) as error:
            load_split("mini-sentiment", split=split)
        assert str(error.value) == f"split = {split!r}: must be one of train, dev, test"


def test_parts_of_a_split_are_refused_with_bad_arguments(mini: TaskData) -> None:
    dev = mini.splits["dev"]
    for call, line in (
        (lambda: subset(dev, 1.5, 0), "train_rows = 1.5: must be a valid integer"),
        (lambda: subset(dev, 1001, 0), "train_rows = 1001: must be between 1 and the split's 1000 rows"),
        (lambda: subset(dev, 5, -1), "seed = -1: must be greater than or equal to 0"),
        (lambda: subset("dev", 5, 0), "split = 'dev': must be an instance of Split"),
        (lambda: draw_rows(dev, "5"), "rows = '5': must be a whole number"),
        (lambda: draw_rows(dev, -5), "rows = -5: must be at least 0"),
        (lambda: load_texts(3), "folder = 3: must be the path of a folder or a hub id"),
        (lambda: reload_data("runs/x"), "record = 'runs/x': must be an instance of RunRecord"),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == line
    assert len(subset(dev, np.int64(5), np.int64(0))) == 5


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("sst2", tsv(("text", "label"), ("a", 1)), "line 1: no column 'sentence'; it has text, label"),
        ("sst2", tsv(("a fine film", 1), ("dull", 0)), "line 1: no column 'sentence'; it has a fine film, 1"),
        ("mrpc", tsv(("Quality", "#1 String"), (1, "a")), "line 1: no column '#2 String'; it has Quality, #1 String"),
        ("rte", tsv(("sentence1", "label"), ("a", 1)), "line 1: no column 'sentence2'; it has sentence1, label"),
        ("sst2", tsv(("sentence", "label")), "no rows"),
        ("sst2", "", "line 1: no columns, it is empty"),
        (
            "sst2",
            tsv(("label", "sentence", "label"), (0, "a", 1)),
            "line 1: two columns 'label'; it has label, sentence",
        ),
    ],
    ids=["other-names", "no-header", "mrpc", "rte", "header-only", "empty", "doubled"],
)
def test_a_file_without_the_columns_or_rows_is_refused_with_what_it_has(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    path = write(tmp_path, train=content, dev=content) / "train.tsv"
    assert re.fullmatch(f"{re.escape(str(path))}[,:] {re.escape(complaint)}.*", refusal(ValueError, name, tmp_path))


# --------------------------------------------------------------------------------------- splits that lack
def test_a_missing_test_split_is_no_error(tmp_path: Path) -> None:
    assert load_task("sst2", sst2(tmp_path, tsv(("sentence", "label"), ("a", 1)))).splits.keys() == {"train", "dev"}


@pytest.mark.parametrize("lacking", ["train", "dev"])
def test_a_missing_train_or_dev_split_is_refused(tmp_path: Path, lacking: str) -> None:
    source = sst2(tmp_path, tsv(("sentence", "label"), ("a", 1)))
    (source / f"{lacking}.tsv").unlink()
    names = {"train": "train", "dev": "dev, validation, valid, val"}[lacking]
    line = f"{source}: task sst2 has no {lacking} split there (names: {names})" + "; dev_fraction draws one" * (
        lacking == "dev"
    )
    assert refusal(FileNotFoundError, "sst2", source) == line


def test_an_unlabelled_dev_split_is_refused(tmp_path: Path) -> None:
    source = sst2(tmp_path, tsv(("sentence", "label"), ("a", 1)))
    write(source, dev=tsv(("sentence",), ("a",)))
    assert refusal(ValueError, "sst2", source) == f"{source}: the dev split of task sst2 has no labels"


def test_training_rows_need_no_labels(tmp_path: Path) -> None:
    source = sst2(tmp_path, tsv(("sentence", "label"), ("a", 1)))
    write(source, train=tsv(("sentence",), ("a",), ("b",)))
    assert load_task("sst2", source).splits["train"].labels is None


def test_an_unknown_task_is_refused() -> None:
    assert refusal(ValueError, "wnli").startswith("task = 'wnli': must be one of ")


# -------------------------------------------------------------------------------------------- other formats
WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".parquet": lambda frame, path: frame.to_parquet(path),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True, force_ascii=False),
}


def write_frames(folder: Path, suffix: str, **frames: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, frame in frames.items():
        WRITERS[suffix](frame, folder / f"{stem}{suffix}")
    return folder


def odd_frame(labels: list) -> pd.DataFrame:
    return pd.DataFrame({"idx": range(len(ODD_TEXTS)), "sentence": ODD_TEXTS, "label": labels})


@pytest.mark.parametrize("names", [False, True], ids=["numbers", "names"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_other_formats_give_the_rows_of_the_tsv(tmp_path: Path, suffix: str, names: bool) -> None:
    labels = [("negative", "positive")[label] for label in ODD_LABELS] if names else ODD_LABELS
    frame, hidden = odd_frame(labels), odd_frame(ODD_LABELS).drop(columns="label")
    source = write_frames(tmp_path / "other", suffix, train=frame, dev=frame, test=hidden)
    labelled = tsv(("sentence", "label"), *zip(ODD_TEXTS, ODD_LABELS, strict=True))
    glue = sst2(tmp_path / "glue", labelled, dev=labelled, test=tsv(("sentence",), *((text,) for text in ODD_TEXTS)))
    found, expected = load_task("sst2", source), load_task("sst2", glue)
    assert all_rows(found) == all_rows(expected)
    assert all(found.splits[name].fingerprint == split.fingerprint for name, split in expected.splits.items())


@pytest.mark.parametrize("suffix", WRITERS)
def test_texts_that_all_look_like_numbers_stay_texts(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"sentence": ["1984", "007", "2001-01-01"], "label": [1, 0, 1]})
    numbers = frame.head(2)
    train = load_task("sst2", write_frames(tmp_path, suffix, train=numbers, dev=frame)).splits["train"]
    assert rows(train) == [("1984", 1), ("007", 0)]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("label", [-1, "", None])
def test_labels_of_minus_one_or_of_nothing_are_hidden(tmp_path: Path, suffix: str, label: object) -> None:
    labelled, hidden = odd_frame(ODD_LABELS), odd_frame([label] * len(ODD_TEXTS))
    source = write_frames(tmp_path, suffix, train=labelled, dev=labelled, test=hidden)
    assert load_task("sst2", source).splits["test"].labels is None


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_label_missing_among_others_is_refused_with_file_and_row(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"sentence": ["a", "b", "c"], "label": [1, None, 0]})
    source = write_frames(tmp_path, suffix, train=frame, dev=frame)
    message = refusal(ValueError, "sst2", source)
    assert message.startswith(f"{source / f'train{suffix}'}, row 1: label ")
    assert message.endswith("must be one of 0 (negative), 1 (positive)")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("text", [None, 7])
def test_a_text_that_is_none_is_refused_with_file_and_row(tmp_path: Path, suffix: str, text: object) -> None:
    frame = pd.DataFrame({"sentence": pd.Series([text], dtype=object), "label": [1]})
    source = write_frames(tmp_path, suffix, train=frame, dev=frame)
    assert re.search(rf"train{suffix}, row 0: sentence is .*, not a text", refusal(ValueError, "sst2", source))


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_missing_column_is_named_with_what_there_is(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"text": ["a"], "label": [1]})
    source = write_frames(tmp_path, suffix, train=frame, dev=frame)
    assert refusal(ValueError, "sst2", source) == (
        f"{source / f'train{suffix}'}: no column 'sentence'; it has text, label"
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_rows_is_refused(tmp_path: Path, suffix: str) -> None:
    frame = odd_frame(ODD_LABELS)
    source = write_frames(tmp_path, suffix, train=frame.head(0), dev=frame)
    assert refusal(ValueError, "sst2", source) == f"{source / f'train{suffix}'}: no rows"


# ------------------------------------------------------------------------------------------ the hub's layout
HUB_SST2 = {"train": [0, 1, 1], "validation": [1, 0, 1], "test": [-1, -1, -1]}


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SST-2 as the hub keeps GLUE. Nothing leaves tmp_path."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    splits = {
        split: pd.DataFrame({"sentence": ODD_TEXTS[:3], "label": labels, "idx": range(3)})
        for split, labels in HUB_SST2.items()
    }
    return save_hub_dataset(tmp_path / "glue", "sst2", splits)


def test_a_local_folder_in_the_hub_s_layout_gives_the_rows_of_the_tsv(tmp_path: Path, hub_folder: Path) -> None:
    labelled = {
        stem: tsv(("sentence", "label"), *zip(ODD_TEXTS[:3], HUB_SST2[split], strict=True))
        for stem, split in (("train", "train"), ("dev", "validation"))
    }
    test = tsv(("index", "sentence"), *enumerate(ODD_TEXTS[:3]))
    expected = load_task("sst2", write(tmp_path / "SST-2", **labelled, test=test))
    found = load_task("sst2", hub_folder)
    assert all_rows(found) == all_rows(expected)
    assert found.splits["test"].labels is None


def test_a_hub_dataset_without_the_columns_is_refused_with_what_it_has(hub_folder: Path) -> None:
    for path in hub_folder.glob("sst2/*.parquet"):
        pd.read_parquet(path).rename(columns={"sentence": "text"}).to_parquet(path)
    assert refusal(ValueError, "sst2", hub_folder) == (
        f"{hub_folder}/sst2/train: no column 'sentence'; it has text, label, idx"
    )


# --------------------------------------------------------------------------- the embedded tasks and subsets
@pytest.fixture(scope="module")
def mini() -> TaskData:
    return load_task("mini-sentiment")


@pytest.mark.parametrize(("name", "texts", "classes"), [("mini-sentiment", 1, 2), ("mini-inference", 2, 3)])
def test_embedded_tasks_load_with_labelled_test_rows(name: str, texts: int, classes: int) -> None:
    data = load_task(name)
    assert {split: len(found) for split, found in data.splits.items()} == {"train": 2000, "dev": 1000, "test": 3000}
    for split in data.splits.values():
        assert len(split.texts) == texts
        assert set(split.labels.tolist()) == set(range(classes))


def test_a_task_s_source_is_as_it_was_given(tmp_path: Path, mini: TaskData) -> None:
    assert mini.source == "data"
    source = sst2(tmp_path, tsv(("sentence", "label"), ("a", 1)))
    assert load_task("sst2", source).source == str(source)


def test_train_rows_leaves_dev_and_test_alone(mini: TaskData) -> None:
    some = load_task("mini-sentiment", train_rows=10)
    assert len(some.splits["train"]) == 10
    assert rows(some.splits["dev"]) == rows(mini.splits["dev"])
    assert rows(some.splits["test"]) == rows(mini.splits["test"])


def test_subsets_are_nested_keep_the_rows_order_and_repeat_by_seed(mini: TaskData) -> None:
    whole = rows(mini.splits["train"])
    place = {row: index for index, row in enumerate(whole)}
    drawn = [load_task("mini-sentiment", train_rows=n, subset_seed=1).splits["train"] for n in (50, 50, 400)]
    places = [[place[row] for row in rows(split)] for split in drawn]
    assert places[0] == places[1]
    assert all(found == sorted(found) for found in places)
    assert set(places[0]) < set(places[2])
    other = rows(load_task("mini-sentiment", train_rows=50, subset_seed=2).splits["train"])
    assert other != rows(drawn[0])


def test_all_train_rows_are_the_split_itself(mini: TaskData) -> None:
    every = load_task("mini-sentiment", train_rows=2000).splits["train"]
    assert every.fingerprint == mini.splits["train"].fingerprint


@pytest.mark.parametrize(
    ("train_rows", "allowed"),
    [
        (0, "greater than or equal to 1"),
        (-1, "greater than or equal to 1"),
        (2001, "between 1 and the split's 2000 rows"),
        (1.5, "a valid integer"),
        ("10", "a valid integer"),
        (True, "a valid integer"),
    ],
)
def test_train_rows_out_of_range_are_refused(train_rows: object, allowed: str) -> None:
    line = f"train_rows = {train_rows!r}: must be {allowed}"
    assert refusal(ValueError, "mini-sentiment", train_rows=train_rows) == line


# --------------------------------------------------------------------------------------------- fingerprints
def test_a_fingerprint_follows_texts_labels_and_their_order() -> None:
    def fingerprint(texts: tuple[list[str], ...], labels: list[int] | None) -> str:
        return Split("train", texts, None if labels is None else np.array(labels)).fingerprint

    plain = fingerprint((["a", "b"],), [0, 1])
    assert plain == fingerprint((["a", "b"],), [0, 1])
    others = [
        fingerprint((["a", "c"],), [0, 1]),
        fingerprint((["a", "b"],), [0, 0]),
        fingerprint((["b", "a"],), [1, 0]),
        fingerprint((["a", "b"],), None),
        fingerprint((["a"], ["b"]), [0, 1]),
    ]
    assert len({plain, *others}) == 6


def test_drawn_rows_repeat_by_seed_and_are_all_where_there_are_fewer(mini: TaskData) -> None:
    dev = mini.splits["dev"]
    first, again, other = (draw_rows(dev, 30, seed) for seed in (1, 1, 2))
    assert len(first) == 30
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert draw_rows(dev, 0) is draw_rows(dev, 10**6) is dev


def test_one_split_alone_needs_neither_the_others_nor_labels(tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text("sentence\nfine\nawful\n")
    found = load_split("sst2", tmp_path)
    assert (found.name, found.texts, found.labels) == ("dev", (["fine", "awful"],), None)
    with pytest.raises(FileNotFoundError, match="has no train split"):
        load_task("sst2", tmp_path)
    with pytest.raises(ValueError, match=rf"^split = 'test': {tmp_path} has dev of task sst2$"):
        load_split("sst2", tmp_path, "test")


# ---------------------------------------------------------------------------------------- texts of your own
def test_lines_of_text_files_are_read_in_the_order_of_the_files_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"last")
    (tmp_path / "a.txt").write_bytes("\ufefffirst, café\r\n\r\n  \t\r\nline\u2028separator\n".encode())
    (tmp_path / "c.txt").touch()
    (tmp_path / "notes.md").write_text("not read")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "._a.txt").write_bytes(b"\xff")
    split = load_texts(tmp_path)
    assert (split.name, split.texts, split.labels) == ("texts", (["first, café", "line\u2028separator", "last"],), None)
    assert load_texts(str(tmp_path)).fingerprint == split.fingerprint


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_text_column_of_a_table_is_read_and_its_labels_are_not(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"label": ODD_LABELS, "text": ODD_TEXTS})
    write_frames(tmp_path, suffix, mine=frame)
    split = load_texts(tmp_path)
    assert split.texts == ([text for text in ODD_TEXTS if text],)
    assert split.labels is None


def test_files_of_several_kinds_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two\n")
    (tmp_path / "a.csv").write_bytes('\ufefftext\r\n"one, quoted"\r\n'.encode())
    write_frames(tmp_path, ".jsonl", c=pd.DataFrame({"text": ["3"]}))
    assert load_texts(tmp_path).texts == (["one, quoted", "two", "3"],)


def test_a_relative_folder_of_texts_is_found_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    assert load_texts("mine").texts == (["one"],)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a.md": b"one"}, "FOLDER: no texts there: no file that ends in .txt, .tsv, .tsv.gz, .parquet, .csv, "),
        ({"a.txt": b"\n \r\n", "b.txt": b""}, "FOLDER: only blank lines in a.txt, b.txt"),
        ({"a.csv": b"sentence,label\none,1\n"}, "FOLDER/a.csv: no column 'text'; it has sentence, label"),
        ({"a.csv": b"text\n"}, "FOLDER/a.csv: no rows"),
        ({"a.csv": b"text\nno, really\n"}, "FOLDER/a.csv, row 0: 2 columns where the header has 1"),
        (
            {"a.csv": b"text\nfine\nno, really\n"},
            "FOLDER/a.csv, row 1: 2 columns where the header has 1",
        ),
        ({"a.csv": b""}, "FOLDER/a.csv: no columns, it is empty"),
        ({"a.jsonl": b'{"text": "one"}\n{"text": 2}\n'}, "FOLDER/a.jsonl, row 1: text is 2, not a text"),
        ({"a.jsonl": b'{"text": "one"}\n{"text": null}\n'}, "FOLDER/a.jsonl, row 1: text is None, not a text"),
        ({"a.jsonl": b"one"}, "FOLDER/a.jsonl: row 0: Expecting value"),
        ({"a.parquet": b"one"}, "FOLDER/a.parquet: Parquet file size is 3 bytes"),
        ({"a.txt": b"fine\ncaf\xe9\n"}, "FOLDER/a.txt, line 2: 'utf-8' codec can't decode byte 0xe9"),
        ({"a.csv": b"text\ncaf\xe9\n"}, "FOLDER/a.csv, row 0: text is not in UTF-8: 'caf"),
    ],
)
def test_texts_that_cannot_be_read_are_refused_with_the_file(
    tmp_path: Path, files: dict[str, bytes], complaint: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_texts(tmp_path)
    assert str(error.value).startswith(complaint.replace("FOLDER", str(tmp_path)))


def test_a_folder_of_texts_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^folder = '{tmp_path / 'none'}': no such folder$"):
        load_texts(tmp_path / "none")
