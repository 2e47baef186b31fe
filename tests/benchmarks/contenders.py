"""Distils by this kit, by the authors' recipe and by TextBrewer, with equal terms, models and seeds."""

import argparse
import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModel, PreTrainedModel, get_linear_schedule_with_warmup

from pkdlib.analysis.paper import convert_beta
from pkdlib.config import DistillConfig, validate
from pkdlib.data import EncodedSplit, EncodedTask, encode_task
from pkdlib.engine.batches import LengthGroupedBatches, make_loader
from pkdlib.engine.files import locate
from pkdlib.engine.machine import make_accelerator
from pkdlib.evaluation import evaluate
from pkdlib.losses import PKDTerms, pkd_loss
from pkdlib.models import Output, build_student, cls_states, load_tokenizer
from pkdlib.objectives import PKD
from pkdlib.readers.sources import load_task, subset
from pkdlib.targets import Targets, teacher_targets
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

    def objective(self, student: PreTrainedModel) -> PKD:
        return PKD(self.config, student, self.teacher)

    def targets(self, objective: PKD, folder: Path) -> Targets:
        """The teacher's outputs for the training rows that the objective wants, read from `folder` or made there."""
        split = self.data.splits["train"]
        return teacher_targets(self.teacher, split, objective.wants, folder, asks=objective.asks)


def read_given(given: argparse.Namespace, rows: int | None) -> EncodedTask:
    """Read so many training rows of SST-2, or without --glue of the embedded task, for --backbone's tokenizer."""
    return read_rows("sst2" if given.glue else "mini-sentiment", given.glue, given.backbone, rows)


def read_rows(task: str, source: str | None, tokenizer_of: str, rows: int | None) -> EncodedTask:
    """Read so many training rows, or all, and dev rows in proportion: an evaluation per epoch costs its true share."""
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
    """Make a backbone and a teacher of 12 layers with a BERT's width and vocabulary; random weights cost the same."""
    config = AutoConfig.from_pretrained(locate(proportions_of))
    config.num_hidden_layers = TEACHER_LAYERS
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = AutoModel.from_config(config)
    backbone.save_pretrained(folder)
    teacher = build_student(backbone, None, data.task.label_names).eval()
    return Case(data, teacher, settings(backbone=str(folder), **changes))


def settings(**changes) -> DistillConfig:
    """Settings of a distillation with terms that all three can compute: the paper's sums, without T^2."""
    return validate(DistillConfig, **{"num_train_epochs": 4, "learning_rate": 5e-5, "t_squared": False, **changes})


def kit(case: Case, cache_dir: Path | None = None) -> Scores:
    """Distil by this kit; the teacher's pass is included unless cache_dir has its outputs already."""
    with tempfile.TemporaryDirectory() as fresh:
        run = distill(case.data, case.config, case.teacher, cache_dir=Path(cache_dir or fresh))
    return [row["dev_accuracy"] for row in run.record.history]


# ------------------------------------------------------------------------------------- the authors' recipe
def authors(case: Case) -> Scores:
    """Distil by their recipe: rows padded to the limit and in the file's order, the teacher's [CLS] state kept of
    every layer, eager attention, their means for losses, dropout off after the first epoch's evaluation.

    In their favour, the teacher's outputs stay in memory and not in a pickled file. Every parameter decays here, where
    their code spares biases and LayerNorm weights.
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
    optimizer = _optimizer(student, config)
    batches = -(-len(train["labels"]) // config.train_batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, **_updates(config, batches))
    terms, scores = authors_terms(case, student), []
    student.train()  # once
    for _ in range(config.num_train_epochs):
        for batch in _in_order(train, config.train_batch_size, device):
            terms(student(**_inputs(batch), output_hidden_states=True), batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        student.eval()
        with torch.no_grad():
            batches = _in_order(dev, config.train_batch_size, device)
            predictions = torch.cat([student(**_inputs(batch)).logits.argmax(dim=-1).cpu() for batch in batches])
        scores.append(task.compute_metrics(dev["labels"].numpy(), predictions.numpy())["accuracy"])
    return scores


def authors_terms(case: Case, student: PreTrainedModel) -> Callable[[Output, dict[str, Tensor]], PKDTerms]:
    """Their objective of a batch with the teacher's `logits` and [CLS] `states` of all layers; beta on their scale."""
    config, matched = case.config, [layer - 1 for layer in case.objective(student).layers]
    beta = convert_beta(config.beta, len(matched), student.config.hidden_size, "paper", "official")

    def terms(output: Output, batch: dict[str, Tensor]) -> PKDTerms:
        student_cls = cls_states(output.hidden_states, range(1, len(matched) + 1))
        return pkd_loss(
            output.logits, batch["labels"], batch["logits"], student_cls, batch["states"][:, matched],
            alpha=config.alpha, beta=beta, temperature=config.temperature, form="official",
        )  # fmt: skip

    return terms


def _padded(split: EncodedSplit, length: int) -> dict[str, Tensor]:
    """The whole split as (rows, length) tensors, with its labels (rows,)."""
    rows = split[range(len(split))]
    padded = {"labels": rows["labels"]}
    for name, tokens in _inputs(rows).items():
        missing = length - tokens.shape[1]
        padded[name] = torch.nn.functional.pad(tokens, (0, missing), value=split.padding.get(name, 0))
    return padded


def _in_order(rows: dict[str, Tensor], size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(rows["labels"]), size):
        yield {name: tensor[start : start + size].to(device) for name, tensor in rows.items()}


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}


def _optimizer(student: PreTrainedModel, config: DistillConfig, **options) -> torch.optim.AdamW:
    rates = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    return torch.optim.AdamW(student.parameters(), **rates, **options)


def _updates(config: DistillConfig, batches: int) -> dict[str, int]:
    """The schedule's numbers of updates, by the names that transformers gives them."""
    updates = batches * config.num_train_epochs
    return {"num_warmup_steps": int(config.warmup_ratio * updates), "num_training_steps": updates}


# --------------------------------------------------------------------------------------------- TextBrewer
def textbrewer(case: Case, grouped: bool = False) -> Scores:
    """Distil by TextBrewer's GeneralDistiller: `pkd` matches, soft and hard labels, the teacher run with every batch.

    grouped: with this kit's own batches; else with a shuffled loader that pads every batch to its longest row. In its
    favour, this kit puts its batches together, and it writes no checkpoint. Against it, the teacher's outputs are not
    cached, as they could be: a batch may carry them as `teacher_cache`.
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
    terms, scores = DistillationConfig(**textbrewer_terms(case, student)), []

    class Distiller(GeneralDistiller):
        def save_and_callback(self, global_step, step, epoch, callback):
            scores.append(evaluate(self.model_S, case.data.splits["dev"], case.data.task)["accuracy"])
            self.model_S.train()

    def adaptor(batch, output):
        return {"logits": output.logits, "hidden": output.hidden_states, "losses": output.loss}

    torch.manual_seed(config.seed)
    optimizer = _optimizer(student, config, fused=True)
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingConfig(output_dir=folder, device=device)
        distiller = Distiller(training, terms, teacher, student, adaptor, adaptor)
        with distiller:
            distiller.train(
                optimizer, loader, config.num_train_epochs,
                get_linear_schedule_with_warmup, _updates(config, len(loader)),
                max_grad_norm=config.max_grad_norm, output_hidden_states=True,
                batch_postprocessor=lambda batch: {name: batch[name] for name in batch if name != "rows"},
            )  # fmt: skip
    return scores


def textbrewer_terms(case: Case, student: PreTrainedModel) -> dict[str, Any]:
    """The fields of TextBrewer's DistillationConfig that give the case's objective."""
    config = case.config
    matches = [
        {"layer_T": layer, "layer_S": number, "feature": "hidden", "loss": "pkd", "weight": config.beta}
        for number, layer in enumerate(case.objective(student).layers, start=1)
    ]
    weights = {"kd_loss_weight": config.alpha, "hard_label_weight": 1 - config.alpha}
    return {"temperature": config.temperature, **weights, "intermediate_matches": matches}


class _NextEpoch(LengthGroupedBatches):
    """Gives a new order whenever it is asked for one, as TextBrewer asks once an epoch."""

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        return super().__iter__()
