"""A split's rows as token arrays, and as padded batches of them."""

import copy
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


class EncodedSplit(Dataset):
    """A `Split` as flat token arrays; `split[rows]` is their padded batch, a dict of (batch, length) tensors.

    A batch also holds `rows` (batch,), the positions in the split, which is how the teacher's cached outputs
    are found under any shuffling, and `labels` (batch,) where the split has them; a row without one has -100 or NaN.
    """

    def __init__(self, split: Any, tokenizer: PreTrainedTokenizerBase, max_length: int):
        lengths: list[int] = []
        parts: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(split), ENCODED_AT_ONCE):
            texts = [column[start : start + ENCODED_AT_ONCE] for column in split.texts]
            encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
            lengths += map(len, encoded["input_ids"])
            for name, rows in encoded.items():
                parts.setdefault(name, []).append(np.fromiter(chain.from_iterable(rows), np.int32))
        self.name: str = split.name
        self.labels: np.ndarray | None = split.labels
        self.label_weights: np.ndarray | None = None  # (rows,), in the label term; None: all alike
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
        split.lengths, split.offsets, split.labels = self.lengths[rows], self.offsets[rows], labels[rows]
        return split

    def weighted(self, class_weights: list, classes: int) -> Self:
        """The same rows with their `label_weights`."""
        split = copy.copy(self)
        split.label_weights = label_weights(np.asarray(self.labels), class_weights, classes)
        return split
