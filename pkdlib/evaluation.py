"""Passes over a split without gradients: predictions, scores, [CLS] states."""

from collections.abc import Generator, Mapping

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import PreTrainedModel

from pkdlib.data import EncodedSplit
from pkdlib.engine.batches import SortedBatches, make_loader
from pkdlib.engine.checks import Count, check_labels, check_reads, checked, class_names, with_labels
from pkdlib.engine.last_layer import run
from pkdlib.engine.machine import make_accelerator
from pkdlib.engine.progress import progress_bar
from pkdlib.losses import ce_loss, value_loss
from pkdlib.models import Output
from pkdlib.tasks import Task


@checked
def forward_split(
    model: PreTrainedModel, split: EncodedSplit, batch_size: Count = 128, accelerator: Accelerator | None = None,
    asks: Mapping[str, bool] | None = None, label: str = "evaluating",
) -> Generator[tuple[Tensor, Output]]:  # fmt: skip
    """Yield (rows, output) of every batch, longest rows first, in evaluation mode; restore the model's mode after.

    rows: (batch,) positions in the split, on the CPU; the output is on the model's device. batch_size: rows at most;
    of long ones fewer go together (`SortedBatches`). asks: flags of the forward pass, `run`'s. Raises ValueError,
    before any pass, when the model cannot read these rows.
    """
    check_reads(model, [split], model.name_or_path or type(model).__name__)
    accelerator = accelerator or make_accelerator()
    model = model.to(accelerator.device)  # not in inference mode, in which what moves could not be trained again
    was_training, tokens = model.training, split.lengths * max(1, split.choices)
    model.eval()
    try:
        for batch in progress_bar(make_loader(split, SortedBatches(tokens, batch_size)), label):
            rows = batch.pop("rows")
            batch.pop("labels", None)
            batch = send_to_device(batch, accelerator.device, non_blocking=accelerator.non_blocking)
            with torch.inference_mode(), accelerator.autocast():
                output = run(model, batch, **(asks or {}))
            yield rows, output
    finally:
        model.train(was_training)


@checked
def predict(
    model: PreTrainedModel, split: EncodedSplit, batch_size: Count = 128, accelerator: Accelerator | None = None
) -> Tensor:
    """Logits (rows, classes or choices) of a split, in its order and the model's classes', float32 on the CPU."""
    logits = torch.empty(len(split), split.choices or len(class_names(model)))
    for rows, output in forward_split(model, split, batch_size, accelerator, {"cls_alone": True}):
        logits[rows] = output.logits.float().cpu()
    return logits


@checked
def evaluate(
    model: PreTrainedModel, split: EncodedSplit, task: Task, batch_size: Count = 128,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:  # fmt: skip
    """The task's metrics (fractions) and the labels' mean loss ("loss") over a labelled split.

    The model's classes are matched with the task's by name. Raises ValueError where their names differ, and on an
    unlabelled split.
    """
    check_labels({split.name: split}, task, [split.name])
    logits = predict(with_labels(model, task.label_names), split, batch_size, accelerator)
    return score(logits, np.asarray(split.labels), task)


def score(logits: Tensor, labels: np.ndarray, task: Task) -> dict[str, float]:
    """The task's metrics and the labels' mean loss ("loss") of logits (rows, classes) in the task's order."""
    label_loss = value_loss if task.is_regression else ce_loss
    metrics = task.compute_metrics(labels, task.decide(logits))
    return {"loss": label_loss(logits, torch.from_numpy(labels)).item(), **metrics}
