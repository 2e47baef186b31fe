"""RACE's rows: its own folders and files, the hub's layout, tables; options that cannot be read."""

import json
import re
import warnings
from pathlib import Path

import pandas as pd
import pytest
from helpers import save_hub_dataset, save_race

from pkdlib import load_task
from pkdlib.readers.layouts import GLUE
from pkdlib.readers.sources import load_split, load_texts

ARTICLE = "The dog sat on a mat."
RECORD = {
    "article": ARTICLE, "questions": ["Who sat?", "The dog _ on a __ ."], "id": "high1.txt", "answers": ["B", "A"],
    "options": [["a cat", "a dog", "an ox", "I"], ["sat", "ran", "is", ""]],
}  # fmt: skip
ROWS = [
    (ARTICLE, "Who sat? a cat", "Who sat? a dog", "Who sat? an ox", "Who sat? I", 1),
    (ARTICLE, "The dog sat on a sat .", "The dog ran on a ran .", "The dog is on a is .", "The dog  on a  .", 0),
]
FLAT = [
    {"example_id": "high1.txt", "article": ARTICLE, "answer": answer, "question": question, "options": options}
    for question, options, answer in zip(RECORD["questions"], RECORD["options"], RECORD["answers"], strict=True)
]


def write(folder: Path, **files: object) -> Path:
    """Files by "split_level_number", in a RACE folder; a text is written as it is, anything else as JSON."""
    for name, content in files.items():
        file = folder.joinpath("RACE", *name.split("_")).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def rows(split) -> list[tuple]:
    return list(zip(*split.texts, split.labels.tolist(), strict=True))


def refused(call, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


# ----------------------------------------------------------------------------------------------- where rows lie
def test_race_s_own_folder_is_read_by_level_from_above_or_within(tmp_path: Path) -> None:
    other = RECORD | {"article": "It rained."}
    write(
        tmp_path, train_high_1=RECORD, train_middle_2=other, dev_high_3=RECORD, test_middle_4=other, test_high_5=RECORD
    )
    for source in (tmp_path, tmp_path / "RACE"):
        data = load_task("race", source, dataset_config="high")
        assert rows(data.splits["train"]) == rows(data.splits["test"]) == ROWS
        assert data.dataset_config == "high"
        for config in ("", "all"):
            data = load_task("race", source, dataset_config=config)
            assert set(data.splits) == {"train", "dev", "test"} and len(data.splits["test"]) == 4
            texts = data.splits["train"].texts[0]
            assert sorted(texts) == ["It rained.", "It rained.", ARTICLE, ARTICLE]
    assert load_split("race", tmp_path, "test", "middle").texts[0] == ["It rained.", "It rained."]
    line = "dataset_config = 'low': must be one of all, middle, high"
    assert refused(lambda: load_task("race", tmp_path, dataset_config="low")) == line
    line = f"{tmp_path}/RACE/dev: no rows"
    assert refused(lambda: load_task("race", tmp_path, dataset_config="middle")) == line
    line = f"{tmp_path}: task race has no train split there (names: train)"
    write(tmp_path / "few", dev_high_1=RECORD)
    assert refused(lambda: load_task("race", tmp_path / "few"), FileNotFoundError) == line.replace(": ", "/few: ", 1)


def test_other_tasks_do_not_look_into_race_s_folders(tmp_path: Path) -> None:
    write(tmp_path, train_high_1=RECORD, dev_high_1=RECORD)
    refused(lambda: load_task("rte", tmp_path / "RACE"), FileNotFoundError)
    assert "all" not in GLUE  # a dataset of others may call its only configuration so


def test_the_hub_s_layout_has_levels_as_configurations(tmp_path: Path) -> None:
    frame = pd.DataFrame(FLAT)
    source = save_hub_dataset(tmp_path / "race", "all", {"train": frame, "validation": frame, "test": frame[:1]})
    data = load_task("race", source)
    assert rows(data.splits["train"]) == rows(data.splits["dev"]) == ROWS
    assert rows(data.splits["test"]) == ROWS[:1]
    high = save_hub_dataset(tmp_path / "high", "high", {"train": frame, "validation": frame})
    assert rows(load_task("race", high, dataset_config="high").splits["train"]) == ROWS
    assert "dataset_config = 'middle': must be one of high" in refused(
        lambda: load_task("race", high, dataset_config="middle")
    )


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_table_of_questions_and_options_is_read(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame(FLAT)
    for split in ("train", "dev"):
        file = tmp_path / f"{split}.{kind}"
        frame.to_parquet(file) if kind == "parquet" else frame.to_json(file, orient="records", lines=kind == "jsonl")
    assert rows(load_task("race", tmp_path).splits["train"]) == ROWS
    (tmp_path / f"dev.{kind}").unlink()
    texts = load_texts(tmp_path, ("article", *"ABCD"))
    assert list(zip(*texts.texts, strict=True)) == [row[:-1] for row in ROWS]


def test_a_table_with_a_column_for_each_choice_is_read(tmp_path: Path) -> None:
    frame = pd.DataFrame([row[:-1] for row in ROWS], columns=["article", *"ABCD"]).assign(answer=["b", "A"])
    for split in ("train", "dev"):
        frame.to_csv(tmp_path / f"{split}.csv", index=False)
    assert rows(load_task("race", tmp_path).splits["dev"]) == ROWS


def test_hidden_answers_leave_a_split_unlabelled(tmp_path: Path) -> None:
    hidden = {name: value for name, value in RECORD.items() if name != "answers"}
    write(tmp_path, train_high_1=RECORD, dev_high_1=RECORD, test_high_1=hidden)
    data = load_task("race", tmp_path)
    assert data.splits["test"].labels is None and len(data.splits["test"]) == 2
    write(tmp_path, train_high_2=hidden)
    line = f"{tmp_path}/RACE/train, question 1 of high/2.txt: label '': must be one of 0 (A), 1 (B), 2 (C), 3 (D)"
    assert refused(lambda: load_task("race", tmp_path)) == line


# --------------------------------------------------------------------------------------------- what is no question
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"answers": ["B", "E"]}, "2 of high/7.txt: label 'E': must be one of 0 (A), 1 (B), 2 (C), 3 (D)"),
        (
            {"options": [["a", "b", "c", "d"], ["a", "b", "c"]]},
            "2 of high/7.txt: options is ['a', 'b', 'c']: must be a list of 4 texts",
        ),
        ({"options": [["a", "b", "c", 4], ["a"] * 4]}, "1 of high/7.txt: options is ['a', 'b', 'c', 4]: must be a list"
            " of 4 texts"),
        ({"options": ["abcd", ["a"] * 4]}, "1 of high/7.txt: options is 'abcd': must be a list of 4 texts"),
        ({"questions": [None, "Why?"]}, "1 of high/7.txt: question is None: must be a text"),
        ({"article": 3}, "1 of high/7.txt: article is 3, not a text"),
        ({"article": "a\0b"}, "1 of high/7.txt: article holds a NUL character: 'a\\x00b'"),
        (
            {"answers": ["B"]},
            "1 of high/7.txt: the file cannot be read: questions, options, answers must be lists of one length",
        ),
        (
            {"questions": "Why?"},
            "1 of high/7.txt: the file cannot be read: questions, options, answers must be lists of one length",
        ),
    ],
)  # fmt: skip
def test_a_bad_question_is_refused_with_its_file_and_number_or_skipped(
    tmp_path: Path, changes: dict, fault: str
) -> None:
    write(tmp_path, train_high_1=RECORD, train_high_7=RECORD | changes, dev_high_1=RECORD)
    assert refused(lambda: load_task("race", tmp_path)) == f"{tmp_path}/RACE/train, question {fault}"
    with pytest.warns(UserWarning, match=r"RACE/train: \d unreadable rows skipped \(questions . of high/7\.txt"):
        data = load_task("race", tmp_path, bad_rows="skip")
    assert rows(data.splits["train"])[:2] == ROWS and len(data.splits["train"]) in (2, 3)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "must be a record of article, questions, options, answers"),
        ({"article": "a", "questions": []}, "must be a record of article, questions, options, answers"),
        ("", "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_or_skipped(tmp_path: Path, content: object, fault: str) -> None:
    write(tmp_path, train_high_1=RECORD, train_high_2=content, dev_high_1=RECORD)
    line = f"{tmp_path}/RACE/train, question 1 of high/2.txt: the file cannot be read: {fault}"
    assert refused(lambda: load_task("race", tmp_path)) == line
    with pytest.warns(UserWarning, match=r"1 unreadable rows skipped \(questions 1 of high/2\.txt\)"):
        assert rows(load_task("race", tmp_path, bad_rows="skip").splits["train"]) == ROWS


def test_a_table_whose_options_are_no_list_is_refused(tmp_path: Path) -> None:
    bad = [*FLAT[:1], FLAT[1] | {"options": "sat, ran"}]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    line = f"{tmp_path}/train.jsonl, row 1: options is 'sat, ran': must be a list of 4 texts"
    assert refused(lambda: load_task("race", tmp_path)) == line
    for split in ("train", "dev"):
        pd.DataFrame(FLAT).drop(columns="question").to_json(tmp_path / f"{split}.jsonl", orient="records", lines=True)
    line = "must have one column question and one options: example_id, article, answer, options"
    assert refused(lambda: load_task("race", tmp_path)) == f"{tmp_path}/train.jsonl: {line}"


def test_dev_rows_are_drawn_and_the_generated_sample_is_right(tmp_path: Path) -> None:
    """The sample's right option stands in the article beside what it did, and no other does."""
    save_race(tmp_path, train=6, dev=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_task("race", tmp_path, train_rows=5)
    assert len(data.splits["train"]) == 5 and len(data.splits["dev"]) == len(data.splits["test"]) == 4
    for article, *choices, label in rows(load_task("race", tmp_path).splits["train"]):
        people = re.findall(r"the (\w+) \w+ the (\w+) \.", article)
        assert len(people) == 2
        inside = [any(who in choice.split() for who, _ in people) for choice in choices]
        assert inside == [place == label for place in range(4)]
