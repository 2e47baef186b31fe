"""The training loop on Accelerate: batches, updates, an evaluation per epoch, the best epoch's weights."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from pkdlib.cache import TeacherOutputs
from pkdlib.checkpoints import Checkpoint
from pkdlib.config import FineTuneConfig
from pkdlib.data import Batch, EncodedTask, LengthGroupedBatches, make_loader, split_batch
from pkdlib.evaluation import evaluate
from pkdlib.graphs import MULTIPLE, StaticUpdate, use_static_shapes
from pkdlib.losses import PKDTerms
from pkdlib.progress import progress_bar, say

NOT_READ = {"rows", "labels", "teacher_logits", "teacher_cls"}  # of a batch, by the model
OnEpoch = Callable[[int, PreTrainedModel], None]  # called before training as epoch 0, and after every epoch


class _Step(nn.Module):
    """A batch's terms and logits, by all that learns: one module, so that processes exchange gradients once."""

    def __init__(self, model: PreTrainedModel, objective: nn.Module):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> tuple[PKDTerms, Tensor]:
        inputs = {key: tensor for key, tensor in batch.items() if key not in NOT_READ}
        output = self.model(**inputs, output_hidden_states=True)
        return self.objective(output, batch), output.logits


def train(
    model: PreTrainedModel,
    data: EncodedTask,
    config: FineTuneConfig,
    accelerator: Accelerator,
    objective: nn.Module,
    name: str,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
    outputs: TeacherOutputs | None = None,
) -> tuple[list[dict[str, float]], int]:
    """Train `model` (and what the objective itself learns); leaves the best dev epoch's weights in it.

    objective: maps the model's output and the batch to PKDTerms. checkpoint: where every finished epoch is kept, and
    from where a training that was interrupted goes on. outputs: the teacher's, added to every batch. Returns a row of
    figures per epoch, and the best epoch: the first metric on dev decides, then the lower dev loss.
    """

    def quality(row: dict[str, float]) -> tuple[float, float]:
        return row[f"dev_{data.task.metrics[0]}"], -row["dev_loss"]

    rows, dev = data.splits["train"], data.splits["dev"]
    static = use_static_shapes(config, accelerator)
    if static:
        rows = rows.padded_to(MULTIPLE)
    batches = LengthGroupedBatches(rows.lengths, config.train_batch_size, config.seed, config.shuffle)
    step = _Step(model, objective)
    optimizer = torch.optim.AdamW(_parameter_groups(step, config.weight_decay), lr=config.learning_rate, fused=True)
    loader = accelerator.prepare_data_loader(make_loader(rows, batches, outputs and outputs.of))
    wrapped, optimizer = accelerator.prepare(step, optimizer)
    update = partial(_update, wrapped, optimizer, config, accelerator, not static)
    if static:
        update = StaticUpdate(update, config.train_batch_size, wrapped, accelerator.device)
    updates = len(loader) * config.num_train_epochs
    schedule = get_linear_schedule_with_warmup(optimizer, int(config.warmup_ratio * updates), updates)
    set_seed(config.seed, device_specific=True)
    history, best_weights = (checkpoint and checkpoint.load(step, optimizer, schedule)) or ([], {})
    if not history:
        _call(on_epoch, 0, model)
    elif accelerator.is_main_process:
        say(f"{name}: resumes after epoch {len(history)}/{config.num_train_epochs}")
    for epoch in range(len(history) + 1, config.num_train_epochs + 1):
        started = time.perf_counter()
        batches.epoch = epoch
        wrapped.train(config.dropout_epochs is None or epoch <= config.dropout_epochs)
        sums = torch.zeros(len(PKDTerms._fields) + 2, device=accelerator.device)  # terms, right answers, rows
        for batch in progress_bar(loader, f"{name}, epoch {epoch}"):
            sums += update(batch)
            optimizer.step()
            if not accelerator.optimizer_step_was_skipped:
                schedule.step()
        sums = accelerator.reduce(sums)
        means = (sums[:-1] / sums[-1]).tolist()
        figures = {f"train_{term}": mean for term, mean in zip((*PKDTerms._fields, "accuracy"), means, strict=True)}
        scores = evaluate(model, dev, data.task, config.eval_batch_size, accelerator)
        if not all(map(math.isfinite, (*means, scores["loss"]))):
            raise FloatingPointError(f"{name}: the loss is not finite in epoch {epoch}; try a lower learning_rate")
        figures |= {f"dev_{metric}": value for metric, value in scores.items()}
        history.append({"epoch": epoch, **figures, "seconds": time.perf_counter() - started})
        _call(on_epoch, epoch, model)
        is_best = max(history, key=quality) is history[-1]  # of equals, max takes the first
        if is_best:
            best_weights = {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}
        if checkpoint:
            checkpoint.save(step, optimizer, schedule, history, {} if is_best else best_weights)
        if accelerator.is_main_process:
            say(
                f"{name}: epoch {epoch}/{config.num_train_epochs}, train loss {means[0]:.4f}, dev "
                f"{data.task.metrics[0]} {scores[data.task.metrics[0]]:.4f}, {history[-1]['seconds']:.1f} s"
            )
    optimizer.zero_grad()
    model.load_state_dict(best_weights)
    model.eval()
    return history, max(history, key=quality)["epoch"]


def _call(on_epoch: OnEpoch | None, epoch: int, model: PreTrainedModel) -> None:
    """A look at the model must not change its training: whatever random numbers it draws are given back."""
    if on_epoch is not None:
        with torch.random.fork_rng():
            on_epoch(epoch, model)


def _update(
    step: nn.Module,
    optimizer: AcceleratedOptimizer,
    config: FineTuneConfig,
    accelerator: Accelerator,
    fresh_gradients: bool,
    batch: Batch,
) -> Tensor:
    """Leave the clipped gradient of a batch's mean loss; returns its summed terms, right answers and rows, (6,).

    Each micro-batch weighs by its rows, so that how a batch is cut does not change its gradient. fresh_gradients: in
    new tensors, not where the last ones were.
    """
    parts = split_batch(batch, config.micro_batch_size)
    size, sums = len(batch["rows"]), 0.0
    optimizer.zero_grad(set_to_none=fresh_gradients)
    for number, part in enumerate(parts, start=1):
        with nullcontext() if number == len(parts) else accelerator.no_sync(step):
            terms, logits = step(part)
            rows = len(part["rows"])
            accelerator.backward(terms.loss * (rows / size))
        right = (logits.detach().argmax(dim=-1) == part["labels"]).float().mean()
        sums = sums + torch.stack([term.detach() for term in (*terms, right, torch.ones_like(right))]) * rows
    accelerator.clip_grad_norm_(step.parameters(), config.max_grad_norm)
    return sums


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases and LayerNorm weights, the vectors, do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
