"""Tasks of your own by parameters: columns, classes, metrics, a drawn dev split, and rows without labels."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from helpers import bert_config, save_backbone
from torch.nn import functional as F

from pkdlib.config import ConfigError, DistillConfig, FineTuneConfig, validate
from pkdlib.data import encode_task
from pkdlib.engine.batches import label_weights
from pkdlib.engine.progress import say_once
from pkdlib.losses import pkd_loss, value_loss
from pkdlib.models import load_tokenizer
from pkdlib.readers.own import load_rows, own_task
from pkdlib.readers.sources import load_split, load_task, load_texts, reload_data
from pkdlib.readers.teachers import load_teacher_data
from pkdlib.training import distill, fine_tune

CLASSES = ["billing", "delivery", "other", "praise", "refund"]
OWN = {"text_columns": ["body"], "label_column": "topic", "dev_fraction": 0.25}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """80 rows of five classes, of which one has half."""
    labels = [CLASSES[0]] * 40 + [name for name in CLASSES[1:] for _ in range(10)]
    texts = [f"the film is {name} {number}" for number, name in enumerate(labels)]
    return pd.DataFrame({"id": range(80), "body": texts, "topic": labels}).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_backbone(tmp_path_factory.mktemp("backbone"), bert_config()))


def hub_folder(frame: pd.DataFrame, folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    frame.to_parquet(folder / "data" / "train-00000-of-00001.parquet", index=False)
    return folder


WRITERS = {
    "csv": lambda frame, folder: frame.to_csv(folder / "tickets.csv", index=False) or folder / "tickets.csv",
    "tsv": lambda frame, folder: frame.to_csv(folder / "tickets.tsv", index=False, sep="\t") or folder / "tickets.tsv",
    "json lines": lambda frame, folder: (
        frame.to_json(folder / "tickets.jsonl", orient="records", lines=True) or folder / "tickets.jsonl"
    ),
    "parquet": lambda frame, folder: frame.to_parquet(folder / "t.parquet", index=False) or folder / "t.parquet",
    "hub folder": lambda frame, folder: hub_folder(frame, folder / "tickets"),
    "save_to_disk": lambda frame, folder: (
        Dataset.from_pandas(frame, preserve_index=False).save_to_disk(folder / "tickets") or folder / "tickets"
    ),
    "save_to_disk, splits": lambda frame, folder: (
        DatasetDict(train=Dataset.from_pandas(frame, preserve_index=False)).save_to_disk(folder / "s") or folder / "s"
    ),
}


@pytest.fixture(autouse=True)
def say_again() -> None:
    say_once.cache_clear()


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_of_every_format_become_the_same_task(kind: str, rows: pd.DataFrame, tmp_path: Path, capsys) -> None:
    source = str(WRITERS[kind](rows, tmp_path))
    raw = load_rows("custom", source, **OWN)
    assert raw.task.label_names == tuple(CLASSES)
    assert raw.task.metrics == ("accuracy", "macro_f1")
    assert raw.task.name == f"custom-{Path(source).name.partition('.')[0]}-topic"
    assert f"{raw.task.name}: the classes are billing (40 rows), delivery (10 rows), " in capsys.readouterr().out
    found = {}
    for name, share in (("train", 0.75), ("dev", 0.25)):
        split = raw.splits[name]
        counts = Counter(split.labels.tolist())
        assert counts == {index: round(count * share) for index, count in enumerate([40, 10, 10, 10, 10])} or all(
            abs(counts[index] - count * share) <= 1 for index, count in enumerate([40, 10, 10, 10, 10])
        )
        found |= dict(zip(split.texts[0], split.labels.tolist(), strict=True))
    assert found == {row.body: CLASSES.index(row.topic) for row in rows.itertuples()}  # every row once, as it was
    again = load_rows("custom", source, **OWN)
    assert again.splits["dev"].fingerprint == raw.splits["dev"].fingerprint  # drawn alike


def test_names_and_orders_given_win(rows: pd.DataFrame, tmp_path: Path) -> None:
    source = str(WRITERS["csv"](rows, tmp_path))
    named = own_task(source, ["body"], "topic", label_names=CLASSES[::-1], metrics=["macro_f1"])
    assert (named.label_names, named.metrics) == (tuple(CLASSES[::-1]), ("macro_f1",))
    assert load_task(named, source, dev_fraction=0.5).splits["dev"].labels.max() == 4


def test_a_dataset_s_own_names_are_taken_in_its_order(rows: pd.DataFrame, tmp_path: Path, capsys) -> None:
    order = ["refund", "praise", "billing", "other", "delivery"]
    features = Features({"id": Value("int64"), "body": Value("string"), "topic": ClassLabel(names=order)})
    numbers = rows.assign(topic=rows.topic.map(order.index))
    Dataset.from_pandas(numbers, features=features, preserve_index=False).save_to_disk(tmp_path / "tickets")
    raw = load_rows("custom", str(tmp_path / "tickets"), **OWN)
    assert raw.task.label_names == tuple(order)
    assert "the classes are refund, praise, billing, other, delivery" in capsys.readouterr().out
    texts, labels = raw.splits["train"].texts[0], raw.splits["train"].labels
    assert all(order[label] in text for text, label in zip(texts, labels, strict=True))


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"a {n}" for n in range(60)], "label": [10, 9, -1] * 20})
    frame.to_csv(tmp_path / "n.csv", index=False)
    raw = load_rows("custom", str(tmp_path / "n.csv"), dev_fraction=0.5)
    assert raw.task.label_names == ("-1", "9", "10")


# labels as pandas writes them -> the classes, or the line that refuses them
LABELS = {
    "floats": ([1.0, 2.0], ("1", "2")),
    "one number in two spellings": (["1", "1.0", "2", "2.0"], ("1", "2")),
    "booleans": ([True, False], ("False", "True")),
    "spaces around": ([" a", "b ", "a", "b"], ("a", "b")),
    "upper case": (["Bill", "bill", "x", "x"], ("Bill", "bill", "x")),
    "commas": (["a, b", "c"], ("a, b", "c")),
    "none as a name": (["none", "rude"], ("none", "rude")),
    "none beside no label": (
        ["none", "rude", None, "rude"],
        r"row 2: label '(None)?': must be one of 0 \(none\), 1 \(rude\)",
    ),
    "no label": (["a", "b", None, "b"], r"row 2: label '(None)?': must be one of 0 \(a\), 1 \(b\)"),
    "no labels": ([None], "label_column = 'label': 0 labels in 0 rows can be no classes"),
}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("case", LABELS)
def test_labels_are_classes_in_every_format_or_one_line(case: str, ending: str, tmp_path: Path) -> None:
    labels, expected = LABELS[case]
    frame = pd.DataFrame({"text": [f"a {n}" for n in range(20)], "label": labels * (20 // len(labels))})
    file = tmp_path / f"t.{ending}"
    {"csv": pd.DataFrame.to_csv, "parquet": pd.DataFrame.to_parquet}[ending](
        frame, file, index=False
    ) if ending != "jsonl" else frame.to_json(file, orient="records", lines=True)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            load_rows("custom", str(file), dev_fraction=0.5)
        return
    raw = load_rows("custom", str(file), dev_fraction=0.5)
    assert raw.task.label_names == expected
    counts = Counter(raw.splits["train"].labels.tolist()) + Counter(raw.splits["dev"].labels.tolist())
    assert sum(counts.values()) == 20 and set(counts) == set(range(len(expected)))


NAMES = {
    "my data.v2 (Ä).csv": "custom-my-data-v2-Ä",
    "v1.2.jsonl": "custom-v1-2",
    "shop/train.csv": "custom-shop",
    "z.csv.gz": "custom-z",
}


@pytest.mark.parametrize("source", NAMES)
def test_a_task_is_called_after_its_source_and_label(source: str, tmp_path: Path) -> None:
    assert own_task(str(tmp_path / source), label_names=["a", "b"]).name == NAMES[source]
    other = own_task(str(tmp_path / source), label_column="the topic", label_names=["a", "b"])
    assert other.name == f"{NAMES[source]}-the-topic"


def test_a_class_of_one_row_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"a {n}" for n in range(20)], "label": ["a"] * 10 + ["b"] * 9 + ["c"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"^dev_fraction = 0.5: must be 0, as of class c there is one row$"):
        load_rows("custom", str(tmp_path / "t.csv"), dev_fraction=0.5)


def test_rows_are_drawn_from_what_dev_leaves(rows: pd.DataFrame, tmp_path: Path) -> None:
    source = str(WRITERS["csv"](rows, tmp_path))
    whole, few = (load_rows("custom", source, train_rows=count, **OWN).splits for count in (0, 20))
    assert few["dev"].fingerprint == whole["dev"].fingerprint and len(few["train"]) == 20
    assert {*few["train"].texts[0]} <= {*whole["train"].texts[0]}
    with pytest.raises(ConfigError, match="train_rows = 61: must be between 1 and the split's 60 rows"):
        load_rows("custom", source, train_rows=61, **OWN)
    task = own_task(source, ["body"], "topic")
    assert load_split(task, source, "dev", dev_fraction=0.25).fingerprint == whole["dev"].fingerprint


def test_a_label_column_that_dev_lacks_is_not_another_one(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"a {n}" for n in range(20)], "label": ["a", "b"] * 10})
    frame.rename(columns={"label": "topic"}).to_csv(tmp_path / "train.csv", index=False)
    frame.to_csv(tmp_path / "dev.csv", index=False)
    with pytest.raises(ValueError, match=r"the dev split of task custom-.*-topic has no labels"):
        load_rows("custom", str(tmp_path), label_column="topic")
    assert own_task(str(tmp_path / "dev.csv")).label_names == ("a", "b")  # of the only file that is asked for


def test_texts_of_several_formats_and_those_that_dev_has_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    frame = pd.DataFrame({"text": [f"a {n}" for n in range(20)], "label": ["a", "b"] * 10})
    frame.to_csv(tmp_path / "t.csv", index=False)
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.txt").write_text("a 1\n\nnew\n")
    (more / "b.jsonl").write_text('{"text": "other"}\n')
    frame[:4].to_csv(more / "c.txt.csv", index=False)
    assert load_texts(more).texts == (["a 1", "new", "other", "a 0", "a 1", "a 2", "a 3"],)
    dev = load_rows("custom", str(tmp_path / "t.csv"), dev_fraction=0.5, unlabelled=str(more)).splits["dev"]
    twice = len({*dev.texts[0]} & {"a 0", "a 1", "a 2", "a 3"})
    assert (
        twice
        and f"custom-t: {twice} of 10 dev rows have texts that unlabelled rows have too\n" in capsys.readouterr().out
    )


def test_pairs_of_texts_and_a_dataset_config(tmp_path: Path) -> None:
    for name, word in (("first", "a"), ("second", "b")):
        frame = pd.DataFrame({"q": [f"{word} {n}" for n in range(20)], "r": ["x"] * 20, "label": ["no", "yes"] * 10})
        (tmp_path / name).mkdir()
        frame.to_csv(tmp_path / name / "train.csv", index=False)
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files: {name}/train.csv\n" for name in ("first", "second")
    )
    (tmp_path / "README.md").write_text(f"{card}---\n")
    pair = {"text_columns": ["q", "r"], "dev_fraction": 0.5}
    raw = load_rows("custom", str(tmp_path), dataset_config="second", **pair)
    assert len(raw.splits["train"].texts) == 2
    assert all(text.startswith("b ") for text in raw.splits["train"].texts[0])
    with pytest.raises(ValueError, match=r"dataset_config = 'third': must be one of first, second"):
        load_rows("custom", str(tmp_path), dataset_config="third", **pair)


REFUSED = {
    "label": ({"label_column": "subject"}, r"label_column = 'subject': .* has no such column, but id, body, topic"),
    "text": ({"text_columns": ["title"]}, r"no column 'title'; it has id, body, topic"),
    "ids": ({"label_column": "id"}, r"label_column = 'id': 80 labels in 80 rows can be no classes; .*pearson"),
    "few": ({"dev_fraction": 0.01}, r"dev_fraction = 0.01: cannot draw from 80 rows: "),
    "names": ({"label_names": ["billing", "refund"]}, r"label '.*': must be one of 0 \(billing\), 1 \(refund\)"),
    "values": ({"metrics": ["pearson"]}, r"label '\w+': must be a number"),
    "metric": ({"metrics": ["recall"]}, r"metrics = 'recall': must be one of accuracy, f1, macro_f1, mcc"),
    "no dev": ({"dev_fraction": 0.0}, r"is one file, must be a folder with a train and a dev file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line(case: str, rows: pd.DataFrame, tmp_path: Path) -> None:
    changes, line = REFUSED[case]
    with pytest.raises(ValueError, match=line) as error:
        load_rows("custom", str(WRITERS["csv"](rows, tmp_path)), **OWN | changes)
    assert len(str(error.value).splitlines()) == 1


def test_a_dev_split_that_is_there_is_not_drawn(rows: pd.DataFrame, tmp_path: Path) -> None:
    for name in ("train", "dev"):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(ValueError, match=r"dev_fraction = 0.25: must be 0, as .* has a dev split"):
        load_rows("custom", str(tmp_path), **OWN)
    assert len(load_rows("custom", str(tmp_path), **OWN | {"dev_fraction": 0.0}).splits["dev"]) == 80


def test_texts_that_dev_shares_with_train_are_told(tmp_path: Path, capsys) -> None:
    frame = pd.DataFrame({"text": ["the same"] * 20, "label": ["no", "yes"] * 10})
    frame.to_csv(tmp_path / "t.csv", index=False)
    load_rows("custom", str(tmp_path / "t.csv"), dev_fraction=0.5)
    assert "10 of 10 dev rows have texts that training rows have too" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------- GLUE's two others
def write_lines(path: Path, *rows: tuple) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def test_cola_s_files_have_no_header(tmp_path: Path) -> None:
    folder = tmp_path / "CoLA"
    write_lines(folder / "train.tsv", ("gj04", 1, "", "They sang."), ("gj04", 0, "*", "They the sang."))
    write_lines(folder / "dev.tsv", ("clc", 0, "*", 'Who "the he.'), ("clc", 1, "", "Who did?"))
    write_lines(folder / "test.tsv", ("index", "sentence"), (0, "Bill whistled."))
    splits = load_task("cola", tmp_path).splits
    assert splits["train"].texts == (["They sang.", "They the sang."],)
    assert (splits["train"].labels.tolist(), splits["dev"].labels.tolist()) == ([1, 0], [0, 1])
    assert splits["test"].texts == (["Bill whistled."],) and splits["test"].labels is None
    write_lines(folder / "train.tsv", ("gj04", 1, "", "They sang."), ("gj04", 7, "", "No."))
    with pytest.raises(ValueError, match=r"train.tsv, line 2: label '7': must be one of 0 \(unacceptable\), 1"):
        load_task("cola", tmp_path)


STSB = ("index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score")


def stsb(folder: Path, train: int = 12) -> Path:
    row = ("g", "f", 2012, 1, "s", "s")
    words = ["good " * (number % 6) + "bad " * (5 - number % 6) for number in range(train)]
    rows = [(number, *row, text, "a film", number % 6) for number, text in enumerate(words)]
    write_lines(folder / "STS-B" / "train.tsv", STSB, *rows)
    write_lines(folder / "STS-B" / "dev.tsv", STSB, *rows[::2])
    write_lines(folder / "STS-B" / "test.tsv", STSB[:-1], *[one[:-1] for one in rows])
    return folder


def test_sts_b_has_values(tmp_path: Path) -> None:
    splits = load_task("stsb", stsb(tmp_path)).splits
    assert splits["train"].labels.dtype == np.float32
    assert splits["train"].labels.tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert splits["test"].labels is None


def test_regression_is_trained_distilled_and_read_again(tmp_path: Path, backbone: str) -> None:
    data = encode_task(load_task("stsb", stsb(tmp_path, 48)), load_tokenizer(backbone), 32)
    values = {"backbone": backbone, "num_train_epochs": 10, "train_batch_size": 8, "learning_rate": 3e-3}
    teacher = fine_tune(data, validate(FineTuneConfig, num_hidden_layers=4, **values), tmp_path / "teacher")
    assert teacher.model.config.problem_type == "regression" and teacher.model.config.num_labels == 1
    metrics = teacher.record.metrics["dev"]
    assert list(metrics) == ["loss", "pearson", "spearman"] and teacher.record.majority == {"dev": {}}
    assert "train_accuracy" not in teacher.record.history[0]
    assert metrics["loss"] < np.var(data.splits["dev"].labels) / 2  # far better than the mean value for all
    assert metrics["pearson"] > 0.8
    config = validate(DistillConfig, num_hidden_layers=2, **values)
    student = distill(data, config, tmp_path / "teacher", tmp_path / "student", cache_dir=tmp_path / "cache")
    assert student.record.history[-1]["train_loss_kd"] < student.record.history[0]["train_loss_kd"]
    assert reload_data(student.record).tokens == data.tokens
    with pytest.raises(ConfigError, match=r"class_weights = \['balanced'\]: must be left out, stsb has no classes"):
        distill(data, config.model_copy(update={"class_weights": ["balanced"]}), tmp_path / "teacher")


def test_the_terms_of_regression_are_squared_differences() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.5]])
    labels = torch.tensor([0.0, float("nan")])
    terms = pkd_loss(student, labels, teacher, alpha=0.25, weights=torch.tensor([2.0, 0.0]))
    assert terms.loss_ce.item() == pytest.approx(2 * 1.0 / 2)  # of the row that has a label
    assert terms.loss_kd.item() == pytest.approx((4.0 + 0.25) / 2)
    assert terms.loss.item() == pytest.approx(0.75 * 1.0 + 0.25 * 2.125)
    values = torch.tensor([[1.0], [2.0]], requires_grad=True)
    value_loss(values, labels, torch.tensor([2.0, 0.0])).backward()
    assert values.grad.flatten().tolist() == pytest.approx([2.0, 0.0])
    assert value_loss(torch.tensor([[float("nan")]]), torch.tensor([1.0])).isnan()  # what diverges is not hidden


# ------------------------------------------------------------------------------------ weights, rows without labels
def test_class_weights_and_rows_without_labels_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, -100, -100, -100, -100])
    assert label_weights(labels[:4], [], 2) is None
    assert label_weights(labels, [], 2).tolist() == [2, 2, 2, 2, 0, 0, 0, 0]
    balanced = label_weights(labels[:4], ["balanced"], 2)
    assert balanced.tolist() == pytest.approx([4 / 6, 4 / 6, 4 / 6, 2])  # rows / (classes * rows of the class)
    assert label_weights(labels, ["balanced"], 2).mean() == pytest.approx(1)
    assert label_weights(labels[:4], [0.5, 3.0], 2).tolist() == [0.5, 0.5, 0.5, 3.0]
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    mean = F.cross_entropy(logits[:4], torch.from_numpy(labels[:4]))
    weights = torch.from_numpy(label_weights(labels, [], 2))
    loss = pkd_loss(logits, torch.from_numpy(labels), alpha=0.0, weights=weights).loss_ce
    assert loss.item() == pytest.approx(mean.item())  # the mean of the labelled rows


def taught(rows: pd.DataFrame, backbone: str, folder: Path):
    """A teacher of own rows in a folder, and the parameters of its rows."""
    named = {"task": "custom", "source": str(WRITERS["csv"](rows, folder)), **OWN}
    data = encode_task(load_rows(**named), load_tokenizer(backbone), 32)
    config = validate(FineTuneConfig, backbone=backbone, num_train_epochs=1, train_batch_size=16, learning_rate=1e-3)
    fine_tune(data, config, folder / "teacher")
    return str(folder / "teacher"), named


def test_unlabelled_rows_teach_by_the_teacher_alone(rows: pd.DataFrame, backbone: str, tmp_path: Path) -> None:
    teacher, _ = taught(rows, backbone, tmp_path)
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"body": f"more film {n}"}) + "\n" for n in range(30)))
    data, start = load_teacher_data(teacher, max_length=0, unlabelled=str(tmp_path / "more.jsonl"))
    assert (start, len(data.splits["train"]), data.unlabelled_rows) == (backbone, 90, 30)
    values = {"backbone": backbone, "num_hidden_layers": 2, "num_train_epochs": 2, "train_batch_size": 16}

    def trained(**changes):
        return distill(data, validate(DistillConfig, **values, **changes), teacher, cache_dir=tmp_path / "cache").record

    with_all = trained(alpha=0.5, beta=0.0)
    assert (with_all.train_rows, with_all.unlabelled_rows) == (60, 30)
    assert 0 <= with_all.history[0]["train_accuracy"] <= 1
    assert reload_data(with_all).tokens == data.tokens
    plain, _ = load_teacher_data(teacher)
    assert reload_data(with_all).fingerprints["train"] == plain.fingerprints["train"]
    # Without soft targets they say nothing: the very student of the labelled rows alone.
    alone = validate(DistillConfig, **values, alpha=0.0, beta=0.0)
    labels_alone = distill(plain, alone, teacher).record
    assert trained(alpha=0.0, beta=0.0).fingerprints["weights"] == labels_alone.fingerprints["weights"]
    # Cut into parts, the same loss.
    parts = trained(alpha=0.5, beta=0.0, micro_batch_size=4)
    assert parts.history[0]["train_loss_ce"] == pytest.approx(with_all.history[0]["train_loss_ce"], rel=0.2)


def test_with_alpha_1_no_label_is_needed(rows: pd.DataFrame, backbone: str, tmp_path: Path) -> None:
    teacher, named = taught(rows, backbone, tmp_path)
    folder = tmp_path / "hidden"
    folder.mkdir()
    rows[["body"]].to_csv(folder / "train.csv", index=False)
    rows.to_csv(folder / "dev.csv", index=False)
    task = own_task(named["source"], ["body"], "topic")
    data = encode_task(load_task(task, folder), load_tokenizer(backbone), 32)
    values = {"backbone": backbone, "num_hidden_layers": 2, "num_train_epochs": 1, "train_batch_size": 16}
    run = distill(data, validate(DistillConfig, **values, alpha=1.0), teacher, cache_dir=tmp_path / "cache")
    assert "train_accuracy" not in run.record.history[0] and run.record.history[0]["train_loss_ce"] == 0
    for alpha in (0.0, 0.9):
        with pytest.raises(ConfigError, match=r"has no labels: it is trained on, unless alpha is 1 \(it is 0"):
            distill(data, validate(DistillConfig, **values, alpha=alpha), teacher, cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError, match="has no labels: it is trained on, unless alpha is 1"):
        fine_tune(data, validate(FineTuneConfig, backbone=backbone))


def test_class_weights_must_be_of_the_classes(rows: pd.DataFrame, backbone: str, tmp_path: Path) -> None:
    source = str(WRITERS["csv"](rows, tmp_path))
    data = encode_task(load_rows("custom", source, **OWN), load_tokenizer(backbone), 32)
    values = {"backbone": backbone, "num_hidden_layers": 1, "num_train_epochs": 1}
    with pytest.raises(ConfigError, match=r"class_weights = .1.0, 2.0.: must have one for each of 5 classes: "):
        fine_tune(data, validate(FineTuneConfig, class_weights=[1, 2], **values))
    with pytest.raises(ConfigError, match="class_weights"):
        validate(FineTuneConfig, class_weights=[0.0, 1.0])
    records = [
        fine_tune(data, validate(FineTuneConfig, class_weights=weights, **values)).record
        for weights in ([], "balanced", [0.5, 2, 2, 2, 2])
    ]
    assert len({record.fingerprints["weights"] for record in records}) == 3
    losses = [record.history[0]["train_loss_ce"] for record in records]
    assert losses[1] != losses[0]


def test_a_foreign_teacher_s_rows_are_named_as_the_notebooks_name_them(
    rows: pd.DataFrame, backbone: str, tmp_path: Path
) -> None:
    teacher, named = taught(rows, backbone, tmp_path)
    (tmp_path / "teacher" / "result.json").unlink()
    data, _ = load_teacher_data(teacher, max_length=32, backbone=backbone, train_rows=0, **named)
    assert data.task.label_names == tuple(CLASSES)


def test_parameters_that_contradict_a_teacher_s_record_are_refused(
    rows: pd.DataFrame, backbone: str, tmp_path: Path
) -> None:
    teacher, named = taught(rows, backbone, tmp_path)
    load_teacher_data(teacher, **named)  # the same again
    for name, value in (("text_columns", ["id"]), ("dev_fraction", 0.5), ("label_names", ["a", "b"]), ("task", "sst2")):
        with pytest.raises(ConfigError, match=rf"^{name} = .*: the record of .* says .*; leave it empty$"):
            load_teacher_data(teacher, **named | {name: value})
