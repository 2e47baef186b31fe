"""A task's rows: as texts, as tokens, and as padded batches."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Self

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from pkdlib.engine.batches import Batch
from pkdlib.engine.checks import EXAMPLES, check_labels, check_texts, checked
from pkdlib.engine.configs import whole
from pkdlib.engine.files import digest
from pkdlib.tasks import Task

ENCODED_AT_ONCE = 1000  # rows: a tokenizer's lists take over twenty times the memory of the arrays made of them
BadRows = Literal["error", "skip"]


@dataclass(frozen=True)
class Split:
    """Rows of one split: one or two texts each, and class indices (rows,), or None where they are hidden."""

    name: str
    texts: tuple[list[str], ...]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts[0])

    @property
    def fingerprint(self) -> str:
        """A hash of the texts and labels, in their order."""
        return digest(json.dumps([self.texts, None if self.labels is None else self.labels.tolist()]).encode())

    def take(self, rows: Sequence[int] | np.ndarray) -> "Split":
        """The given rows, in their order there."""
        texts = tuple([column[row] for row in rows] for column in self.texts)
        return Split(self.name, texts, None if self.labels is None else self.labels[rows])


@dataclass(frozen=True)
class TaskData:
    """A task, its splits, and how they were read: `load_task`'s arguments."""

    task: Task
    splits: dict[str, Split]
    source: str
    subset_seed: int = 0
    bad_rows: BadRows = "error"

    def __post_init__(self) -> None:
        check_labels(self.splits, self.task, ("train", "dev"))


class EncodedSplit(Dataset):
    """A split as flat token arrays; `split[rows]` is their padded batch, a dict of (batch, length) tensors.

    A batch also holds `rows` (batch,), the positions in the split, which is how the teacher's cached outputs
    are found under any shuffling, and `labels` (batch,) where the split has them.
    """

    def __init__(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int):
        lengths: list[int] = []
        parts: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(split), ENCODED_AT_ONCE):
            texts = [column[start : start + ENCODED_AT_ONCE] for column in split.texts]
            encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
            lengths += map(len, encoded["input_ids"])
            for name, rows in encoded.items():
                parts.setdefault(name, []).append(np.fromiter(chain.from_iterable(rows), np.int32))
        self.name, self.labels = split.name, split.labels
        # Rows from all over the split, on which tokenizers are compared.
        self.example_rows = range(0, len(split), -(-len(split) // EXAMPLES))
        self.examples = tuple([column[row] for row in self.example_rows] for column in split.texts)
        self.max_length, self.pad_to_multiple_of = max_length, 1
        self.lengths = np.array(lengths, dtype=np.int32)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        self.padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        # Of the token ids, which follow from the texts, the tokenizer and the length.
        columns = (name.encode() + tokens.tobytes() for name, tokens in sorted(self.columns.items()))
        self.fingerprint = digest(self.lengths.tobytes(), *columns)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: list[int] | np.ndarray) -> Batch:
        rows = np.asarray(rows)
        multiples = -(-int(self.lengths[rows].max()) // self.pad_to_multiple_of)
        positions = np.arange(min(multiples * self.pad_to_multiple_of, int(self.lengths.max())))
        mask = positions < self.lengths[rows, None]  # (batch, length)
        flat = np.where(mask, self.offsets[rows, None] + positions, 0)
        batch = {name: np.where(mask, tokens[flat], self.padding[name]) for name, tokens in self.columns.items()}
        batch["attention_mask"] = mask
        tensors = {name: torch.from_numpy(array.astype(np.int64)) for name, array in batch.items()}
        tensors["rows"] = torch.from_numpy(rows)
        if self.labels is not None:
            tensors["labels"] = torch.from_numpy(self.labels[rows])
        return tensors

    __getitems__ = __getitem__  # a DataLoader fetches a whole batch at once

    def padded_to(self, multiple: int) -> Self:
        """The same rows, whose batches are of few lengths: multiples of so many tokens, or the longest row's."""
        split = copy.copy(self)
        split.pad_to_multiple_of = multiple
        return split


@dataclass(frozen=True)
class EncodedTask:
    """A task's tokenised splits, their tokenizer, and what a run's record says of them."""

    task: Task
    splits: dict[str, EncodedSplit]
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    reading: dict[str, Any]  # source, subset_seed and bad_rows, as given to load_task
    fingerprints: dict[str, str]  # of each split's texts and labels

    @property
    def tokens(self) -> str:
        """A hash of all splits' tokens."""
        return digest(*(split.fingerprint.encode() for _, split in sorted(self.splits.items())))


@checked
def encode_split(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> EncodedSplit:
    """Tokenise a split once; rows longer than max_length tokens are cut, the longer text of a pair first.

    Raises ValueError when max_length is not in 8..the model's own limit, or rows do not begin with [CLS].
    """
    whole("max_length", max_length, 8, tokenizer.model_max_length, f"the model's {tokenizer.model_max_length}")
    check_texts(split)
    encoded = EncodedSplit(split, tokenizer, max_length)
    if (encoded.columns["input_ids"][encoded.offsets] != tokenizer.cls_token_id).any():
        raise ValueError(f"{tokenizer.name_or_path}: its tokenizer does not begin every row with its [CLS] token")
    return encoded


@checked
def encode_task(data: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> EncodedTask:
    """Every split of a task tokenised as `encode_split` does."""
    splits = {name: encode_split(split, tokenizer, max_length) for name, split in data.splits.items()}
    fingerprints = {name: split.fingerprint for name, split in data.splits.items()}
    reading = {"source": data.source, "subset_seed": data.subset_seed, "bad_rows": data.bad_rows}
    return EncodedTask(data.task, splits, tokenizer, max_length, reading, fingerprints)
