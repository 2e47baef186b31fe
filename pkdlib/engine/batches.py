"""Which rows form a batch, and in which order batches come."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

TOKENS_AT_ONCE = 4096  # in a pass without gradients: more at once is slower on a CPU (tests/benchmarks/README.md)
GROUP_BATCHES = 50  # batches sorted together by length: more pads less, fewer shuffles better

Batch = dict[str, Tensor]


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches of rows of similar length, in an order drawn anew from (seed, epoch).

    transformers' LengthGroupedSampler hands each group out longest first; here the batches of the whole epoch
    are shuffled, so that a batch's place says nothing of its length. Without `shuffle`, rows keep the file's order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, shuffle: bool = True):
        # Not `batch_size`: of a sampler with one, Accelerate expects every batch but the last to be full, and
        # across processes it drops those beside the short one, which here is anywhere.
        self.lengths, self.rows_per_batch, self.seed, self.shuffle = lengths, batch_size, seed, shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.rows_per_batch)

    def __iter__(self) -> Iterator[list[int]]:
        if not self.shuffle:
            rows = range(len(self.lengths))
            return iter([list(rows[start : start + self.rows_per_batch]) for start in rows[:: self.rows_per_batch]])
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        size = self.rows_per_batch
        group = size * GROUP_BATCHES
        batches = []
        for start in range(0, len(order), group):
            rows = order[start : start + group]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [rows[i : i + size].tolist() for i in range(0, len(rows), size)]
        return iter([batches[index] for index in rng.permutation(len(batches))])


class SortedBatches(Sampler[list[int]]):
    """Every row once, longest first: the least padding where order does not matter.

    Batches have at most batch_size rows, and fewer where these would be more than TOKENS_AT_ONCE tokens.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int):
        order = np.argsort(-lengths, kind="stable")
        self.batches, start = [], 0
        while start < len(order):
            rows = min(batch_size, max(1, TOKENS_AT_ONCE // int(lengths[order[start]])))
            self.batches.append(order[start : start + rows])
            start += rows

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def split_batch(batch: Mapping[str, Tensor], size: int | None) -> list[Batch]:
    """The batch cut into micro-batches of at most `size` rows, in order; None leaves it whole."""
    if size is None:
        return [dict(batch)]
    parts = {name: tensor.split(size) for name, tensor in batch.items()}
    return [dict(zip(parts, part, strict=True)) for part in zip(*parts.values(), strict=True)]


def make_loader(
    split: Dataset, batches: Sampler[list[int]], add: Callable[[Tensor], Batch] | None = None
) -> DataLoader:
    """A loader of the split's padded batches, in the sampler's order.

    add: what else belongs to the rows (batch,), by name. With CUDA, batches lie in pinned memory, from where they are
    copied while the device computes.
    """

    def complete(batch: Batch) -> Batch:
        return batch | add(batch["rows"]) if add else batch

    return DataLoader(split, batch_sampler=batches, collate_fn=complete, pin_memory=torch.cuda.is_available())
