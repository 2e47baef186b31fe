"""A task's rows: as texts, as tokens, and as padded batches."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from pkdlib.engine.batches import Batch as Batch
from pkdlib.engine.batches import no_labels
from pkdlib.engine.checks import check_labels, check_texts, checked
from pkdlib.engine.configs import whole
from pkdlib.engine.files import digest
from pkdlib.engine.tokens import EncodedSplit as EncodedSplit
from pkdlib.tasks import Task

BadRows = Literal["error", "skip"]
READING = ("source", "subset_seed", "bad_rows", "dataset_config", "dev_fraction", "unlabelled")  # fields of TaskData


@dataclass(frozen=True)
class Split:
    """Rows of one split: one or two texts each, or a passage and its choices; labels (rows,), or None where hidden."""

    name: str
    texts: tuple[list[str], ...]
    labels: np.ndarray | None  # class indices, places of the right choices, or values

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
    """A task, its splits ("unlabelled": further training rows), and how they were read: `load_task`'s arguments."""

    task: Task
    splits: dict[str, Split]
    source: str
    subset_seed: int = 0
    bad_rows: BadRows = "error"
    dataset_config: str = ""
    dev_fraction: float = 0.0
    unlabelled: str = ""

    def __post_init__(self) -> None:
        check_labels(self.splits, self.task, ("train", "dev"))


@dataclass(frozen=True)
class EncodedTask:
    """A task's tokenised splits, their tokenizer, and what a run's record says of them."""

    task: Task
    splits: dict[str, EncodedSplit]
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    reading: dict[str, Any]  # where and how, as given to load_task
    fingerprints: dict[str, str]  # of each split's texts and labels
    unlabelled_rows: int = 0  # the last of the training rows

    @property
    def tokens(self) -> str:
        """A hash of all splits' tokens."""
        return digest(*(split.fingerprint.encode() for _, split in sorted(self.splits.items())))


@checked
def encode_split(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> EncodedSplit:
    """Tokenise a split once; rows over max_length tokens are cut, the longer text of a pair (the passage) first.

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
    """Every split of a task tokenised as `encode_split` does, unlabelled rows behind those of train."""
    fingerprints = {name: split.fingerprint for name, split in data.splits.items()}
    splits, train, more = dict(data.splits), data.splits["train"], data.splits.get("unlabelled")
    labels = no_labels(len(train), data.task.is_regression) if train.labels is None else train.labels
    texts = train.texts
    if more:
        del splits["unlabelled"]
        texts = tuple([*ours, *theirs] for ours, theirs in zip(texts, more.texts, strict=True))
        labels = np.concatenate([labels, no_labels(len(more), data.task.is_regression)])
    splits["train"] = Split("train", texts, labels)
    encoded = {name: encode_split(split, tokenizer, max_length) for name, split in splits.items()}
    reading = {name: getattr(data, name) for name in READING}
    return EncodedTask(data.task, encoded, tokenizer, max_length, reading, fingerprints, len(more or ()))
