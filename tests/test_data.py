"""Encoding against the tokenizer's own padding, and the batches: every row once, little padding, by seed and epoch."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import BertTokenizerFast, PreTrainedTokenizerBase

from pkdlib import encode_task, load_task, load_tokenizer
from pkdlib.config import MINI_BERT
from pkdlib.data import EncodedSplit, EncodedTask, Split, TaskData, encode_split
from pkdlib.engine.batches import GROUP_BATCHES, LengthGroupedBatches, SortedBatches, make_loader, split_batch
from pkdlib.tasks import get_task

TEXTS = ["the plot is good .", "a", "", "the food was never really cold , but the waiter bored us .", "zyx"]
OTHERS = ["the soup is cold .", "the nurse watched the saw in the meadow .", "", "", "i"]

DEV = Split("dev", (TEXTS,), None)
row_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=200).map(np.array)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(MINI_BERT)


@pytest.fixture(scope="module")
def sentiment() -> TaskData:
    return load_task("mini-sentiment")


@pytest.fixture(scope="module")
def encoded(sentiment: TaskData, tokenizer: PreTrainedTokenizerBase) -> EncodedTask:
    return encode_task(sentiment, tokenizer, 64)


def padding_share(lengths: np.ndarray, batches: Sequence[Sequence[int]]) -> float:
    """Share of padding among all tokens when each batch is padded to its longest row."""
    return 1 - lengths.sum() / sum(len(rows) * lengths[rows].max() for rows in batches)


# ----------------------------------------------------------------------------------------------- encoding
@pytest.mark.parametrize("max_length", [8, 12, 64])
@pytest.mark.parametrize("texts", [(TEXTS,), (TEXTS, OTHERS)], ids=["single", "pair"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3], [4, 0], [1, 1, 2]])
def test_a_batch_is_what_the_tokenizer_itself_would_pad(
    tokenizer: PreTrainedTokenizerBase, texts: tuple[list[str], ...], max_length: int, rows: list[int]
) -> None:
    batch = EncodedSplit(Split("dev", texts, None), tokenizer, max_length)[rows]
    chosen = [[column[row] for row in rows] for column in texts]
    expected = tokenizer(*chosen, truncation=True, max_length=max_length, padding="longest", return_tensors="pt")
    assert batch.keys() - {"rows"} == expected.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor)
        assert batch[name].dtype == torch.int64


def test_padding_is_the_tokenizer_s_token_whatever_its_number() -> None:
    vocabulary = {word: number for number, word in enumerate("[UNK] [CLS] [SEP] a [PAD] [MASK] film".split())}
    tokenizer = BertTokenizerFast(vocab=vocabulary, model_max_length=16)
    batch = EncodedSplit(Split("dev", (["a film", "a"],), None), tokenizer, 8)[[0, 1]]
    assert batch["input_ids"].tolist() == [[1, 3, 6, 2], [1, 3, 2, 4]]


def test_a_batch_holds_its_rows_and_their_labels(encoded: EncodedTask, sentiment: TaskData) -> None:
    batch = encoded.splits["dev"][[7, 2, 5]]
    assert batch["rows"].tolist() == [7, 2, 5]
    assert batch["labels"].tolist() == sentiment.splits["dev"].labels[[7, 2, 5]].tolist()


def test_an_unlabelled_split_has_batches_without_labels(tokenizer: PreTrainedTokenizerBase) -> None:
    assert "labels" not in EncodedSplit(Split("test", (TEXTS,), None), tokenizer, 16)[[0]]


def test_long_rows_are_cut_the_longer_text_of_a_pair_first(tokenizer: PreTrainedTokenizerBase) -> None:
    split = EncodedSplit(Split("dev", (["the film is good"], ["a " * 30]), None), tokenizer, 12)
    words = tokenizer.convert_ids_to_tokens(split[[0]]["input_ids"][0])
    assert words == ["[CLS]", *"the film is good [SEP]".split(), *["a"] * 5, "[SEP]"]


def test_encoding_a_task_keeps_its_splits_and_source(encoded: EncodedTask, sentiment: TaskData) -> None:
    assert {name: len(split) for name, split in encoded.splits.items()} == {"train": 2000, "dev": 1000, "test": 3000}
    reading = {"source": "data", "subset_seed": 0, "bad_rows": "error"}
    reading |= {"dataset_config": "", "dev_fraction": 0.0, "unlabelled": ""}
    assert (encoded.task, encoded.reading, encoded.max_length) == (sentiment.task, reading, 64)
    assert encoded.fingerprints == {name: split.fingerprint for name, split in sentiment.splits.items()}


@pytest.mark.parametrize("max_length", [0, 7, 65, 128])
def test_a_length_outside_8_to_the_model_s_limit_is_refused(
    sentiment: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    with pytest.raises(ValueError, match=f"max_length = {max_length}: must be between 8 and the model's 64"):
        encode_task(sentiment, tokenizer, max_length)


@pytest.mark.parametrize("max_length", [64.0, "64", True, None])
def test_a_length_that_is_no_whole_number_is_refused(
    sentiment: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: object
) -> None:
    for call in (
        lambda: encode_task(sentiment, tokenizer, max_length),
        lambda: encode_split(DEV, tokenizer, max_length),
    ):
        with pytest.raises(ValueError, match=f"^max_length = {max_length!r}: must be a valid integer$"):
            call()


def test_what_is_no_split_task_or_tokenizer_is_refused(sentiment: TaskData, tokenizer: PreTrainedTokenizerBase) -> None:
    for call, line in (
        (lambda: encode_task(DEV, tokenizer), r"data = Split\(.*: must be an instance of TaskData"),
        (lambda: encode_task("rte", tokenizer), "data = 'rte': must be an instance of TaskData"),
        (lambda: encode_split(["a"], tokenizer), r"split = \['a'\]: must be an instance of Split"),
        (
            lambda: encode_split(DEV, MINI_BERT),
            f"tokenizer = '{MINI_BERT}': must be an instance of PreTrainedTokenizerBase",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{line}$"):
            call()


@pytest.mark.parametrize("max_length", [8, 64])
def test_both_ends_of_the_allowed_lengths_are_allowed(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    split = encode_split(Split("dev", (["a " * 100],), None), tokenizer, max_length)
    assert split.lengths.tolist() == [max_length]


def test_a_length_is_128_unless_told(sentiment: TaskData, tokenizer: PreTrainedTokenizerBase) -> None:
    for call in (lambda: encode_task(sentiment, tokenizer), lambda: encode_split(sentiment.splits["dev"], tokenizer)):
        with pytest.raises(ValueError, match=r"^max_length = 128: must be between 8 and the model's 64$"):
            call()


@pytest.mark.parametrize("texts", [["the plot"], ["[CLS] the plot", "the plot"]])
def test_rows_that_do_not_begin_with_cls_are_refused(texts: list[str]) -> None:
    tokenizer = BertTokenizerFast(vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "the": 3, "plot": 4, "[PAD]": 5})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 2)])
    with pytest.raises(ValueError, match=r"its tokenizer does not begin every row with its \[CLS\] token$"):
        encode_split(Split("dev", (texts,), None), tokenizer, 8)


def test_rows_are_taken_in_the_order_given() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    taken = Split("dev", (TEXTS, OTHERS), labels).take([4, 0])
    assert (taken.name, taken.texts) == ("dev", ([TEXTS[4], TEXTS[0]], [OTHERS[4], OTHERS[0]]))
    assert taken.labels is not None and taken.labels.tolist() == [1, 0]
    assert Split("test", (TEXTS,), None).take([1]) == Split("test", ([TEXTS[1]],), None)


def test_data_that_says_no_more_was_read_whole_and_strictly() -> None:
    labelled = Split("train", (["a", "the"],), np.array([0, 1]))
    data = TaskData(get_task("sst2"), {"train": labelled, "dev": labelled}, "here")
    assert (data.subset_seed, data.bad_rows) == (0, "error")


def test_rows_that_cannot_be_trained_on_are_refused_where_they_are_made() -> None:
    labelled = Split("train", (["a", "the"],), np.array([0, 1]))
    for splits, line in (
        ({"train": labelled}, "the dev split of task sst2 is missing"),
        ({"dev": labelled}, "the train split of task sst2 is missing"),
        ({"train": labelled, "dev": DEV}, "the dev split of task sst2 has no labels: it can be predicted, not scored"),
    ):
        with pytest.raises(ValueError, match=f"^{line}$"):
            TaskData(get_task("sst2"), splits, "here")


def test_columns_that_are_no_rows_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"^the dev split has columns of \[5, 4\] texts: must be one or two lists, "):
        encode_split(Split("dev", (TEXTS, OTHERS[:4]), None), tokenizer, 16)


def test_batches_are_padded_to_a_multiple_or_the_limit(tokenizer: PreTrainedTokenizerBase) -> None:
    split = EncodedSplit(Split("dev", (["a", "a a", "a a a", "a " * 9],), None), tokenizer, 10)  # 3, 4, 5, 10 tokens
    padded = split.padded_to(4)
    assert [padded[[row]]["input_ids"].shape[1] for row in range(4)] == [4, 4, 8, 10]
    assert padded[[0, 2]]["attention_mask"].tolist() == [[1] * 3 + [0] * 5, [1] * 5 + [0] * 3]
    assert [split[[row]]["input_ids"].shape[1] for row in range(4)] == [3, 4, 5, 10]  # it stays as it was


def test_a_split_keeps_texts_from_all_over_it_to_compare_tokenizers_on(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = ([f"a {row}" for row in range(1201)], [f"the {row}" for row in range(1201)])
    split = EncodedSplit(Split("dev", texts, None), tokenizer, 16)
    assert split.examples == (texts[0][::3], texts[1][::3]) and list(split.example_places) == [*range(0, 1201, 3)]
    few = EncodedSplit(Split("dev", (texts[0][:500],), None), tokenizer, 16)
    assert few.examples == (texts[0][:500],)


def test_an_encoded_fingerprint_is_of_lengths_and_columns_by_name(tokenizer: PreTrainedTokenizerBase) -> None:
    """The key of cached outputs: 32-bit numbers, wherever it is computed."""
    split = EncodedSplit(Split("dev", (["a", "a a"],), None), tokenizer, 8)
    cls, a, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "a", "[SEP]"])
    ids = np.array([cls, a, sep, cls, a, a, sep], np.int32).tobytes()
    whole = np.array([3, 4], np.int32).tobytes() + b"input_ids" + ids + b"token_type_ids" + bytes(4 * 7)
    assert split.fingerprint == sha256(whole).hexdigest()[:16]


def test_an_encoded_fingerprint_follows_tokens_and_their_order_and_not_labels(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    def fingerprint(texts: list[str], labels: list[int] | None = None, max_length: int = 16) -> str:
        split = Split("train", (texts,), None if labels is None else np.array(labels))
        return EncodedSplit(split, tokenizer, max_length).fingerprint

    plain = fingerprint(TEXTS)
    assert plain == fingerprint(TEXTS) == fingerprint(TEXTS, [0, 1, 0, 1, 0])  # the teacher's outputs need no labels
    assert plain != fingerprint([*TEXTS[:-1], "film"])
    assert plain != fingerprint(TEXTS[::-1])
    assert plain != fingerprint(TEXTS, max_length=8)
    assert fingerprint(["a film", "is"]) != fingerprint(["a", "film is"])  # the same words, cut otherwise


def test_a_task_s_fingerprints_follow_labels_too(tokenizer: PreTrainedTokenizerBase) -> None:
    def fingerprints(labels: list[int]) -> dict[str, str]:
        splits = {name: Split(name, (["a", "film"],), np.array(labels)) for name in ("train", "dev")}
        return encode_task(TaskData(get_task("sst2"), splits, "here"), tokenizer, 16).fingerprints

    assert fingerprints([0, 1]) == fingerprints([0, 1]) != fingerprints([0, 0])


# ----------------------------------------------------------------------------------- length-grouped batches
@given(row_lengths, st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_length_grouped_batches_hold_every_row_once(lengths: np.ndarray, size: int, seed: int, epoch: int) -> None:
    batches = LengthGroupedBatches(lengths, size, seed)
    batches.epoch = epoch
    found = list(batches)
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    assert len(found) == len(batches)
    assert sorted(map(len, found))[1:] == [size] * (len(found) - 1)  # at most one batch is short
    assert max(map(len, found)) <= size


@given(row_lengths, st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_seed_and_epoch_decide_the_batches(lengths: np.ndarray, size: int, seed: int) -> None:
    first, again = LengthGroupedBatches(lengths, size, seed), LengthGroupedBatches(lengths, size, seed)
    first.epoch = again.epoch = 3
    assert list(first) == list(again) == list(first)


def test_another_epoch_or_seed_is_another_order() -> None:
    lengths = np.arange(1, 101)
    untold, first = LengthGroupedBatches(lengths, 8, 0), LengthGroupedBatches(lengths, 8, 0)
    first.epoch = 0
    assert list(untold) == list(first)
    orders = []
    for seed, epoch in ((0, 1), (0, 2), (1, 1)):
        batches = LengthGroupedBatches(lengths, 8, seed)
        batches.epoch = epoch
        orders.append(list(batches))
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_fifty_batches_are_sorted_together_and_equal_lengths_stay_as_drawn() -> None:
    """Three groups, 150 + 150 + 4 rows of 5 lengths: rows are drawn first and then the order of their batches."""
    lengths = np.random.default_rng(7).integers(1, 6, 304)
    batches = LengthGroupedBatches(lengths, 3, seed=5)
    batches.epoch = 2
    rng = np.random.default_rng((5, 2))
    drawn = rng.permutation(304).tolist()
    groups = [sorted(drawn[start : start + 150], key=lambda row: lengths[row]) for start in (0, 150, 300)]
    rows = [row for group in groups for row in group]
    assert list(batches) == [rows[3 * place : 3 * place + 3] for place in rng.permutation(102)]


def test_length_grouping_pads_less_than_half_of_what_random_batches_do(encoded: EncodedTask) -> None:
    lengths = encoded.splits["train"].lengths
    order = np.random.default_rng(0).permutation(len(lengths))
    random = np.array_split(order, len(lengths) // 32)
    assert padding_share(lengths, list(LengthGroupedBatches(lengths, 32, 0))) < padding_share(lengths, random) / 2


def test_a_batch_s_place_says_nothing_of_its_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 8 * GROUP_BATCHES * 4)
    longest = [lengths[rows].max() for rows in LengthGroupedBatches(lengths, 8, 0)]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.25  # 200 batches: 0.14 is two standard errors


# ------------------------------------------------------------------------------------------ sorted batches
@given(row_lengths, st.integers(1, 40))
def test_sorted_batches_hold_every_row_once_longest_first(lengths: np.ndarray, size: int) -> None:
    batches = SortedBatches(lengths, size)
    found = [rows.tolist() for rows in batches]
    order = [row for rows in found for row in rows]
    assert sorted(order) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()
    assert len(found) == len(batches)
    assert [len(rows) for rows in found[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(found[-1]) <= size


@given(row_lengths, st.integers(1, 40), st.integers(1, 300))
def test_sorted_batches_are_as_large_as_rows_and_tokens_allow(lengths: np.ndarray, size: int, tokens: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pkdlib.engine.batches.TOKENS_AT_ONCE", tokens)
        found = [rows.tolist() for rows in SortedBatches(lengths, size)]
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    for rows in found[:-1]:
        longest = lengths[rows].max()
        assert len(rows) == 1 or len(rows) * longest <= tokens
        assert len(rows) == size or (len(rows) + 1) * longest > tokens


@pytest.mark.parametrize(("length", "rows"), [(64, 64), (17, 240), (241, 16), (4096, 1), (5000, 1)])
def test_a_pass_takes_4096_tokens_at_once(length: int, rows: int) -> None:
    """64 x 64 = 4,096; 17 x 241 = 4,097, one too many."""
    assert [len(batch) for batch in SortedBatches(np.full(2 * rows + 1, length), 1000)] == [rows, rows, 1]


def test_rows_of_equal_length_stay_in_the_file_s_order() -> None:
    lengths = np.array([3, 5] * 40)
    order = [row for batch in SortedBatches(lengths, 7) for row in batch.tolist()]
    assert order == [*range(1, 80, 2), *range(0, 80, 2)]


def test_sorting_pads_less_than_grouping(encoded: EncodedTask) -> None:
    lengths = encoded.splits["train"].lengths
    grouped, ordered = LengthGroupedBatches(lengths, 32, 0), SortedBatches(lengths, 32)
    assert padding_share(lengths, list(ordered)) < padding_share(lengths, list(grouped))


# --------------------------------------------------------------------------------- loaders, micro-batches
def test_a_loader_yields_the_sampler_s_batches(encoded: EncodedTask) -> None:
    split = encoded.splits["dev"]
    batches = SortedBatches(split.lengths, 300)
    for batch, rows in zip(make_loader(split, batches), batches, strict=True):
        assert batch.keys() == {"input_ids", "token_type_ids", "attention_mask", "labels", "rows"}
        assert all(torch.equal(tensor, split[rows][name]) for name, tensor in batch.items())


@pytest.mark.parametrize(
    ("size", "sizes"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (9, [5])]
)
def test_a_batch_is_cut_in_order_into_parts_of_at_most_size_rows(size: int | None, sizes: list[int]) -> None:
    batch = {"input_ids": torch.arange(15).view(5, 3), "rows": torch.arange(5)}
    parts = split_batch(batch, size)
    assert [len(part["rows"]) for part in parts] == sizes
    for name, tensor in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


def test_a_batch_of_unequal_columns_is_not_cut() -> None:
    with pytest.raises(ValueError, match="shorter"):
        split_batch({"input_ids": torch.arange(5), "rows": torch.arange(4)}, 2)


def test_rows_beyond_the_first_thousand_are_their_own(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = load_task("mini-inference").splits["train"]
    split = EncodedSplit(rows, tokenizer, 16)
    assert len(split) == len(rows) == 2000
    for row in (0, 999, 1000, 1999):
        alone = tokenizer(rows.texts[0][row], rows.texts[1][row], truncation=True, max_length=16)
        batch = split[[row]]
        assert {name: batch[name][0].tolist() for name in alone} == dict(alone)
