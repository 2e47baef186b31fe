"""Fine-tune a teacher, distill a student: both the same loop, told apart by their objective."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from pkdlib.config import DistillConfig, FineTuneConfig
from pkdlib.data import EncodedTask
from pkdlib.engine import card, checks
from pkdlib.engine.checkpoints import Checkpoint, weights_fingerprint
from pkdlib.engine.files import digest, save_model
from pkdlib.engine.machine import device_name, make_accelerator
from pkdlib.engine.trackers import OnEpoch
from pkdlib.evaluation import predict, score
from pkdlib.loop import Job, train
from pkdlib.models import Init, build_student, load_classifier, load_tokenizer
from pkdlib.objectives import PKD, Objective
from pkdlib.records import RESULT_FILE, RunRecord, save_result
from pkdlib.targets import CACHE, teacher_targets


@dataclass(frozen=True)
class Run:
    """A trained model (its best epoch's weights, in evaluation mode) and the record of how it came about."""

    model: PreTrainedModel
    record: RunRecord


@checks.checked
def fine_tune(
    data: EncodedTask, config: FineTuneConfig, output_dir: str | Path | None = None, method: str = "teacher",
    on_epoch: OnEpoch | None = None,
) -> Run:  # fmt: skip
    """Fine-tune the backbone (or its first layers) on the labels; keep the epoch that is best on dev.

    With output_dir, the model, its tokenizer and, last, result.json are written there, and until then a checkpoint
    after every epoch: called again with the same arguments, a run that was interrupted goes on after its last
    finished epoch, to the same result. on_epoch(epoch, model, figures) is called before training (epoch 0, {}) and
    after every epoch that is trained in this call, with its row of the history; a context manager is entered.
    """
    accelerator, model = make_accelerator(config.mixed_precision), _start(data, config)
    labels_alone = PKD(DistillConfig(alpha=0.0, beta=0.0, last_layer=config.last_layer), model)
    job = Job(method, model, data, config, accelerator, labels_alone, on_epoch=on_epoch)
    with checks.own_folder(output_dir, [config.backbone, data.reading["source"]], model, accelerator.is_main_process):
        return _carry_out(job, output_dir)


@checks.checked
def distill(
    data: EncodedTask, config: DistillConfig, teacher: PreTrainedModel | str | Path | None = None,
    output_dir: str | Path | None = None, cache_dir: str | Path = CACHE, on_epoch: OnEpoch | None = None,
    objective: Callable[[DistillConfig, PreTrainedModel, PreTrainedModel | None], Objective] = PKD,
) -> Run:  # fmt: skip
    """Train a student on the labels, the teacher's softened predictions and its [CLS] states (L_PKD).

    teacher: a fine-tuned classifier or its folder; needed unless alpha = beta = 0 and init is not "teacher". Its
    outputs over the training split come from cache_dir, where they are made on first use. objective: a class of your
    own in place of L_PKD. output_dir and on_epoch are as for `fine_tune`.

    The teacher's classes are matched with the task's by name. Raises ValueError, before any training, when teacher,
    student and rows do not fit (names of labels, layers, widths, tokens), or output_dir is read or written by others.
    """
    job, teacher = prepare(data, config, teacher, make_accelerator(config.mixed_precision), objective)
    inputs = [config.backbone, data.reading["source"], teacher.name_or_path if teacher is not None else ""]
    with checks.own_folder(output_dir, inputs, job.model, job.accelerator.is_main_process):
        started = time.perf_counter()
        job = replace(taught_by(teacher, job, cache_dir), on_epoch=on_epoch)
        return _carry_out(job, output_dir, {"teacher_outputs": time.perf_counter() - started})


def prepare(
    data: EncodedTask, config: DistillConfig, teacher: PreTrainedModel | str | Path | None, accelerator: Accelerator,
    objective: Callable[[DistillConfig, PreTrainedModel, PreTrainedModel | None], Objective] = PKD,
) -> tuple[Job, PreTrainedModel | None]:  # fmt: skip
    """A distillation that was checked as `distill` says, before any pass over rows, and its teacher, loaded."""
    if isinstance(teacher, str | Path):
        checks.check_same_tokens(load_tokenizer(teacher), data.splits["train"], str(teacher))
        teacher = load_classifier(teacher)
    if teacher is not None and (config.alpha or config.beta or objective is not PKD):  # else its layers alone are used
        teacher = checks.with_labels(teacher, data.task.label_names)
    model = _start(data, config, config.init, teacher)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)  # of what the objective draws, a first projection
        goal = objective(config, model, teacher)
    checks.check_objective(goal, Objective, data.splits, teacher is not None)
    if teacher is not None and (goal.wants or goal.runs_teacher):
        checks.check_reads(teacher, [data.splits["train"]], teacher.name_or_path or type(teacher).__name__)
    checks.tell_unusual_map(goal, data.splits["train"], teacher, accelerator.print)
    return Job(goal.method, model, data, config, accelerator, goal), teacher


def taught_by(teacher: PreTrainedModel | None, job: Job, cache_dir: str | Path) -> Job:
    """The job with the teacher's fingerprints, and with its outputs where the objective wants them."""
    if teacher is None:
        return job
    weights, goal, targets = weights_fingerprint(teacher), job.objective, None  # large weights take a while: once
    if goal.wants:
        rows, size = job.data.splits["train"], job.config.eval_batch_size
        targets = teacher_targets(teacher, rows, goal.wants, cache_dir, goal.asks, size, job.accelerator, weights)
    taught = {"teacher_weights": weights, "teacher_config": checks.config_fingerprint(teacher)}
    return replace(job, targets=targets, taught=taught)


def _start(
    data: EncodedTask, config: FineTuneConfig, init: Init = "pretrained", teacher: PreTrainedModel | None = None
) -> PreTrainedModel:
    """The model to be trained; ValueError where it, or the tokenizer of what it starts from, does not fit the rows."""
    if init != "teacher":
        checks.check_same_tokens(load_tokenizer(config.backbone), data.splits["train"], config.backbone)
    checks.check_trained_labels(data.splits["train"].labels, data.task, config)
    layers, names, chooses = config.num_hidden_layers, data.task.label_names, data.task.choices > 0
    model = build_student(config.backbone, layers, names, init=init, teacher=teacher, seed=config.seed, chooses=chooses)
    checks.check_reads(model, data.splits.values(), config.backbone)
    return model


def _carry_out(job: Job, output_dir: str | Path | None, spent: dict[str, float] | None = None) -> Run:
    """Train, score every labelled split with the best epoch's weights, and write it all; spent: seconds before."""
    data, model, accelerator = job.data, job.model, job.accelerator
    fingerprints = {**data.fingerprints, "tokens": data.tokens, **job.taught}
    identity = {"config": job.config.model_dump_json(), "data": str(data.fingerprints), "tokens": data.tokens}
    identity |= {"task": str(data.task), "teacher": str(job.taught)}
    identity |= {"max_length": str(data.max_length), "processes": str(accelerator.num_processes)}
    used = {"num_hidden_layers": model.config.num_hidden_layers, "mixed_precision": accelerator.mixed_precision}
    if output_dir is not None:
        output_dir = Path(output_dir)
        start = {"run": job.name, "objective": checks.objective_fingerprint(job.objective)}
        start |= {"model": checks.config_fingerprint(model), "initial weights": weights_fingerprint(model)} | used
        job = replace(job, checkpoint=Checkpoint(output_dir, identity | start, job.name, accelerator))
    with job.on_epoch if isinstance(job.on_epoch, AbstractContextManager) else nullcontext():
        history, best_epoch = train(job)
    trained = time.perf_counter()
    record = RunRecord(
        **describe(model, data, accelerator, job.name, job.config.eval_batch_size),
        run_id=f"{job.name.replace(' ', '-')}-{digest(' '.join(identity.values()).encode())[:8]}",
        method=job.method, seed=job.config.seed, config=job.config.model_dump() | used,
        layer_map=list(job.objective.layers), best_epoch=best_epoch, history=history,
        fingerprints={**fingerprints, "weights": weights_fingerprint(model)},
        durations_s={  # of all epochs, those before an interruption too
            **(spent or {}), "training": sum(row["seconds"] for row in history),
            "evaluation": time.perf_counter() - trained,
        },
    )  # fmt: skip
    if output_dir is not None and accelerator.is_main_process:
        with checks.room_in(output_dir):
            (output_dir / RESULT_FILE).unlink(missing_ok=True)  # an earlier run's: its weights are overwritten now
            save_model(model, output_dir)
            data.tokenizer.save_pretrained(output_dir)
            card.write_card(output_dir, record.model_dump())
            save_result(record, output_dir)
        if job.checkpoint:
            job.checkpoint.path.unlink(missing_ok=True)  # only now: until here, nothing that was trained is lost
    accelerator.wait_for_everyone()  # so that any process may read what was written
    return Run(model, record)


def describe(
    model: PreTrainedModel, data: EncodedTask, accelerator: Accelerator, name: str, batch_size: int = 128
) -> dict[str, Any]:
    """What a record says of any model: its rows, its scores on every labelled split but train, and the machine."""
    metrics, majority = {}, {}
    for key, split in data.splits.items():
        if split.labels is not None and key != "train":
            logits = predict(model, split, batch_size, accelerator)
            metrics[key] = score(logits, split.labels, data.task)
            majority[key] = data.task.majority_scores(split.labels)
            if len(split) > 1 and len({*data.task.decide(logits).tolist()}) == 1:
                same = "gives one value" if data.task.is_regression else "names one class"
                accelerator.print(f"{name}: the model {same} for all {len(split)} {key} rows", flush=True)
    return {
        "task": data.task.name, "task_definition": data.task, **data.reading, "max_length": data.max_length,
        "train_rows": len(data.splits["train"]) - data.unlabelled_rows, "unlabelled_rows": data.unlabelled_rows,
        "eval_rows": {key: len(data.splits[key]) for key in metrics},
        "num_parameters": model.num_parameters(), "metrics": metrics, "majority": majority,
        "device": device_name(accelerator.device), "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
    }  # fmt: skip
