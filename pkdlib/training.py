"""The loops: fine-tune a teacher, distill a student, both the same loop on Accelerate."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import PreTrainedModel, get_linear_schedule_with_warmup
from transformers.modeling_outputs import SequenceClassifierOutput

from pkdlib.cache import teacher_outputs
from pkdlib.config import RUNS, ConfigError, DistillConfig, FineTuneConfig
from pkdlib.data import EncodedTask, LengthGroupedBatches, encode_task, make_loader, split_batch
from pkdlib.evaluation import evaluate, make_accelerator
from pkdlib.layer_maps import layer_map
from pkdlib.losses import PKDTerms, pkd_loss
from pkdlib.models import build_student, cls_states, load_classifier, load_tokenizer, weights_fingerprint
from pkdlib.progress import progress_bar, say
from pkdlib.results import RESULT_FILE, RunRecord, device_name, save_result
from pkdlib.sources import load_task

Objective = Callable[[SequenceClassifierOutput, dict[str, Tensor]], PKDTerms]


@dataclass(frozen=True)
class Run:
    """A trained model (its best epoch's weights, in evaluation mode) and the record of how it came about."""

    model: PreTrainedModel
    record: RunRecord


def fine_tune(
    data: EncodedTask, config: FineTuneConfig, output_dir: Path | None = None, method: str = "teacher"
) -> Run:
    """Fine-tune the backbone (or its first layers) on the labels; keep the epoch that is best on dev.

    With output_dir, the model, its tokenizer and, last, result.json are written there.
    """
    accelerator = make_accelerator(config.mixed_precision)
    model = build_student(config.backbone, config.num_hidden_layers, data.task.label_names, seed=config.seed)

    def objective(output: SequenceClassifierOutput, batch: dict[str, Tensor]) -> PKDTerms:
        return pkd_loss(output.logits, batch["labels"], alpha=0.0, beta=0.0)

    return _run(model, data, config, accelerator, objective, method, output_dir)


def distill(
    data: EncodedTask,
    config: DistillConfig,
    teacher: PreTrainedModel | str | Path | None = None,
    output_dir: Path | None = None,
    cache_dir: Path = RUNS / "cache",
) -> Run:
    """Train a student on the labels, the teacher's softened predictions and its [CLS] states (L_PKD).

    teacher: a fine-tuned classifier or its folder; needed unless alpha = beta = 0 and init is "pretrained". Its
    outputs over the training split come from cache_dir, where they are made on first use.

    Raises ValueError when teacher and student do not fit (labels, layers, widths), before any training.
    """
    accelerator = make_accelerator(config.mixed_precision)
    if isinstance(teacher, str | Path):
        teacher = load_classifier(teacher)
    if teacher is None and (config.alpha or config.beta):
        raise ValueError(f"alpha = {config.alpha}, beta = {config.beta}: needs a teacher")
    student = build_student(
        config.backbone,
        config.num_hidden_layers,
        data.task.label_names,
        init=config.init,
        teacher=teacher,
        seed=config.seed,
    )
    if teacher is not None and teacher.config.num_labels != data.task.num_labels:
        raise ValueError(
            f"num_labels: the teacher has {teacher.config.num_labels} labels, "
            f"task {data.task.name} {data.task.num_labels}"
        )
    layers: list[int] = []
    outputs, started = None, time.perf_counter()
    if config.alpha or config.beta:
        layers = _matched_layers(teacher, student, config) if config.beta else []
        outputs = teacher_outputs(teacher, data.splits["train"], layers, cache_dir, config.eval_batch_size, accelerator)
    teacher_s = time.perf_counter() - started
    student_layers = range(1, len(layers) + 1)

    def objective(output: SequenceClassifierOutput, batch: dict[str, Tensor]) -> PKDTerms:
        teacher_logits, teacher_cls = outputs.of(batch["rows"]) if outputs else (None, None)
        return pkd_loss(
            output.logits,
            batch["labels"],
            teacher_logits,
            cls_states(output.hidden_states, student_layers) if layers else None,
            teacher_cls if layers else None,
            alpha=config.alpha,
            beta=config.beta,
            temperature=config.temperature,
            normalize=config.normalize,
            form=config.form,
            t_squared=config.t_squared,
        )

    fingerprints = {}
    if teacher is not None:  # large weights take a while to hash: once
        fingerprints["teacher_weights"] = outputs.teacher_weights if outputs else weights_fingerprint(teacher)
    return _run(
        student, data, config, accelerator, objective, method_name(config), output_dir,
        layers=layers, fingerprints=fingerprints, durations={"teacher_outputs": teacher_s},
    )  # fmt: skip


def reload_data(record: RunRecord) -> EncodedTask:
    """The rows a run was trained on, read and tokenised again; ValueError when they have changed since."""
    data = load_task(
        record.task,
        record.source,
        train_rows=record.train_rows,
        subset_seed=record.subset_seed,
        bad_rows=record.bad_rows,
    )
    encoded = encode_task(data, load_tokenizer(record.config["backbone"]), record.max_length)
    for split, fingerprint in encoded.fingerprints.items():
        if record.fingerprints.get(split) != fingerprint:
            raise ValueError(f"{record.source}: the {split} split of {record.task} is not the one of {record.run_id}")
    return encoded


def method_name(config: DistillConfig) -> str:
    """FT, KD, PKD-Skip, PKD-Last, or PKD- and the own list of teacher layers."""
    if not config.beta:
        return "KD" if config.alpha else "FT"
    if isinstance(config.strategy, str):
        return f"PKD-{config.strategy.capitalize()}"
    return f"PKD-{','.join(map(str, config.strategy))}"


def _matched_layers(teacher: PreTrainedModel, student: PreTrainedModel, config: DistillConfig) -> list[int]:
    if teacher.config.hidden_size != student.config.hidden_size:
        raise ValueError(
            f"hidden_size: the teacher's is {teacher.config.hidden_size}, the student's {student.config.hidden_size}; "
            "the patience term compares equal widths"
        )
    layers = layer_map(teacher.config.num_hidden_layers, student.config.num_hidden_layers, config.strategy)
    if not layers:
        raise ConfigError(f"beta = {config.beta}: a student of one layer has no layer to match; beta must be 0")
    return layers


def _run(
    model: PreTrainedModel,
    data: EncodedTask,
    config: FineTuneConfig,
    accelerator: Accelerator,
    objective: Objective,
    method: str,
    output_dir: Path | None,
    *,
    layers: list[int] | None = None,
    fingerprints: dict[str, str] | None = None,
    durations: dict[str, float] | None = None,
) -> Run:
    """Train, score every labelled split with the best epoch's weights, and write what was asked for."""
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # a folder that cannot be is noticed before the work
    name = f"{data.task.name} {method} {model.config.num_hidden_layers} layers seed {config.seed}"
    started = time.perf_counter()
    history, best_epoch = _train(model, data, config, accelerator, objective, name)
    trained = time.perf_counter()
    metrics = {
        split.name: evaluate(model, split, data.task, config.eval_batch_size, accelerator)
        for split in data.splits.values()
        if split.labels is not None and split.name != "train"
    }
    identity = sha256(f"{config.model_dump_json()} {data.fingerprints} {data.max_length} {fingerprints}".encode())
    record = RunRecord(
        run_id=f"{name.replace(' ', '-')}-{identity.hexdigest()[:8]}",
        method=method,
        task=data.task.name,
        **data.reading,
        max_length=data.max_length,
        train_rows=len(data.splits["train"]),
        seed=config.seed,
        config=config.model_dump() | {"num_hidden_layers": model.config.num_hidden_layers},
        layer_map=layers or [],
        num_parameters=model.num_parameters(),
        metrics=metrics,
        best_epoch=best_epoch,
        history=history,
        fingerprints={**data.fingerprints, **(fingerprints or {}), "weights": weights_fingerprint(model)},
        durations_s={
            **(durations or {}), "training": trained - started, "evaluation": time.perf_counter() - trained,
        },
        device=device_name(accelerator.device),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    if output_dir is not None and accelerator.is_main_process:
        (Path(output_dir) / RESULT_FILE).unlink(missing_ok=True)  # an earlier run's: its weights are overwritten now
        model.save_pretrained(output_dir)
        data.tokenizer.save_pretrained(output_dir)
        save_result(record, output_dir)
    accelerator.wait_for_everyone()  # so that any process may read what was written
    return Run(model, record)


def _train(
    model: PreTrainedModel,
    data: EncodedTask,
    config: FineTuneConfig,
    accelerator: Accelerator,
    objective: Objective,
    name: str,
) -> tuple[list[dict[str, float]], int]:
    """The loop. Leaves the best dev epoch's weights in `model`; returns the history and that epoch."""
    train, dev = data.splits["train"], data.splits["dev"]
    batches = LengthGroupedBatches(train.lengths, config.train_batch_size, config.seed)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config.weight_decay), lr=config.learning_rate, fused=True)
    loader = accelerator.prepare_data_loader(make_loader(train, batches))
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    updates = len(loader) * config.num_train_epochs
    schedule = get_linear_schedule_with_warmup(optimizer, int(config.warmup_ratio * updates), updates)
    set_seed(config.seed, device_specific=True)
    history, best, best_state = [], None, None
    for epoch in range(1, config.num_train_epochs + 1):
        started = time.perf_counter()
        batches.epoch = epoch
        wrapped.train()
        sums = torch.zeros(len(PKDTerms._fields) + 2, device=accelerator.device)  # terms, right answers, rows
        for batch in progress_bar(loader, f"{name}, epoch {epoch}"):
            sums += _update(wrapped, batch, config, accelerator, objective)
            optimizer.step()
            optimizer.zero_grad()
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
        quality = (scores[data.task.metrics[0]], -scores["loss"])
        if best is None or quality > best[0]:
            best = quality, epoch
            best_state = {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}
        if accelerator.is_main_process:
            say(
                f"{name}: epoch {epoch}/{config.num_train_epochs}, train loss {means[0]:.4f}, dev "
                f"{data.task.metrics[0]} {quality[0]:.4f}, {history[-1]['seconds']:.1f} s"
            )
    model.load_state_dict(best_state)
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False).eval()  # `model`, no longer bound to the precision
    return history, best[1]


def _update(
    model: nn.Module,
    batch: dict[str, Tensor],
    config: FineTuneConfig,
    accelerator: Accelerator,
    objective: Objective,
) -> Tensor:
    """Accumulate the clipped gradient of a batch's mean loss; returns its summed terms, right answers and rows, (6,).

    Each micro-batch weighs by its rows, so that how a batch is cut does not change its gradient.
    """
    parts = split_batch(batch, config.micro_batch_size)
    size, sums = len(batch["rows"]), 0.0
    for number, part in enumerate(parts, start=1):
        inputs = {key: tensor for key, tensor in part.items() if key not in ("rows", "labels")}
        with nullcontext() if number == len(parts) else accelerator.no_sync(model):
            output = model(**inputs, output_hidden_states=True)
            terms = objective(output, part)
            rows = len(part["rows"])
            accelerator.backward(terms.loss * (rows / size))
        right = (output.logits.detach().argmax(dim=-1) == part["labels"]).float().mean()
        sums = sums + torch.stack([term.detach() for term in (*terms, right, torch.ones_like(right))]) * rows
    accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    return sums


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases and LayerNorm weights, the vectors, do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
