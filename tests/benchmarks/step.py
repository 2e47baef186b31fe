"""Times an epoch of patient distillation, in float32 and bf16, beside fine-tuning and a plain loop."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from pkdlib.config import method_config
from pkdlib.engine.batches import LengthGroupedBatches, make_loader
from pkdlib.engine.machine import make_accelerator
from pkdlib.loop import Job, train
from pkdlib.losses import pkd_loss
from pkdlib.models import cls_states
from pkdlib.targets import Targets
from tests.benchmarks.common import arguments, enough_rows, ratio_figures, take_turns, write
from tests.benchmarks.contenders import Case, random_case, read_given


def kit_epochs(case: Case, targets: Targets | None, student: PreTrainedModel) -> list[float]:
    """Train a copy of the student by this kit's loop; return every epoch's mean loss. Without targets, fine-tune it."""
    if targets is None:
        case = replace(case, config=method_config("FT", case.config))
    model, config = copy.deepcopy(student), case.config
    accelerator = make_accelerator(config.mixed_precision)
    history, _ = train(Job("epoch", model, case.data, config, accelerator, case.objective(model), targets))
    return [row["train_loss"] for row in history]


def plain_epochs(case: Case, targets: Targets, student: PreTrainedModel) -> list[float]:
    """Do what `kit_epochs` does in a loop as anyone would write it: the reference for the kit's losses and speed."""
    config, split = case.config, case.data.splits["train"]
    device = make_accelerator().device
    model = copy.deepcopy(student).to(device)
    objective = case.objective(model)
    matrices = [weights for weights in model.parameters() if weights.ndim >= 2]
    vectors = [weights for weights in model.parameters() if weights.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    batches = LengthGroupedBatches(split.lengths, config.train_batch_size, config.seed)
    updates = len(batches) * config.num_train_epochs
    schedule = get_linear_schedule_with_warmup(optimizer, int(config.warmup_ratio * updates), updates)
    torch.manual_seed(config.seed)
    losses = []
    for epoch in range(1, config.num_train_epochs + 1):
        batches.epoch, total = epoch, 0.0
        model.train()
        for batch in make_loader(split, batches):
            rows = batch.pop("rows")
            wanted = {name: tensor.to(device) for name, tensor in targets.of(rows).items()}
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            labels = batch.pop("labels")
            output = model(**batch, output_hidden_states=True)
            states = [wanted[f"teacher_cls_{layer}"] for layer in objective.layers]
            cls = torch.stack(states, dim=1)  # (batch, layers, hidden)
            student_cls = cls_states(output.hidden_states, range(1, len(states) + 1))  # of the same shape
            logits = wanted["teacher_logits"]
            terms = pkd_loss(output.logits, labels, logits, student_cls, cls, **objective.weights)
            terms.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += terms.loss.detach() * len(rows)
        losses.append(float(total) / len(split))
    return losses


def contenders(case: Case, folder: Path) -> dict[str, Callable[[], object]]:
    """The trainings to be timed, each of the same student on the same batches, with the teacher's outputs at hand."""
    student = case.student()
    targets = case.targets(case.objective(student), folder)
    half = replace(case, config=case.config.model_copy(update={"mixed_precision": "bf16"}))
    return {
        "PKD": lambda: kit_epochs(case, targets, student),
        "PKD in bf16": lambda: kit_epochs(half, targets, student),
        "fine-tuning": lambda: kit_epochs(case, None, student),
        "plain loop": lambda: plain_epochs(case, targets, student),
    }


def main() -> None:
    given = arguments("step", __doc__, "glue", "backbone", "rounds", "rows")
    data = read_given(given, enough_rows(given, 640))
    with tempfile.TemporaryDirectory() as folder:
        case = random_case(data, given.backbone, Path(folder) / "backbone", num_train_epochs=1)
        times = take_turns(contenders(case, Path(folder)), given.rounds, warmup=1)
    figures = ratio_figures("pkd_step_vs_finetune_step", times, "PKD", "fine-tuning")
    figures += ratio_figures("pkd_step_vs_plain_loop", times, "plain loop", "PKD")
    figures += ratio_figures("pkd_step_float32_vs_bf16", times, "PKD", "PKD in bf16")
    sizes = {"rows": len(data.splits["train"]), "batch": case.config.train_batch_size}
    write("step", figures, given, task=data.task.name, **sizes)


if __name__ == "__main__":
    main()
