"""Fine-tune a teacher, distill a student: both the same loop, told apart by their objective."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from pkdlib.cache import TeacherOutputs, teacher_outputs
from pkdlib.checkpoints import Checkpoint
from pkdlib.config import RUNS, ConfigError, DistillConfig, FineTuneConfig, method_name
from pkdlib.data import EncodedTask, encode_task
from pkdlib.evaluation import evaluate, make_accelerator
from pkdlib.layer_maps import layer_map
from pkdlib.loop import OnEpoch, train
from pkdlib.losses import PKDTerms, pkd_loss
from pkdlib.models import build_student, cls_states, load_classifier, load_tokenizer, weights_fingerprint
from pkdlib.results import RESULT_FILE, RunRecord, device_name, save_result
from pkdlib.sources import load_task


@dataclass(frozen=True)
class Run:
    """A trained model (its best epoch's weights, in evaluation mode) and the record of how it came about."""

    model: PreTrainedModel
    record: RunRecord


class Objective(nn.Module):
    """L_PKD of a batch: the student's output against the labels and the teacher's outputs of the same rows."""

    def __init__(
        self,
        weights: dict[str, Any],  # alpha, beta and what else `pkd_loss` takes by name
        layers: Sequence[int] = (),  # the student's that are matched
        projection: nn.Module | None = None,  # of the student's [CLS] states to the teacher's width
    ):
        super().__init__()
        self.weights, self.layers = weights, layers
        self.projection = projection or nn.Identity()

    def forward(self, output: SequenceClassifierOutput, batch: dict[str, Tensor]) -> PKDTerms:
        student_cls, teacher_cls = None, None
        if self.layers:
            student_cls = self.projection(cls_states(output.hidden_states, self.layers))
            teacher_cls = batch["teacher_cls"]
        labels, teacher_logits = batch["labels"], batch.get("teacher_logits")
        return pkd_loss(output.logits, labels, teacher_logits, student_cls, teacher_cls, **self.weights)


def fine_tune(
    data: EncodedTask,
    config: FineTuneConfig,
    output_dir: Path | None = None,
    method: str = "teacher",
    on_epoch: OnEpoch | None = None,
) -> Run:
    """Fine-tune the backbone (or its first layers) on the labels; keep the epoch that is best on dev.

    With output_dir, the model, its tokenizer and, last, result.json are written there, and until then a checkpoint
    after every epoch: called again with the same arguments, a run that was interrupted goes on after its last
    finished epoch, to the same result. on_epoch(epoch, model) is called before training (epoch 0) and after every
    epoch that is trained in this call, to look at the model on its way.
    """
    accelerator = make_accelerator(config.mixed_precision)
    model = build_student(config.backbone, config.num_hidden_layers, data.task.label_names, seed=config.seed)
    objective = Objective({"alpha": 0.0, "beta": 0.0})
    return _run(model, data, config, accelerator, objective, method, output_dir, on_epoch)


def distill(
    data: EncodedTask,
    config: DistillConfig,
    teacher: PreTrainedModel | str | Path | None = None,
    output_dir: Path | None = None,
    cache_dir: Path = RUNS / "cache",
    on_epoch: OnEpoch | None = None,
) -> Run:
    """Train a student on the labels, the teacher's softened predictions and its [CLS] states (L_PKD).

    teacher: a fine-tuned classifier or its folder; needed unless alpha = beta = 0 and init is "pretrained". Its
    outputs over the training split come from cache_dir, where they are made on first use. output_dir and on_epoch
    are as for `fine_tune`.

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
    objective = Objective(
        config.model_dump(include={"alpha", "beta", "temperature", "normalize", "form", "t_squared"}),
        range(1, len(layers) + 1),
        _projection(teacher, student, config) if layers and config.projection else None,
    )
    fingerprints = {}
    if teacher is not None:  # large weights take a while to hash: once
        fingerprints["teacher_weights"] = outputs.teacher_weights if outputs else weights_fingerprint(teacher)
    return _run(
        student, data, config, accelerator, objective, method_name(config), output_dir, on_epoch,
        outputs=outputs, layers=layers, fingerprints=fingerprints, durations={"teacher_outputs": teacher_s},
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


def _matched_layers(teacher: PreTrainedModel, student: PreTrainedModel, config: DistillConfig) -> list[int]:
    if teacher.config.hidden_size != student.config.hidden_size and not config.projection:
        raise ValueError(
            f"hidden_size: the teacher's is {teacher.config.hidden_size}, the student's {student.config.hidden_size}; "
            "the patience term compares equal widths unless projection is True"
        )
    layers = layer_map(teacher.config.num_hidden_layers, student.config.num_hidden_layers, config.strategy)
    if not layers:
        raise ConfigError(f"beta = {config.beta}: a student of one layer has no layer to match; beta must be 0")
    return layers


def _projection(teacher: PreTrainedModel, student: PreTrainedModel, config: DistillConfig) -> nn.Linear:
    """A learned map of the student's [CLS] states to the teacher's width, one for all layers (as TinyBERT's)."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        projection = nn.Linear(student.config.hidden_size, teacher.config.hidden_size, bias=False)
        nn.init.orthogonal_(projection.weight)  # at first, no angle between states changes where width allows
    return projection


def _run(
    model: PreTrainedModel,
    data: EncodedTask,
    config: FineTuneConfig,
    accelerator: Accelerator,
    objective: Objective,
    method: str,
    output_dir: Path | None,
    on_epoch: OnEpoch | None,
    *,
    outputs: TeacherOutputs | None = None,
    layers: list[int] | None = None,
    fingerprints: dict[str, str] | None = None,
    durations: dict[str, float] | None = None,
) -> Run:
    """Train, score every labelled split with the best epoch's weights, and write what was asked for."""
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # a folder that cannot be is noticed before the work
    name = f"{data.task.name} {method} {model.config.num_hidden_layers} layers seed {config.seed}"
    identity = {
        "config": config.model_dump_json(),
        "data": str(data.fingerprints),
        "max_length": str(data.max_length),
        "teacher": str(fingerprints),
    }
    checkpoint = None
    if output_dir is not None:
        start = {
            "run": name,
            "tokens": {split.name: split.fingerprint for split in data.splits.values()},
            "initial weights": weights_fingerprint(model),
        }
        checkpoint = Checkpoint(output_dir, identity | start, name, accelerator)
    history, best_epoch = train(model, data, config, accelerator, objective, name, on_epoch, checkpoint, outputs)
    trained = time.perf_counter()
    metrics = {
        split.name: evaluate(model, split, data.task, config.eval_batch_size, accelerator)
        for split in data.splits.values()
        if split.labels is not None and split.name != "train"
    }
    record = RunRecord(
        run_id=f"{name.replace(' ', '-')}-{sha256(' '.join(identity.values()).encode()).hexdigest()[:8]}",
        method=method,
        task=data.task.name,
        **data.reading,
        max_length=data.max_length,
        train_rows=len(data.splits["train"]),
        eval_rows={name: len(data.splits[name]) for name in metrics},
        seed=config.seed,
        config=config.model_dump() | {"num_hidden_layers": model.config.num_hidden_layers},
        layer_map=layers or [],
        num_parameters=model.num_parameters(),
        metrics=metrics,
        best_epoch=best_epoch,
        history=history,
        fingerprints={**data.fingerprints, **(fingerprints or {}), "weights": weights_fingerprint(model)},
        durations_s={
            **(durations or {}),
            "training": sum(row["seconds"] for row in history),  # of all epochs, those before an interruption too
            "evaluation": time.perf_counter() - trained,
        },
        device=device_name(accelerator.device),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    if output_dir is not None and accelerator.is_main_process:
        (Path(output_dir) / RESULT_FILE).unlink(missing_ok=True)  # an earlier run's: its weights are overwritten now
        model.save_pretrained(output_dir)
        data.tokenizer.save_pretrained(output_dir)
        save_result(record, output_dir)
        checkpoint.remove()  # only now: until here, nothing that was trained is lost
    accelerator.wait_for_everyone()  # so that any process may read what was written
    return Run(model, record)
