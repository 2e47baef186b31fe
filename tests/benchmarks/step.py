"""An epoch of patient distillation, in float32 and bf16, beside fine-tuning and a plain loop of equal arithmetic."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from pkdlib.config import method_config
from pkdlib.engine.batches import make_loader
from pkdlib.engine.batches import LengthGroupedBatches
from pkdlib.engine.machine import make_accelerator
from pkdlib.loop import train
from pkdlib.losses import pkd_loss
from pkdlib.models import cls_states
from pkdlib.objectives import Objective
from pkdlib.targets import TeacherOutputs, teacher_outputs
from tests.benchmarks.common import arguments, enough_rows, ratio_figures, take_turns, write
from tests.benchmarks.contenders import Case, random_case, read_rows

TERMS = {"alpha", "beta", "temperature", "normalize", "form", "t_squared"}


def kit_epochs(case: Case, outputs: TeacherOutputs | None, student: PreTrainedModel) -> list[float]:
    """Mean training loss of every epoch of this kit's loop, from the student's weights; fine-tuning without outputs."""
    config = case.config if outputs else method_config("FT", case.config)
    layers = range(1, len(case.layers()) + 1) if outputs else ()
    objective = Objective(config.model_dump(include=TERMS), layers)
    accelerator = make_accelerator(config.mixed_precision)
    history, _ = train(copy.deepcopy(student), case.data, config, accelerator, objective, "epoch", outputs=outputs)
    return [row["train_loss"] for row in history]


def plain_epochs(case: Case, outputs: TeacherOutputs, student: PreTrainedModel) -> list[float]:
    """The same by a loop as anyone would write it: the reference to which the kit's is held."""
    config, split = case.config, case.data.splits["train"]
    device = make_accelerator().device
    model = copy.deepcopy(student).to(device)
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
            logits, cls = (tensor[rows].to(device) for tensor in (outputs.logits, outputs.cls))
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            labels = batch.pop("labels")
            output = model(**batch, output_hidden_states=True)
            student_cls = cls_states(output.hidden_states, range(1, cls.shape[1] + 1))
            terms = pkd_loss(output.logits, labels, logits, student_cls, cls, **config.model_dump(include=TERMS))
            terms.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += terms.loss.detach() * len(rows)
        losses.append(float(total) / len(split))
    return losses


def contenders(case: Case, folder: Path) -> dict[str, Callable[[], object]]:
    """Equal students on equal batches; the teacher's outputs are there already."""
    student = case.student()
    outputs = teacher_outputs(case.teacher, case.data.splits["train"], case.layers(), folder)
    half = replace(case, config=case.config.model_copy(update={"mixed_precision": "bf16"}))
    return {
        "PKD": lambda: kit_epochs(case, outputs, student),
        "PKD in bf16": lambda: kit_epochs(half, outputs, student),
        "fine-tuning": lambda: kit_epochs(case, None, student),
        "plain loop": lambda: plain_epochs(case, outputs, student),
    }


def main() -> None:
    found = arguments("step", __doc__, "glue", "backbone", "rounds", "rows")
    task = "sst2" if found.glue else "mini-sentiment"
    data = read_rows(task, found.glue, found.backbone, enough_rows(found, 640))
    with tempfile.TemporaryDirectory() as folder:
        case = random_case(data, found.backbone, Path(folder) / "backbone", num_train_epochs=1)
        times = take_turns(contenders(case, Path(folder)), found.rounds, warmup=1)
    figures = ratio_figures("pkd_step_vs_finetune_step", times, "PKD", "fine-tuning")
    figures += ratio_figures("pkd_step_vs_plain_loop", times, "plain loop", "PKD")
    figures += ratio_figures("pkd_step_float32_vs_bf16", times, "PKD", "PKD in bf16")
    write("step", figures, found, task=task, rows=len(data.splits["train"]), batch=case.config.train_batch_size)


if __name__ == "__main__":
    main()
