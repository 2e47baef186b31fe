"""A split's rows as token arrays, and as padded batches of them."""

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from pkdlib.engine.batches import Batch, has_label, label_weights
from pkdlib.engine.checks import EXAMPLES
from pkdlib.engine.files import digest

ENCODED_AT_ONCE = 1000  # rows: a tokenizer's lists take over twenty times the memory of the arrays made of them


def as_sequences(texts: Sequence[Sequence[str]]) -> tuple[Sequence[str], ...]:
    """The columns that a tokenizer takes: one or two as they are; of a passage and its choices a pair for each choice.

    The pairs of a row follow each other: (rows * choices,).
    """
    passages, *choices = texts
    if len(choices) < 2:
        return tuple(texts)
    return [passage for passage in passages for _ in choices], [*chain.from_iterable(zip(*choices, strict=True))]


class EncodedSplit(Dataset):
    """A `Split` as flat token arrays; `split[rows]` is their padded batch, a dict of (batch, length) tensors.

    Of a passage and its choices they are (batch, choices, length): the passage with each choice. A batch also holds
    `rows` (batch,), the positions in the split, which is how the teacher's cached outputs are found under any
    shuffling, and `labels` (batch,) where the split has them; a row without one has -100 or NaN.
    """

    def __init__(self, split: Any, tokenizer: PreTrainedTokenizerBase, max_length: int):
        lengths: list[int] = []
        parts: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(split), ENCODED_AT_ONCE):
            texts = [column[start : start + ENCODED_AT_ONCE] for column in split.texts]
            encoded = tokenizer(
                *as_sequences(texts), truncation=True, max_length=max_length, return_attention_mask=False
            )
            lengths += map(len, encoded["input_ids"])
            for name, rows in encoded.items():
                parts.setdefault(name, []).append(np.fromiter(chain.from_iterable(rows), np.int32))
        self.name: str = split.name
        self.labels: np.ndarray | None = split.labels
        self.label_weights: np.ndarray | None = None  # (rows,), in the label term; None: all alike
        self.max_length, self.pad_to_multiple_of = max_length, 1
        self.choices = len(split.texts) - 1 if len(split.texts) > 2 else 0  # sequences of a row; 0: one, no choice
        self.sequence_lengths = np.array(lengths, dtype=np.int32)
        self.offsets = np.concatenate([[0], np.cumsum(self.sequence_lengths)[:-1]])
        # Sequences of rows from all over the split, on which tokenizers are compared.
        rows = range(0, len(split), -(-len(split) // EXAMPLES))
        self.examples = as_sequences(tuple([column[row] for row in rows] for column in split.texts))
        self.example_places = np.arange(len(lengths)).reshape(len(split), -1)[rows].ravel()
        if self.choices:
            shape = len(split), self.choices
            self.sequence_lengths, self.offsets = self.sequence_lengths.reshape(shape), self.offsets.reshape(shape)
        self.lengths = self.sequence_lengths.reshape(len(split), -1).max(axis=1)  # (rows,), of the longest sequence
        self.columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        self.padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        # Of the token ids, which follow from the texts, the tokenizer and the length.
        columns = (name.encode() + tokens.tobytes() for name, tokens in sorted(self.columns.items()))
        self.fingerprint = digest(self.sequence_lengths.tobytes(), *columns)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: list[int] | np.ndarray) -> Batch:
        rows = np.asarray(rows)
        multiples = -(-int(self.lengths[rows].max()) // self.pad_to_multiple_of)
        positions = np.arange(min(multiples * self.pad_to_multiple_of, int(self.lengths.max())))
        mask = positions < self.sequence_lengths[rows][..., None]  # (batch, length) or (batch, choices, length)
        flat = np.where(mask, self.offsets[rows][..., None] + positions, 0)
        batch = {name: np.where(mask, tokens[flat], self.padding[name]) for name, tokens in self.columns.items()}
        batch["attention_mask"] = mask
        tensors = {name: torch.from_numpy(array.astype(np.int64)) for name, array in batch.items()}
        tensors["rows"] = torch.from_numpy(rows)
        if self.labels is not None:
            tensors["labels"] = torch.from_numpy(self.labels[rows])
        if self.label_weights is not None:
            tensors["label_weights"] = torch.from_numpy(self.label_weights[rows])
        return tensors

    __getitems__ = __getitem__  # a DataLoader fetches a whole batch at once

    def padded_to(self, multiple: int) -> Self:
        """The same rows, whose batches are of few lengths: multiples of so many tokens, or the longest row's."""
        split = copy.copy(self)
        split.pad_to_multiple_of = multiple
        return split

    def labelled(self) -> Self:
        """The rows that have a label, in their order."""
        labels = np.asarray(self.labels)
        split, rows = copy.copy(self), has_label(labels)
        split.lengths, split.sequence_lengths = self.lengths[rows], self.sequence_lengths[rows]
        split.offsets, split.labels = self.offsets[rows], labels[rows]
        return split

    def weighted(self, class_weights: list, classes: int) -> Self:
        """The same rows with their `label_weights`."""
        split = copy.copy(self)
        split.label_weights = label_weights(np.asarray(self.labels), class_weights, classes)
        return split
