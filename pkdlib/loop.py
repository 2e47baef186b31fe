"""The training loop, on Accelerate: batches, updates, an evaluation per epoch, the best epoch's weights."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from pkdlib.config import FineTuneConfig
from pkdlib.data import Batch, EncodedTask
from pkdlib.engine.batches import LengthGroupedBatches, has_label, make_loader
from pkdlib.engine.checkpoints import Checkpoint, History
from pkdlib.engine.checks import check_terms
from pkdlib.engine.last_layer import run
from pkdlib.engine.progress import progress_bar
from pkdlib.engine.trackers import OnEpoch, look
from pkdlib.engine.updates import MULTIPLE, GradientOf, StaticUpdate, keep_gradient, parameter_groups, use_static_shapes
from pkdlib.evaluation import evaluate
from pkdlib.objectives import Objective
from pkdlib.targets import Targets


@dataclass(frozen=True)
class Job:
    """One training: a model, its rows, what it is trained on, and how."""

    method: str
    model: PreTrainedModel
    data: EncodedTask
    config: FineTuneConfig
    accelerator: Accelerator
    objective: Objective
    targets: Targets | None = None  # the teacher's outputs, added to every batch
    taught: dict[str, str] = field(default_factory=dict)  # the teacher's fingerprints, by name
    checkpoint: Checkpoint | None = None  # where every finished epoch is kept, and from where a training goes on
    on_epoch: OnEpoch | None = None

    @property
    def name(self) -> str:
        """What the training is called where it is printed, and in its record."""
        layers = self.model.config.num_hidden_layers
        return f"{self.data.task.name} {self.method} {layers} layers seed {self.config.seed}"

    def batches(self, multiple: int) -> tuple[LengthGroupedBatches, DataLoader]:
        """Which training rows form a batch, and what loads them: padded so, the teacher's outputs beside them."""
        config, rows, outputs = self.config, self.data.splits["train"], self.targets.of if self.targets else None
        rows = (rows if outputs or self.objective.runs_teacher else rows.labelled()).weighted(
            config.class_weights, self.data.task.num_labels
        )
        batches = LengthGroupedBatches(rows.lengths, config.train_batch_size, config.seed, config.shuffle)
        return batches, self.accelerator.prepare_data_loader(make_loader(rows.padded_to(multiple), batches, outputs))

    def figures(self, epoch: int, sums: Tensor) -> dict[str, float]:
        """An epoch's mean terms and accuracy on the training rows, and its scores on dev."""
        means, data, task = (sums[:-1] / sums[-1]).tolist(), self.data, self.data.task
        scores = evaluate(self.model, data.splits["dev"], task, self.config.eval_batch_size, self.accelerator)
        if not all(map(math.isfinite, (*means, scores["loss"]))):
            raise FloatingPointError(f"{self.name}: the loss is not finite in epoch {epoch}; try a lower learning_rate")
        train_figures = zip((*self.objective.names, "accuracy"), means, strict=True)
        figures = {f"train_{name}": mean for name, mean in train_figures}
        right, labelled = figures.pop("train_accuracy"), has_label(np.asarray(data.splits["train"].labels)).mean()
        if labelled and not task.is_regression:  # else nothing is right or wrong
            figures["train_accuracy"] = right / (labelled if self.targets or self.objective.runs_teacher else 1.0)
        return figures | {f"dev_{name}": score for name, score in scores.items()}

    def quality(self, row: dict[str, float]) -> tuple[float, float]:
        """What makes an epoch the best: the task's first metric on dev, then the lower dev loss."""
        return row[f"dev_{self.data.task.metrics[0]}"], -row["dev_loss"]

    def told(self, row: dict[str, float]) -> str:
        """An epoch's row of the history, as it is printed."""
        score = f"dev {self.data.task.metrics[0].replace('_', ' ')} {self.quality(row)[0]:.4f}"
        return f"train loss {row['train_loss']:.4f}, {score}, {row['seconds']:.1f} s"


def train(job: Job) -> tuple[History, int]:
    """Train the job's model and what its objective itself learns; leave the best epoch's weights in the model.

    Returns a row of figures per epoch, and the best epoch.
    """
    config, accelerator, model = job.config, job.accelerator, job.model
    static = use_static_shapes(config.static_shapes, accelerator)
    batches, loader = job.batches(MULTIPLE if static else 1)
    step = _Step(model, job.objective)
    optimizer = torch.optim.AdamW(parameter_groups(step, config.weight_decay), lr=config.learning_rate, fused=True)
    wrapped, optimizer = accelerator.prepare(step, optimizer)
    how = (config.micro_batch_size, config.max_grad_norm, static, keep_gradient(model, accelerator))
    update: Callable[[Batch], Tensor] = GradientOf(wrapped, optimizer, accelerator, *how)
    update = StaticUpdate(update, config.train_batch_size, wrapped, accelerator.device) if static else update
    updates = len(loader) * config.num_train_epochs
    schedule = get_linear_schedule_with_warmup(optimizer, int(config.warmup_ratio * updates), updates)
    set_seed((config.seed + accelerator.process_index) % 2**32)  # NumPy takes no larger one
    resumed = job.checkpoint.load(step, optimizer, schedule) if job.checkpoint else None
    history, best_weights = resumed or ([], {})
    if resumed:
        accelerator.print(f"{job.name}: resumes after epoch {len(history)}/{config.num_train_epochs}", flush=True)
    else:
        look(job.on_epoch, 0, model, {})

    for epoch in range(len(history) + 1, config.num_train_epochs + 1):
        started = time.perf_counter()
        batches.epoch = epoch
        job.objective.begin(epoch)
        wrapped.train(config.dropout_epochs is None or epoch <= config.dropout_epochs)
        sums = torch.zeros(len(job.objective.names) + 2, device=accelerator.device)  # terms, right answers, rows
        for batch in progress_bar(loader, f"{job.name}, epoch {epoch}"):
            sums += update(batch)  # leaves the gradient of the batch's mean loss, clipped
            optimizer.step()
            if not accelerator.optimizer_step_was_skipped:
                schedule.step()
        figures = job.figures(epoch, accelerator.reduce(sums))
        history.append({"epoch": epoch, **figures, "seconds": time.perf_counter() - started})
        look(job.on_epoch, epoch, model, history[-1])
        is_best = max(history, key=job.quality) is history[-1]  # of equals, max takes the first
        if is_best:
            best_weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        if job.checkpoint:
            job.checkpoint.save(step, optimizer, schedule, history, {} if is_best else best_weights)
        accelerator.print(f"{job.name}: epoch {epoch}/{config.num_train_epochs}, {job.told(history[-1])}", flush=True)

    optimizer.zero_grad()
    model.eval().load_state_dict(best_weights)
    return history, int(max(history, key=job.quality)["epoch"])


class _Step(nn.Module):
    """All that learns, as one module, so that processes exchange gradients once."""

    def __init__(self, model: PreTrainedModel, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, all terms (terms,) without gradients, and the logits (batch, classes) of a batch."""
        others = {"rows", "labels", "label_weights", *self.objective.wants}  # batch entries that are not model inputs
        inputs = {name: tensor for name, tensor in batch.items() if name not in others}
        output = run(self.model, inputs, **self.objective.asks)
        terms = check_terms(self.objective, self.objective(output, batch))
        return terms[0], torch.stack([term.detach() for term in terms]), output.logits.detach()
