"""Which rows form a batch, and in which order batches come."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

TOKENS_AT_ONCE = 4096  # in a pass without gradients: more at once is slower on a CPU (tests/benchmarks/README.md)
NO_LABEL = -100  # which torch's cross-entropy leaves out
GROUP_BATCHES = 50  # batches sorted together by length: more pads less, fewer shuffles better
Batch = dict[str, Tensor]


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches of rows of similar length, drawn anew from (seed, epoch); without `shuffle`, rows in the file's order."""

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, shuffle: bool = True):
        # Not `batch_size`: with that, Accelerate expects the short batch last, and drops others across processes.
        self.lengths, self.rows_per_batch, self.seed, self.shuffle = lengths, batch_size, seed, shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.rows_per_batch)

    def __iter__(self) -> Iterator[list[int]]:
        rows, order = np.arange(len(self.lengths)), range(len(self))
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            groups = rows // (self.rows_per_batch * GROUP_BATCHES)
            rows = rng.permutation(len(rows))
            rows = rows[np.lexsort((self.lengths[rows], groups))]  # by length within each group
            order = rng.permutation(len(self))  # transformers' LengthGroupedSampler goes longest first
        return (rows[self.rows_per_batch * place :][: self.rows_per_batch].tolist() for place in order)


class SortedBatches(list[np.ndarray]):
    """Every row once, longest first, for the least padding: at most batch_size rows and TOKENS_AT_ONCE tokens."""

    def __init__(self, lengths: np.ndarray, batch_size: int):
        order = np.argsort(-lengths, kind="stable")
        while len(order):
            rows = min(batch_size, max(1, TOKENS_AT_ONCE // int(lengths[order[0]])))
            self.append(order[:rows])
            order = order[rows:]


def has_label(labels: np.ndarray) -> np.ndarray:
    """Which rows have a label, (rows,); one without has -100, or NaN where labels are values."""
    return ~np.isnan(labels) if labels.dtype.kind == "f" else labels != NO_LABEL


def no_labels(rows: int, of_values: bool) -> np.ndarray:
    """The labels of so many rows that have none, (rows,)."""
    return np.full(rows, np.nan, np.float32) if of_values else np.full(rows, NO_LABEL, np.int64)


def label_weights(labels: np.ndarray, class_weights: list, classes: int) -> np.ndarray | None:
    """What each row weighs in the label term, (rows,), so that its mean is that of the labelled rows; None: all alike.

    class_weights: one for each class, or ["balanced"], by which all classes weigh the same and rows 1 on average.
    """
    known = has_label(labels)
    if known.all() and not class_weights:
        return None
    weights = known * np.float32(len(labels) / max(1, known.sum()))
    if not class_weights:
        return weights
    counts = np.bincount(labels[known], minlength=classes)
    each = known.sum() / (classes * counts.clip(min=1)) if class_weights == ["balanced"] else class_weights
    return weights * np.asarray(each, np.float32)[np.where(known, labels, 0)]


def split_batch(batch: Mapping[str, Tensor], size: int | None) -> list[Batch]:
    """The batch cut into micro-batches of at most `size` rows, in order; None leaves it whole."""
    parts = [tensor.split(size or len(tensor)) for tensor in batch.values()]
    return [dict(zip(batch, part, strict=True)) for part in zip(*parts, strict=True)]


def make_loader(split: Dataset, batches: Iterable, add: Callable[[Tensor], Batch] | None = None) -> DataLoader:
    """A loader of the split's padded batches, in that order. add: what else belongs to the rows (batch,), by name."""
    complete = (lambda batch: batch | add(batch["rows"])) if add else (lambda batch: batch)
    return DataLoader(split, batch_sampler=batches, collate_fn=complete, pin_memory=torch.cuda.is_available())
