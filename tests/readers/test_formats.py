"""Every kind of source that is promised, and damaged or odd ones of each: the right rows, or one line with the row."""

import codecs
import csv
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdlib import load_task
from pkdlib.data import Split
from pkdlib.readers.sources import load_split, load_texts
from pkdlib.tasks import Task

ROWS = [("a fine film", 1), ("dull, and long", 0)]
CSV = b'sentence,label\na fine film,1\n"dull, and long",0\n'
TSV = b"sentence\tlabel\na fine film\t1\ndull, and long\t0\n"
RECORDS = [{"sentence": text, "label": label} for text, label in ROWS]
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
CONTENTS = {".csv": CSV, ".tsv": TSV, ".jsonl": LINES, ".json": json.dumps(RECORDS, indent=1).encode()}
PACKED = {f"{suffix}.gz": gzip.compress(content) for suffix, content in CONTENTS.items()}


def rows(split: Split) -> list[tuple]:
    labels = [None] * len(split) if split.labels is None else split.labels.tolist()
    return list(zip(*split.texts, labels, strict=True))


def refusal(function: Callable, *arguments: object, **options: object) -> str:
    """The one line with which it is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        function(*arguments, **options)
    line = str(error.value)
    assert "\n" not in line
    return line


def both(folder: Path, name: str, content: bytes) -> Path:
    """A folder whose train and dev file have one content."""
    for split in ("train", "dev"):
        (folder / name.format(split)).write_bytes(content)
    return folder


# --------------------------------------------------------------------------------------------- what is promised
@pytest.mark.parametrize("dev", ["dev", "validation", "valid", "val"])
@pytest.mark.parametrize("suffix", [*CONTENTS, *PACKED])
def test_every_format_and_every_name_of_the_dev_split(tmp_path: Path, suffix: str, dev: str) -> None:
    for name in ("train", dev, "test"):
        (tmp_path / f"{name}{suffix}").write_bytes((CONTENTS | PACKED)[suffix])
    splits = load_task("sst2", tmp_path).splits
    assert list(splits) == ["train", "dev", "test"]
    assert all(rows(split) == ROWS for split in splits.values())


def test_json_may_be_an_array_or_lines_whatever_its_ending(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes(LINES)
    (tmp_path / "dev.jsonl").write_bytes(b"\xef\xbb\xbf \n" + CONTENTS[".json"])
    splits = load_task("sst2", tmp_path).splits
    assert rows(splits["train"]) == rows(splits["dev"]) == ROWS


def mnli(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / f"{name}.csv").write_text(f"premise,hypothesis,label\n{name},b,neutral\n")
    return folder


def test_mnli_takes_plain_names_where_glue_s_are_not_there(tmp_path: Path) -> None:
    splits = load_task("mnli", mnli(tmp_path, "train", "dev", "test")).splits
    assert {name: rows(split) for name, split in splits.items()} == {
        name: [(name, "b", 1)] for name in ("train", "dev", "test")
    }
    line = refusal(load_task, "mnli-mm", tmp_path)  # else its rows would be mnli's
    names = ", ".join(f"{name}_mismatched" for name in ("dev", "validation", "valid", "val"))
    assert line.endswith(f"task mnli-mm has no dev split there (names: {names}); dev_fraction draws one")
    mnli(tmp_path, "validation_matched", "validation_mismatched")
    assert rows(load_split("mnli", tmp_path)) == [("validation_matched", "b", 1)]
    assert rows(load_split("mnli-mm", tmp_path)) == [("validation_mismatched", "b", 1)]


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    both(tmp_path, "{}.csv", CSV)
    (tmp_path / "validation.tsv").write_bytes(TSV)
    first, second = tmp_path / "dev.csv", tmp_path / "validation.tsv"
    assert refusal(load_task, "sst2", tmp_path) == f"{first} and {second}: both are the dev split; leave one there"


def test_one_file_is_refused_unless_one_split_or_texts_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "dev.csv"
    file.write_bytes(CSV)
    assert refusal(load_task, "sst2", file) == (
        f"source = '{file}': is one file, must be a folder with a train and a dev file; dev_fraction draws one"
    )
    assert rows(load_split("sst2", file)) == ROWS
    assert refusal(load_split, "sst2", file, "test") == f"split = 'test': {file} is by its name another split"
    mine = file.rename(tmp_path / "mine.csv")
    assert load_split("sst2", mine, "test").name == "test" and rows(load_split("sst2", mine, "test")) == ROWS
    mine.write_text("text\none\n")
    assert load_texts(mine).texts == (["one"],)
    picture = tmp_path / "mine.png"
    picture.touch()
    assert refusal(load_split, "sst2", picture).startswith(f"source = '{picture}': must be a folder with files, or a ")
    assert refusal(load_texts, picture).startswith(f"{picture}: no texts there: no file that ends in .txt, ")


def test_a_split_alone_is_read_whatever_is_wrong_with_the_others(tmp_path: Path) -> None:
    both(tmp_path, "{}.csv", CSV)
    (tmp_path / "train.csv").write_bytes(b"nonsense")
    assert rows(load_split("sst2", tmp_path)) == ROWS


def test_a_folder_without_the_task_s_rows_is_refused_and_nothing_below_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "WNLI").mkdir()  # columns and labels as RTE's
    both(tmp_path / "WNLI", "{}.tsv", b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n")
    assert refusal(load_task, "rte", tmp_path).startswith(
        f"{tmp_path}: no rows of task rte there: no train, dev, test as a file .tsv, "
    )


def test_a_task_of_one_s_own_needs_a_source() -> None:
    line = "must be given, as mine is a task of your own"
    assert refusal(load_task, Task("mine", ("text",), ("no", "yes"))) == f"source = None: {line}"


# ------------------------------------------------------------------------------------------------- CSV and TSV
def test_a_csv_row_that_lacks_a_field_is_refused_with_file_and_row_or_skipped(tmp_path: Path) -> None:
    both(tmp_path, "{}.csv", b"sentence,label\na,1\n1\nb,0\nc,1,1\n")
    assert refusal(load_task, "sst2", tmp_path) == (
        f"{tmp_path / 'train.csv'}, row 1: 1 columns where the header has 2"
    )
    with pytest.warns(UserWarning, match=r"2 unreadable rows skipped \(rows 1, 3\)") as warnings:
        kept = load_task("sst2", tmp_path, bad_rows="skip").splits["train"]
    assert rows(kept) == [("a", 1), ("b", 0)] and len(warnings) == 2  # of train and of dev


def test_a_quoted_csv_text_over_two_lines_is_one_text(tmp_path: Path) -> None:
    both(tmp_path, "{}.csv", b'sentence,label\r\n"one half,\r\nthe ""other""\r\n",1\r\n\r\nb,0\r\n')
    expected = [('one half,\r\nthe "other"\r\n', 1), ("b", 0)]
    assert rows(load_task("sst2", tmp_path, bad_rows="skip").splits["train"]) == expected


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'sentence,label\na,1\n"open,0\nb,1\n', 4),
        (b'sentence,label\n"open,1\n"next",0\n', 3),
        (b'sentence,label\n"a" film,1\n', 2),
        (b"sentence,label\ncarriage\rreturn,1\n", 2),
    ],
)
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_a_csv_whose_quotes_do_not_close_is_refused_even_when_skipping(
    tmp_path: Path, content: bytes, line: int, bad_rows: str
) -> None:
    both(tmp_path, "{}.csv", content)
    found = refusal(load_task, "sst2", tmp_path, bad_rows=bad_rows)
    assert re.fullmatch(rf"{tmp_path / 'train.csv'}: line {line}: .*its quotes doubled", found)


def test_a_csv_text_may_be_long(tmp_path: Path) -> None:
    both(tmp_path, "{}.csv", b"sentence,label\n" + b"a" * 200_000 + b",1\n")
    assert rows(load_split("sst2", tmp_path)) == [("a" * 200_000, 1)]


@pytest.mark.filterwarnings("ignore:.* unreadable rows skipped")
@pytest.mark.parametrize(
    ("lines", "kept"),
    [  # a quoted text over several lines, as no TSV of GLUE has it, among rows that are whole
        (['"half', 'other half"\t1'], ["before", "after"]),
        (['"half', "middle", 'other half"\t1'], ["before", "after"]),
        (['"half\tof', 'other half"\t1'], ["before", "after"]),
        (['"he said ""no', 'and "" left"\t1'], ["before", "after"]),
        (["short", 'an "unbalanced quote\t1'], ["before", "after"]),  # it might be a half
        (['"half\tno label', "middle\t1", 'other half"\t0'], ["before", "after"]),
        (["short", "whole\t1"], ["before", "whole", "after"]),
        (['an "unbalanced quote\t1'], ["before", 'an "unbalanced quote', "after"]),
    ],
)
def test_skipping_leaves_no_half_of_a_quoted_text(tmp_path: Path, lines: list[str], kept: list[str]) -> None:
    content = "\n".join(["sentence\tlabel", "before\t0", *lines, "after\t1", ""]).encode()
    both(tmp_path, "{}.tsv", content)
    splits = load_task("sst2", tmp_path, bad_rows="skip").splits
    assert splits["train"].texts == (kept,)


def test_skipping_leaves_no_half_where_the_label_comes_first(tmp_path: Path) -> None:
    both(tmp_path, "{}.tsv", b'label\tsentence\n0\tbefore\n1\t"half\nmiddle\nother half"\n1\tafter\n')
    with pytest.warns(UserWarning, match=r"3 unreadable rows skipped \(lines 3, 4, 5\)"):
        assert load_task("sst2", tmp_path, bad_rows="skip").splits["train"].texts == (["before", "after"],)


@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.integers(0, 1)), min_size=1)
)
def test_what_pandas_writes_as_csv_json_or_parquet_is_read_as_it_was(tmp_path_factory, table: list) -> None:
    folder = tmp_path_factory.mktemp("written")
    frame = pd.DataFrame(table, columns=["sentence", "label"])
    frame.to_csv(folder / "train.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)  # pandas leaves a lone \r bare
    frame.to_json(folder / "dev.json", orient="records", force_ascii=False)
    frame.to_parquet(folder / "test.parquet")
    splits = load_task("sst2", folder).splits
    assert [rows(split) for split in splits.values()] == [table] * 3


# ------------------------------------------------------------------------------------------------ damaged files
def as_records(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


DAMAGED = {  # file -> content, what its line says after the file's name
    "empty": ("{}.csv", b"", ": no columns, it is empty"),
    "empty-tsv": ("{}.tsv", b"", ", line 1: no columns, it is empty"),
    "empty-json": ("{}.json", b"", ": no columns, it is empty"),
    "header": ("{}.csv", b"sentence,label\n", ": no rows"),
    "no-records": ("{}.json", b"[]", ": no columns, it is empty"),
    "utf-16": ("{}.csv", CSV.decode().encode("utf-16"), ": is UTF-16, must be UTF-8"),
    "utf-16-tsv": ("{}.tsv", codecs.BOM_UTF16_BE + TSV.decode().encode("utf-16-be"), ": is UTF-16, must be UTF-8"),
    "utf-16-unmarked": ("{}.csv", CSV.decode().encode("utf-16-le"), ": NUL bytes, must be text in UTF-8"),
    "utf-16-json": ("{}.jsonl", LINES.decode().encode("utf-16-le"), ": row 0: Expecting"),
    "nul": ("{}.csv", b"sentence,label\na,1\nb\0c,0\n", ", row 1: sentence holds a NUL character: 'b\\x00c'"),
    "nul-tsv": ("{}.tsv", b"sentence\tlabel\nb\0c\t0\n", ", line 2: sentence holds a NUL character: 'b\\x00c'"),
    "latin-1": ("{}.csv", "sentence,label\ncafé,1\n".encode("latin-1"), ", row 0: sentence is not in UTF-8: 'caf"),
    "surrogate": ("{}.jsonl", b'{"sentence": "\\ud800", "label": 1}', ", row 0: sentence is not in UTF-8: '"),
    "no-gzip": ("{}.csv.gz", CSV, ": Not a gzipped file"),
    "cut-gzip": ("{}.csv.gz", PACKED[".csv.gz"][:-9], ": Compressed file ended before"),
    "bad-gzip": ("{}.csv.gz", PACKED[".csv.gz"][:10] + b"\xff" * 20, ": Error -3 while decompressing"),
    "doubled": ("{}.csv", b"label,sentence,label\n1,a,0\n", ": two columns 'label'; it has label, sentence, label"),
    "doubled-key": ("{}.jsonl", b'{"label": 1, "sentence": "a", "label": 0}', ": row 0: a key stands twice among "),
    "other-separator": ("{}.csv", b"sentence;label\na;1\n", ": no column 'sentence'; it has sentence;label"),
    "numbers": ("{}.jsonl", as_records({"sentence": "a", "label": 1}, {"sentence": 7, "label": 1}),
                ", row 1: sentence is 7, not a text"),
    "missing-key": ("{}.jsonl", as_records({"sentence": "a", "label": 1}, {"label": 1}),
                    ", row 1: sentence is None, not a text"),
    "missing-label": ("{}.json", as_records({"sentence": "a", "label": 1}, {"sentence": "b"}),
                      ", row 1: label 'None': must be one of 0 (negative), 1 (positive)"),
    "label-of-lists": ("{}.json", as_records({"sentence": "a", "label": [1]}), ", row 0: label '[1]': must be one of "),
    "no-record": ("{}.jsonl", as_records({"sentence": "a", "label": 1}, "text"), ", row 1: 'text' is no record"),
    "no-records-at-all": ("{}.json", b"[1, 2]", ": row 0: 1 is no record"),
    "broken-json": ("{}.json", b'[{"sentence": "a"', ": Expecting ',' delimiter"),
    "broken-line": ("{}.jsonl", LINES + b'{"sentence": \n', ", row 2: Expecting value"),
    "columns-of-pandas": ("{}.json", pd.DataFrame(RECORDS).to_json().encode(), ", row 0: sentence is {"),
    "deep-json": ("{}.json", b"[" * 100_000, ": maximum recursion depth exceeded"),
    "bool": ("{}.csv", b"sentence,label\na,True\nb,False\n", ", row 0: label 'True': must be one of 0 (negative), "),
    "bool-json": ("{}.jsonl", as_records({"sentence": "a", "label": True}), ", row 0: label 'True': must be one of 0 "),
    "half": ("{}.csv", b"sentence,label\na,1\nb,0.5\n", ", row 1: label '0.5': must be one of 0 (negative), "),
    "nan": ("{}.csv", b"sentence,label\na,1\nb,nan\n", ", row 1: label 'nan': must be one of 0 (negative), "),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    name, content, complaint = DAMAGED[kind]
    both(tmp_path, name, content)
    assert refusal(load_task, "sst2", tmp_path).startswith(f"{tmp_path / name.format('train')}{complaint}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("{}.csv", codecs.BOM_UTF8 + CSV),
        ("{}.csv", CSV.replace(b"\n", b"\r\n")),
        ("{}.csv", CSV.replace(b",1\n", b",1.0\n").replace(b",0\n", b",0.0\n")),
        ("{}.csv", CSV.replace(b",1\n", b",POSITIVE\n").replace(b",0\n", b", Negative\n")),
        ("{}.csv", CSV.replace(b"sentence,label\n", b"label,sentence\n", 0).replace(b"\na", b"\n\na")),
        ("{}.jsonl", codecs.BOM_UTF8 + LINES.replace(b"\n", b"\r\n\r\n")),
        ("{}.jsonl", LINES.replace(b'"label": 1', b'"label": 1.0').replace(b'"label": 0', b'"label": "negative"')),
    ],
)
def test_an_odd_file_gives_the_right_rows(tmp_path: Path, name: str, content: bytes) -> None:
    both(tmp_path, name, content)
    assert rows(load_task("sst2", tmp_path).splits["train"]) == ROWS


@pytest.mark.parametrize("name", ["train.csv", "train.parquet"])
def test_a_folder_of_a_file_s_name_is_refused(tmp_path: Path, name: str) -> None:
    both(tmp_path, "{}.tsv", TSV)
    (tmp_path / "train.tsv").unlink()
    (tmp_path / name).mkdir()
    assert re.fullmatch(rf"{tmp_path / name}: .* (Is|is) a directory.*", refusal(load_task, "sst2", tmp_path))


# ------------------------------------------------------------------------------------------------------ parquet
def parquet(folder: Path, **columns: pa.Array | list) -> Path:
    for split in ("train", "dev"):
        pq.write_table(pa.table(columns), folder / f"{split}.parquet", compression="NONE")
    return folder


def test_parquet_s_kinds_of_text_and_number_are_read(tmp_path: Path) -> None:
    texts = [text for text, _ in ROWS]
    for kind in (pa.array(texts), pa.array(texts, pa.large_string()), pa.array(texts).dictionary_encode()):
        for labels in (pa.array([1, 0], pa.int8()), pa.array([1.0, 0.0]), pa.array(["positive", "Negative"])):
            assert rows(load_split("sst2", parquet(tmp_path, sentence=kind, label=labels))) == ROWS


def test_a_parquet_file_s_folder_adds_no_column(tmp_path: Path) -> None:
    """A folder called label=1 is a partition to Arrow's dataset reader."""
    folder = tmp_path / "label=1"
    folder.mkdir()
    parquet(folder, sentence=["a"])
    assert load_split("sst2", folder).labels is None


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"sentence": [b"a"], "label": [1]}, ", row 0: sentence is b'a', not a text"),
        ({"sentence": [1.5], "label": [1]}, ", row 0: sentence is 1.5, not a text"),
        ({"sentence": ["a", None], "label": [1, 1]}, ", row 1: sentence is None, not a text"),
        ({"sentence": ["a", "b"], "label": [1, None]}, ", row 1: label 'None': must be one of "),
        ({"sentence": ["a", "b"], "label": [1, float("nan")]}, ", row 1: label 'nan': must be one of "),
        ({"sentence": ["a"], "label": [True]}, ", row 0: label 'True': must be one of "),
        ({"sentence": ["a"], "label": [0.5]}, ", row 0: label '0.5': must be one of "),
        ({"text": ["a"], "label": [1]}, ": no column 'sentence'; it has text, label"),
        ({"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int8())}, ": no rows"),
    ],
)
def test_odd_parquet_columns_are_refused(tmp_path: Path, columns: dict, complaint: str) -> None:
    parquet(tmp_path, **columns)
    assert refusal(load_task, "sst2", tmp_path).startswith(f"{tmp_path / 'train.parquet'}{complaint}")


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path, sentence=["a" * 100] * 50, label=[1] * 50)
    whole = (tmp_path / "train.parquet").read_bytes()
    for content in (b"", whole[:100], whole[:-20], b"PAR1" + b"\xff" * (len(whole) - 8) + whole[-4:]):
        (tmp_path / "train.parquet").write_bytes(content)
        assert refusal(load_task, "sst2", tmp_path).startswith(f"{tmp_path / 'train.parquet'}: ")


def test_a_text_that_is_no_utf_8_spoils_its_row_alone(tmp_path: Path) -> None:
    good, bad = pa.array(["fine", "dull"]), pa.array([b"caf\xe9"])
    bad = pa.Array.from_buffers(pa.string(), 1, bad.buffers())
    parquet(tmp_path, sentence=pa.chunked_array([good, bad]), label=[1, 0, 1])
    assert re.match(r".*train.parquet, row 2: 'utf-8' codec can't decode", refusal(load_task, "sst2", tmp_path))
    with pytest.warns(UserWarning, match="1 unreadable rows skipped"):
        kept = load_task("sst2", tmp_path, bad_rows="skip")
    assert rows(kept.splits["train"]) == [("fine", 1), ("dull", 0)]
