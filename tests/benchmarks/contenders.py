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
from torch.utils.data import DataLoader, Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from pkdlib.analysis.paper import convert_beta
from pkdlib.config import DistillConfig, validate
from pkdlib.data import EncodedSplit, EncodedTask, encode_task
from pkdlib.engine.batches import LengthGroupedBatches, SortedBatches, make_loader
from pkdlib.engine.files import locate
from pkdlib.engine.machine import make_accelerator
from pkdlib.engine.updates import parameter_groups
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
    data.tokenizer.save_pretrained(folder)
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

    In their favour, the teacher's outputs stay in memory and not in a pickled file.
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
    return torch.optim.AdamW(parameter_groups(student, config.weight_decay), lr=config.learning_rate, **options)


def _updates(config: DistillConfig, batches: int) -> dict[str, int]:
    """The schedule's numbers of updates, by the names that transformers gives them."""
    updates = batches * config.num_train_epochs
    return {"num_warmup_steps": int(config.warmup_ratio * updates), "num_training_steps": updates}


# ------------------------------------------------------------------------------------ transformers' Trainer
class _Rows(Dataset):
    """A split's rows as Trainer wants them, without padding; with the teacher's outputs where they are there."""

    def __init__(self, split: EncodedSplit, outputs: dict[str, Tensor] | None = None):
        self.columns, self.labels, self.outputs = split.columns, split.labels, outputs or {}
        self.places = list(zip(split.offsets.tolist(), split.lengths.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> dict[str, Any]:
        start, length = self.places[row]
        tokens = {name: column[start : start + length].tolist() for name, column in self.columns.items()}
        outputs = {name: values[row] for name, values in self.outputs.items()}
        return {**tokens, "attention_mask": [1] * length, "labels": int(self.labels[row]), **outputs}


def trainer(case: Case, precomputed: bool = False) -> Scores:
    """Distil by a subclass of transformers' Trainer with another `compute_loss`, as a good engineer would write it:
    rows padded to the longest of their batch, batches grouped by length, torch's fused AdamW, no checkpoint.

    precomputed: the teacher runs once over the rows, longest first, and its logits and [CLS] states of the matched
    layers stay in memory; else it runs with every batch.
    """
    config, splits, device = case.config, case.data.splits, make_accelerator().device
    student, teacher = case.student(), copy.deepcopy(case.teacher).eval().to(device)
    pad = DataCollatorWithPadding(case.data.tokenizer)
    layers, names = case.objective(student).layers, ("teacher_logits", "teacher_cls")

    def answers(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            output = teacher(**inputs, output_hidden_states=True)
        return output.logits, cls_states(output.hidden_states, layers)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        outputs = {name: torch.stack([row.pop(name) for row in rows]) for name in names if name in rows[0]}
        return {**pad(rows), **outputs}

    class Distilling(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels, tokens = inputs["labels"], _inputs(inputs)
            if not model.training:
                output = model(**tokens)
                loss = torch.nn.functional.cross_entropy(output.logits, labels)
                return (loss, output) if return_outputs else loss
            logits, states = (inputs[name] for name in names) if precomputed else answers(tokens)
            return trainer_terms(case, model(**tokens, output_hidden_states=True), labels, logits, states).loss

    outputs = None
    if precomputed:
        train, found = splits["train"], {}
        for rows in SortedBatches(train.lengths, config.eval_batch_size):
            batch = collate([_Rows(train)[row] for row in rows.tolist()])
            for name, values in zip(names, answers(_inputs({k: v.to(device) for k, v in batch.items()})), strict=True):
                found.setdefault(name, torch.empty(len(train), *values.shape[1:]))[torch.from_numpy(rows)] = (
                    values.cpu()
                )
        outputs = found
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=config.num_train_epochs, learning_rate=config.learning_rate, seed=config.seed,
            weight_decay=config.weight_decay, warmup_steps=config.warmup_ratio, max_grad_norm=config.max_grad_norm,
            per_device_train_batch_size=config.train_batch_size, per_device_eval_batch_size=config.eval_batch_size,
            optim="adamw_torch_fused", train_sampling_strategy="group_by_length", remove_unused_columns=False,
            eval_strategy="epoch", save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            use_cpu=device.type == "cpu", dataloader_pin_memory=device.type != "cpu",
        )  # fmt: skip
        scores: Scores = []

        def measure(found: EvalPrediction) -> dict[str, float]:
            scores.append(float((found.predictions.argmax(axis=-1) == found.label_ids).mean()))
            return {"accuracy": scores[-1]}

        distilling = Distilling(
            student, arguments, collate, _Rows(splits["train"], outputs), _Rows(splits["dev"]),
            processing_class=case.data.tokenizer, compute_metrics=measure,
        )  # fmt: skip
        distilling.train()
    return scores


def trainer_terms(case: Case, output: Output, labels: Tensor, logits: Tensor, states: Tensor) -> PKDTerms:
    """The case's objective of a batch, from the teacher's logits and [CLS] states of the matched layers."""
    config = case.config
    matched = cls_states(output.hidden_states, range(1, states.shape[1] + 1))
    return pkd_loss(
        output.logits, labels, logits, matched, states, alpha=config.alpha, beta=config.beta,
        temperature=config.temperature, t_squared=config.t_squared,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- TextBrewer
def textbrewer(case: Case, grouped: bool = False, cached: bool = False) -> Scores:
    """Distil by TextBrewer's GeneralDistiller: `pkd` matches, soft and hard labels, no checkpoint.

    grouped: with this kit's own batches; else with a shuffled loader that pads every batch to its longest row. cached:
    the teacher runs once over the rows, by this kit's pass, and every batch carries its outputs as `teacher_cache`;
    else it runs with every batch.
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
        if not hasattr(output, "logits"):  # what the batch carries
            return output
        return {"logits": output.logits, "hidden": output.hidden_states, "losses": output.loss}

    def prepare(batch: dict[str, Tensor]) -> dict[str, Any]:
        inputs = {name: batch[name] for name in batch if name != "rows"}
        if targets is None:
            return inputs
        found = {name: values.float() for name, values in targets.of(batch["rows"]).items()}
        states = {layer: found[f"teacher_cls_{layer}"][:, None] for layer in goal.layers}  # (batch, 1, hidden)
        return {
            "student": inputs,
            "teacher": {},
            "teacher_cache": {"logits": found["teacher_logits"], "hidden": states},
        }

    torch.manual_seed(config.seed)
    optimizer, goal = _optimizer(student, config, fused=True), case.objective(student)
    with tempfile.TemporaryDirectory() as folder:
        targets = case.targets(goal, Path(folder) / "cache") if cached else None
        training = TrainingConfig(output_dir=folder, device=device)
        distiller = Distiller(training, terms, teacher, student, adaptor, adaptor)
        with distiller:
            distiller.train(
                optimizer, loader, config.num_train_epochs,
                get_linear_schedule_with_warmup, _updates(config, len(loader)),
                max_grad_norm=config.max_grad_norm, output_hidden_states=True,
                batch_postprocessor=prepare,
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
