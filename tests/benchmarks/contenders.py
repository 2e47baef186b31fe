"""The same distillation by this kit, by the authors' recipe and by TextBrewer: the terms, the model, the seed equal."""

import copy
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModel, PreTrainedModel, get_linear_schedule_with_warmup

from pkdlib.config import DistillConfig, validate
from pkdlib.data import EncodedSplit, EncodedTask, encode_task
from pkdlib.engine.batches import make_loader
from pkdlib.engine.batches import LengthGroupedBatches
from pkdlib.engine.files import locate
from pkdlib.engine.machine import make_accelerator
from pkdlib.evaluation import evaluate
from pkdlib.layer_maps import layer_map
from pkdlib.losses import pkd_loss
from pkdlib.analysis.paper import convert_beta
from pkdlib.models import build_student, cls_states, load_tokenizer
from pkdlib.readers.sources import load_task, subset
from pkdlib.training import distill

TEACHER_LAYERS = 12
HAS_TEXTBREWER = importlib.util.find_spec("textbrewer") is not None
Scores = list[float]  # dev accuracy after every epoch


@dataclass(frozen=True)
class Case:
    """What every contender distils: rows, teacher, settings."""

    data: EncodedTask
    teacher: PreTrainedModel
    config: DistillConfig

    def student(self) -> PreTrainedModel:
        names = self.data.task.label_names
        return build_student(self.config.backbone, self.config.num_hidden_layers, names, seed=self.config.seed)

    def layers(self) -> list[int]:
        return layer_map(self.teacher.config.num_hidden_layers, self.config.num_hidden_layers, self.config.strategy)


def read_rows(task: str, source: str | None, tokenizer_of: str, rows: int | None) -> EncodedTask:
    """So many training rows, and dev rows in proportion, so that an evaluation per epoch costs its true share."""
    data = load_task(task, source)
    train, dev = data.splits["train"], data.splits["dev"]
    if rows is not None and rows < len(train):
        dev = subset(dev, max(1, round(len(dev) * rows / len(train))), 0)
        train = subset(train, rows, 0)
    config = AutoConfig.from_pretrained(locate(tokenizer_of))
    tokenizer = load_tokenizer(tokenizer_of)
    length = min(128, config.max_position_embeddings, tokenizer.model_max_length)
    return encode_task(replace(data, splits={"train": train, "dev": dev}), tokenizer, length)


def random_case(data: EncodedTask, proportions_of: str, folder: Path, **changes) -> Case:
    """A backbone and a teacher of 12 layers, of the given BERT's width and vocabulary: random weights cost the same."""
    config = AutoConfig.from_pretrained(locate(proportions_of))
    config.num_hidden_layers = TEACHER_LAYERS
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = AutoModel.from_config(config)
    backbone.save_pretrained(folder)
    teacher = build_student(backbone, None, data.task.label_names).eval()
    return Case(data, teacher, settings(backbone=str(folder), **changes))


def settings(**changes) -> DistillConfig:
    """Terms that all three can compute: the paper's, summed, without T^2 (TextBrewer has none)."""
    return validate(DistillConfig, **{"num_train_epochs": 4, "learning_rate": 5e-5, "t_squared": False, **changes})


def kit(case: Case, cache_dir: Path | None = None) -> Scores:
    """This kit, the teacher's pass included unless cache_dir has its outputs already."""
    with tempfile.TemporaryDirectory() as fresh:
        run = distill(case.data, case.config, case.teacher, cache_dir=Path(cache_dir or fresh))
    return [row["dev_accuracy"] for row in run.record.history]


# ------------------------------------------------------------------------------------- the authors' recipe
def authors(case: Case) -> Scores:
    """Their recipe, from its description: rows padded to the limit and in the file's order, every layer's [CLS] state
    of the teacher kept, eager attention, their means for losses, dropout off after the first epoch's evaluation.

    In their favour: what the teacher says stays in memory in place of a pickled file.
    """
    config, task = case.config, case.data.task
    device = make_accelerator().device
    train, dev = (_padded(case.data.splits[name], case.data.max_length) for name in ("train", "dev"))
    teacher, student = (copy.deepcopy(model).to(device) for model in (case.teacher.eval(), case.student()))
    teacher.set_attn_implementation("eager")
    student.set_attn_implementation("eager")
    logits, states = [], []
    with torch.no_grad():
        for batch in _in_order(train, config.train_batch_size, device):
            output = teacher(**_inputs(batch), output_hidden_states=True)
            logits.append(output.logits.cpu())
            states.append(cls_states(output.hidden_states).cpu())  # (batch, all layers, hidden)
    train["logits"], train["states"] = torch.cat(logits), torch.cat(states)
    optimizer, schedule = _optimizer(student, case, -(-len(train["labels"]) // config.train_batch_size))
    matched = [layer - 1 for layer in case.layers()]
    beta = convert_beta(config.beta, len(matched), student.config.hidden_size, "paper", "official")
    scores = []
    student.train()  # once
    for _ in range(config.num_train_epochs):
        for batch in _in_order(train, config.train_batch_size, device):
            output = student(**_inputs(batch), output_hidden_states=True)
            student_cls = cls_states(output.hidden_states, range(1, len(matched) + 1))
            terms = pkd_loss(
                output.logits, batch["labels"], batch["logits"], student_cls, batch["states"][:, matched],
                alpha=config.alpha, beta=beta, temperature=config.temperature, form="official",
            )  # fmt: skip
            terms.loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        student.eval()
        with torch.no_grad():
            batches = _in_order(dev, config.train_batch_size, device)
            found = torch.cat([student(**_inputs(batch)).logits.argmax(dim=-1).cpu() for batch in batches])
        scores.append(task.compute_metrics(dev["labels"].numpy(), found.numpy())["accuracy"])
    return scores


def _padded(split: EncodedSplit, length: int) -> dict[str, Tensor]:
    """The whole split as (rows, length) tensors."""
    rows = split[range(len(split))]
    found = {"labels": rows["labels"]}
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        missing = length - rows[name].shape[1]
        found[name] = torch.nn.functional.pad(rows[name], (0, missing), value=split.padding.get(name, 0))
    return found


def _in_order(rows: dict[str, Tensor], size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(rows["labels"]), size):
        yield {name: tensor[start : start + size].to(device) for name, tensor in rows.items()}


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}


def _optimizer(student: PreTrainedModel, case: Case, batches: int):
    config = case.config
    optimizer = torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    updates = batches * config.num_train_epochs
    return optimizer, get_linear_schedule_with_warmup(optimizer, int(config.warmup_ratio * updates), updates)


# --------------------------------------------------------------------------------------------- TextBrewer
def textbrewer(case: Case, grouped: bool = False) -> Scores:
    """TextBrewer's GeneralDistiller: `pkd` matches, soft and hard labels; the teacher runs along with every batch.

    grouped: with this kit's own batches; else a shuffled loader that pads every batch to its longest row. In its
    favour: batches are put together by this kit, and it writes no checkpoint.
    """
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    config, split = case.config, case.data.splits["train"]
    device = make_accelerator().device
    student, teacher = case.student().to(device), copy.deepcopy(case.teacher).to(device)
    size = config.train_batch_size
    if grouped:
        loader = make_loader(split, _NextEpoch(split.lengths, size, config.seed))
    else:
        order = torch.Generator().manual_seed(config.seed)
        loader = DataLoader(split, size, shuffle=True, generator=order, collate_fn=lambda batch: batch)
    matches = [
        {"layer_T": layer, "layer_S": number, "feature": "hidden", "loss": "pkd", "weight": config.beta}
        for number, layer in enumerate(case.layers(), start=1)
    ]
    terms = DistillationConfig(
        temperature=config.temperature, kd_loss_weight=config.alpha, hard_label_weight=1 - config.alpha,
        intermediate_matches=matches,
    )  # fmt: skip
    scores = []

    class Distiller(GeneralDistiller):
        def save_and_callback(self, global_step, step, epoch, callback):
            scores.append(evaluate(self.model_S, case.data.splits["dev"], case.data.task)["accuracy"])
            self.model_S.train()

    def adaptor(batch, output):
        return {"logits": output.logits, "hidden": output.hidden_states, "losses": output.loss}

    torch.manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    updates = len(loader) * config.num_train_epochs
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingConfig(output_dir=folder, device=device)
        distiller = Distiller(training, terms, teacher, student, adaptor, adaptor)
        with distiller:
            distiller.train(
                optimizer, loader, config.num_train_epochs, get_linear_schedule_with_warmup,
                {"num_warmup_steps": int(config.warmup_ratio * updates), "num_training_steps": updates},
                max_grad_norm=config.max_grad_norm, output_hidden_states=True,
                batch_postprocessor=lambda batch: {name: batch[name] for name in batch if name != "rows"},
            )  # fmt: skip
    return scores


class _NextEpoch(LengthGroupedBatches):
    """A new order every time it is asked for one, which TextBrewer does once an epoch."""

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        return super().__iter__()
