"""Passes over a split without gradients: predictions, scores, [CLS] states."""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, send_to_device
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from pkdlib.config import ConfigError
from pkdlib.data import EncodedSplit, SortedBatches, encode_split, make_loader
from pkdlib.models import cls_states, load_encoder, load_tokenizer
from pkdlib.progress import progress_bar
from pkdlib.sources import Split
from pkdlib.tasks import Task


def make_accelerator(mixed_precision: str = "no") -> Accelerator:
    """The device, in the given precision; ConfigError when the machine cannot do it."""
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("mixed_precision = 'fp16': needs a CUDA device; allowed here: no, bf16")
    AcceleratorState._reset_state()  # a process may run several precisions, one after the other
    copies = DataLoaderConfiguration(non_blocking=torch.cuda.is_available())  # then batches lie in pinned memory
    return Accelerator(mixed_precision=mixed_precision, dataloader_config=copies)


def forward_split(
    model: PreTrainedModel,
    split: EncodedSplit,
    batch_size: int = 128,
    accelerator: Accelerator | None = None,
    hidden_states: bool = False,
    label: str = "evaluating",
) -> Iterator[tuple[Tensor, ModelOutput]]:
    """(rows, output) of every batch, longest rows first, in evaluation mode; the model's mode is restored after.

    rows: (batch,) positions in the split, on the CPU; the output is on the model's device. batch_size: rows at most;
    of long ones fewer go together (`SortedBatches`).
    """
    accelerator = accelerator or make_accelerator()
    model = model.to(accelerator.device)  # not in inference mode, in which what moves could not be trained again
    was_training = model.training
    model.eval()
    try:
        for batch in progress_bar(make_loader(split, SortedBatches(split.lengths, batch_size)), label):
            rows = batch.pop("rows")
            batch.pop("labels", None)
            batch = send_to_device(batch, accelerator.device, non_blocking=accelerator.non_blocking)
            with torch.inference_mode(), accelerator.autocast():
                output = model(**batch, output_hidden_states=hidden_states)
            yield rows, output
    finally:
        model.train(was_training)


def predict(
    model: PreTrainedModel, split: EncodedSplit, batch_size: int = 128, accelerator: Accelerator | None = None
) -> Tensor:
    """Logits (rows, classes) of a split, labelled or not, in its order, float32 on the CPU."""
    logits = torch.empty(len(split), model.config.num_labels)
    for rows, output in forward_split(model, split, batch_size, accelerator):
        logits[rows] = output.logits.float().cpu()
    return logits


def evaluate(
    model: PreTrainedModel,
    split: EncodedSplit,
    task: Task,
    batch_size: int = 128,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """The task's metrics (fractions in 0..1) and the mean cross-entropy ("loss") over a labelled split.

    Raises ValueError on an unlabelled split: its score would mean nothing; use `predict`.
    """
    if split.labels is None:
        raise ValueError(
            f"the {split.name} split of task {task.name} has no labels: it cannot be scored, only predicted"
        )
    logits = predict(model, split, batch_size, accelerator)
    metrics = task.compute_metrics(split.labels, logits.argmax(dim=-1).numpy())
    return {"loss": F.cross_entropy(logits, torch.from_numpy(split.labels)).item(), **metrics}


def split_cls_states(
    model: PreTrainedModel, split: EncodedSplit, batch_size: int = 128, accelerator: Accelerator | None = None
) -> Tensor:
    """[CLS] states (rows, layers, hidden) of every layer for every row, float32 on the CPU."""
    config = model.config
    states = torch.empty(len(split), config.num_hidden_layers, config.hidden_size)
    for rows, output in forward_split(model, split, batch_size, accelerator, hidden_states=True):
        states[rows] = cls_states(output.hidden_states).float().cpu()
    return states


def checkpoint_cls_states(checkpoint: str | Path, split: Split, max_length: int = 128, batch_size: int = 128) -> Tensor:
    """[CLS] states (rows, layers, hidden) of the rows in any encoder's checkpoint, with or without a head.

    checkpoint: hub id or local folder; its own tokenizer encodes the rows. Float32 on the CPU.
    Raises ValueError when max_length is beyond the checkpoint's limit or weights of its layers are missing.
    """
    encoded = encode_split(split, load_tokenizer(checkpoint), max_length)
    return split_cls_states(load_encoder(checkpoint), encoded, batch_size)
