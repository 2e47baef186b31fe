"""Multi-task distillation, the paper's second wish: one encoder with a head a task, each task with its own teacher."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from pydantic import field_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import AutoConfig, AutoModel, PreTrainedModel

from pkdlib.config import DistillConfig
from pkdlib.data import Batch, EncodedTask
from pkdlib.engine import checks
from pkdlib.engine.batches import LengthGroupedBatches, make_loader
from pkdlib.engine.card import write_card
from pkdlib.engine.checkpoints import Checkpoint, weights_fingerprint
from pkdlib.engine.configs import ConfigError, pick
from pkdlib.engine.files import digest, locate, save_model, write_text
from pkdlib.engine.machine import make_accelerator
from pkdlib.engine.trackers import OnEpoch
from pkdlib.loop import Job, train
from pkdlib.models import Output, build_student, load_tokenizer
from pkdlib.objectives import Objective
from pkdlib.records import RESULT_FILE, RunRecord, save_result
from pkdlib.targets import CACHE
from pkdlib.training import describe, prepare, taught_by

WEIGHTS_FILE = "model.safetensors"
TASKS_FILE = "tasks.json"  # beside the weights: what each head is, in their order
MARK = "task:"  # begins the name of a batch's entry that says whose rows they are


class MultiTaskConfig(DistillConfig):
    """A distillation on several tasks: each field but `sampling` is as for `distill`, of every task."""

    init: Literal["pretrained", "random"] = "pretrained"  # not "teacher", as there are several
    static_shapes: bool | None = False  # the heads of other tasks get no gradient; a recorded step would move them too
    sampling: Literal["size", "sqrt"] = "size"  # a task's share of an epoch's batches: as its rows, or as their root

    @field_validator("static_shapes")
    @classmethod
    def _plain_steps(cls, static: bool | None) -> bool | None:
        if static is not False:
            raise ValueError("must be False with several tasks")
        return static


@dataclass(frozen=True)
class MultiTaskRun:
    """What came of several tasks: their classifiers of one encoder, and a record each."""

    models: dict[str, PreTrainedModel]
    records: dict[str, RunRecord]


# ---------------------------------------------------------------------------------------------- one encoder, many heads
class TaskModels(nn.Module):
    """Plain transformers classifiers of several tasks, all of which are given one encoder.

    It is the first one's with a pooler, where any has one: a head for choices needs it, others may do without.
    """

    def __init__(self, classifiers: Mapping[str, PreTrainedModel]):
        super().__init__()
        self.classifiers = dict(classifiers)  # torch does not look into a dict: their parts are its modules, each once
        bodies = [model.base_model for model in classifiers.values()]
        self.encoder = max(bodies, key=lambda body: getattr(body, "pooler", None) is not None)  # of equals the first
        self.heads = nn.ModuleList()
        for model in classifiers.values():
            setattr(model, model.base_model_prefix, self.encoder)
            parts = {name: part for name, part in model.named_children() if part is not self.encoder}
            self.heads.append(nn.ModuleDict(parts))
        self.config = self.encoder.config

    @property
    def base_model(self) -> PreTrainedModel:
        return self.encoder  # under the name by which `run` looks for it

    def forward(self, **inputs: Any) -> Output:
        task = task_of(inputs)
        del inputs[MARK + task]
        return self.classifiers[task](**inputs)

    def train(self, mode: bool = True) -> "TaskModels":
        for model in self.classifiers.values():
            model.train(mode)
        return super().train(mode)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the encoder and all heads as one safetensors file, what they are as JSON; `load_tasks` reads it."""
        self.config.save_pretrained(folder)
        heads = {
            task: {"label_names": checks.class_names(model), "chooses": checks.chooses(model)}
            for task, model in self.classifiers.items()
        }
        write_text(Path(folder) / TASKS_FILE, json.dumps(heads, indent=1) + "\n")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, Path(folder) / WEIGHTS_FILE, {"format": "pt"})


@checks.checked
def load_tasks(folder: str | Path) -> TaskModels:
    """The models of a folder that `distill_tasks` wrote, in evaluation mode; one line of error where it has none."""
    place = Path(locate(folder, "folder"))
    with checks.loading(folder), torch.random.fork_rng():
        heads = json.loads((place / TASKS_FILE).read_text(encoding="utf-8"))
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(place))
        models = TaskModels({task: build_student(encoder, None, init="random", **own) for task, own in heads.items()})
        models.load_state_dict(load_file(place / WEIGHTS_FILE))
    return models.eval()


@checks.checked
def write_task(folder: str | Path, task: str, output_dir: str | Path | None = None) -> Path:
    """Write one task's classifier as a plain transformers folder with its tokenizer, card and record; its path.

    folder: `distill_tasks`'s. output_dir: `folder`/task unless told, where the record already is.
    """
    models = load_tasks(folder)
    model, place = pick("task", task, models.classifiers), Path(locate(folder, "folder"))
    output_dir = Path(output_dir or place / task)
    record = RunRecord.model_validate_json((place / task / RESULT_FILE).read_bytes())
    with checks.own_folder(output_dir, [folder], model), checks.room_in(output_dir):
        save_model(model, output_dir)
        load_tokenizer(folder).save_pretrained(output_dir)
        write_card(output_dir, record.model_dump())
        save_result(record, output_dir)
    return output_dir


# ------------------------------------------------------------------------------------------------ batches of one task
def batches_per_epoch(rows: Sequence[int], batch_size: int, sampling: str) -> list[int]:
    """How many batches of each task an epoch has, given how many rows each has.

    "size": as many as its rows fill, so that every row comes once. "sqrt": about as many in all, in proportion to the
    square roots of the rows, at least one each: a small task's rows come more than once, a large one's not all.
    """
    filled = [-(-own // batch_size) for own in rows]
    if sampling == "size":
        return filled
    roots = np.sqrt(rows)
    return [max(1, round(share)) for share in sum(filled) * roots / roots.sum()]


class TaskBatches(Sampler[tuple[str, list[int]]]):
    """An epoch's batches, each a task and some of its rows, in an order drawn from (seed, epoch)."""

    def __init__(self, tasks: Mapping[str, LengthGroupedBatches], sampling: str, seed: int):
        self.tasks, self.seed, self.epoch = tasks, seed, 0
        size = next(iter(tasks.values())).rows_per_batch
        self.shares = batches_per_epoch([len(own.lengths) for own in tasks.values()], size, sampling)

    def __len__(self) -> int:
        return sum(self.shares)

    def __iter__(self) -> Iterator[tuple[str, list[int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(np.repeat([*self.tasks], self.shares))
        own = {task: self._share(task, share) for task, share in zip(self.tasks, self.shares, strict=True)}
        return ((str(task), next(own[task])) for task in order)

    def _share(self, task: str, share: int) -> Iterator[list[int]]:
        """A task's batches of this epoch: it goes on where the last epoch ended, pass after pass over its rows."""
        passed, skipped = divmod((self.epoch - 1) * share, len(self.tasks[task]))
        passes = (self._pass(task, number) for number in count(passed + 1))
        return islice(chain.from_iterable(passes), skipped, skipped + share)

    def _pass(self, task: str, number: int) -> list[list[int]]:
        self.tasks[task].epoch = number
        return list(self.tasks[task])


class _Rows(Dataset):
    """The training rows of several tasks; an index is an entry of `TaskBatches`."""

    def __init__(self, loaders: Mapping[str, DataLoader]):
        self.loaders = loaders

    def __getitems__(self, index: tuple[str, list[int]]) -> Batch:
        task, rows = index
        loader = self.loaders[task]
        return loader.collate_fn(loader.dataset[rows]) | {MARK + task: torch.tensor(rows)}


def task_of(batch: Mapping[str, Any]) -> str:
    """Whose rows a batch has. An entry's name says so: for a tensor's value a GPU would have to be waited for."""
    return next(name.removeprefix(MARK) for name in batch if name.startswith(MARK))


# ----------------------------------------------------------------------------------------------------- their training
class _Goals(Objective):
    """The objectives of several tasks: the loss of a batch is that of its own task.

    The terms of every task follow, then its right answers and its rows; all are zero for the other tasks of a batch, so
    that an epoch's sums are each task's own.
    """

    def __init__(self, config: DistillConfig, model: Any, jobs: Mapping[str, Job]):
        super().__init__(config, model)
        self.tasks, self.goals = list(jobs), nn.ModuleList([job.objective for job in jobs.values()])
        self.asks = next(iter(jobs.values())).objective.asks  # one class and configuration: all ask for the same
        self.wants = {name: want for job in jobs.values() for name, want in job.objective.wants.items()}
        counted = [(task, name) for task, job in jobs.items() for name in (*job.objective.names, "right", "rows")]
        self.names = ["loss", *(f"{task}/{name}" for task, name in counted)]

    def begin(self, epoch: int) -> None:
        for goal in self.goals:
            goal.begin(epoch)

    def forward(self, output: Output, batch: Batch) -> list[Tensor]:
        terms, zero = [], output.logits.new_zeros(())
        for task, goal in zip(self.tasks, self.goals, strict=True):
            own = [zero] * (len(goal.names) + 2)
            if task == task_of(batch):
                right = (output.logits.argmax(dim=-1) == batch["labels"]).float().mean()
                own = [*checks.check_terms(goal, goal(output, batch)), right, torch.ones_like(right)]
                loss = own[0]
            terms += own
        return [loss, *terms]


@dataclass(frozen=True)
class TasksJob(Job):
    """The trainings of several tasks as one. Its history has each task's figures as "task/name"."""

    jobs: Mapping[str, Job] = field(default_factory=dict)  # by task, each with its own data, objective and targets

    @property
    def name(self) -> str:
        layers = self.model.config.num_hidden_layers
        return f"{' + '.join(self.jobs)} {self.method} {layers} layers seed {self.config.seed}"

    def batches(self, multiple: int) -> tuple[TaskBatches, DataLoader]:  # type: ignore[override]
        parts = {task: job.batches(multiple) for task, job in self.jobs.items()}
        batches = TaskBatches({task: own for task, (own, _) in parts.items()}, self.config.sampling, self.config.seed)
        rows = _Rows({task: loader for task, (_, loader) in parts.items()})
        return batches, self.accelerator.prepare_data_loader(make_loader(rows, batches))

    def figures(self, epoch: int, sums: Tensor) -> dict[str, float]:
        """Every task's figures, from the sums of its own terms."""
        own = sums[1:-2].split([len(job.objective.names) + 2 for job in self.jobs.values()])
        figures = {task: job.figures(epoch, part) for (task, job), part in zip(self.jobs.items(), own, strict=True)}
        return {f"{task}/{name}": figure for task, of_task in figures.items() for name, figure in of_task.items()}

    def quality(self, row: dict[str, float]) -> tuple[float, float]:
        """What makes an epoch the best: the mean over tasks of each one's first metric on dev, then of their losses."""
        scores, losses = zip(*(job.quality(_row_of(task, row)) for task, job in self.jobs.items()), strict=True)
        return fmean(scores), fmean(losses)

    def told(self, row: dict[str, float]) -> str:
        loss = fmean(row[f"{task}/train_loss"] for task in self.jobs)
        dev = {task: job.quality(_row_of(task, row))[0] for task, job in self.jobs.items()}
        scores = ", ".join(f"{task} {self.jobs[task].data.task.metrics[0]} {score:.4f}" for task, score in dev.items())
        return f"train loss {loss:.4f}, dev {scores}, mean {fmean(dev.values()):.4f}, {row['seconds']:.1f} s"


def _row_of(task: str, row: Mapping[str, float]) -> dict[str, float]:
    """A task's own part of an epoch's figures."""
    return {name.rpartition("/")[2]: figure for name, figure in row.items() if name.rpartition("/")[0] == task}


@checks.checked
def distill_tasks(
    data: Sequence[EncodedTask], config: MultiTaskConfig, teachers: Mapping[str, PreTrainedModel | str | Path],
    output_dir: str | Path | None = None, cache_dir: str | Path = CACHE, on_epoch: OnEpoch | None = None,
) -> MultiTaskRun:  # fmt: skip
    """Train one student on several tasks, each on its labels and, as alpha and beta say, on its own teacher (L_PKD).

    teachers: by the tasks' names; {} will do where alpha = beta = 0. A batch is of one task (`batches_per_epoch` says
    how many of each). The epoch is kept in which the mean of the tasks' first metrics on dev is best. The order of
    `data` does not matter. on_epoch gets `TaskModels`, and figures called "task/name"; the rest is as for `distill`.

    With output_dir, the encoder and all heads are written there once, for `load_tasks` and `write_task`, and each
    task's record into a folder of its name. Raises ValueError, before any training, where tasks, teachers and rows do
    not fit, the rows are not of the backbone's tokenizer, or there are several processes.
    """
    accelerator = make_accelerator(config.mixed_precision)
    by_name = {one.task.name: one for one in sorted(data, key=lambda one: one.task.name)}
    _check(data, config, teachers, accelerator.num_processes)
    prepared = {task: prepare(own, config, teachers.get(task), accelerator) for task, own in by_name.items()}
    models: Any = TaskModels({task: job.model for task, (job, _) in prepared.items()})
    inputs = [config.backbone, *(one.reading["source"] for one in data)]
    inputs += [teacher.name_or_path for _, teacher in prepared.values() if teacher is not None]
    with checks.own_folder(output_dir, inputs, models):
        started = time.perf_counter()
        jobs = {task: taught_by(teacher, job, cache_dir) for task, (job, teacher) in prepared.items()}
        del prepared  # and with it the teachers, whose outputs are kept
        first = next(iter(jobs.values()))
        goals = _Goals(config, models, jobs)
        job = TasksJob(first.method, models, first.data, config, accelerator, goals, jobs=jobs, on_epoch=on_epoch)
        return _carry_out(job, output_dir, {"teacher_outputs": time.perf_counter() - started})


def _check(data: Sequence[EncodedTask], config: MultiTaskConfig, teachers: Mapping[str, Any], processes: int) -> None:
    names = [one.task.name for one in data]
    if not names or len({*names}) < len(names) or any(Path(name).name != name or name == ".." for name in names):
        raise ConfigError(f"data = {names}: must be at least one task, of different names that folders can have")
    if (config.alpha or config.beta or teachers) and {*teachers} != {*names}:
        raise ConfigError(f"teachers = {sorted(teachers)}: must be one for each of {', '.join(names)}")
    if processes > 1:  # which would wait for the gradients of all heads
        raise ConfigError(f"processes = {processes}: must be 1 with several tasks")


def _carry_out(job: TasksJob, output_dir: str | Path | None, spent: dict[str, float]) -> MultiTaskRun:
    """Train, score every task with the best epoch's weights, and write it all; spent: seconds before."""
    origin = {task: _origin(own) for task, own in job.jobs.items()}
    if output_dir is not None:
        output_dir = Path(output_dir)
        start = {"run": job.name, "objective": checks.objective_fingerprint(job.objective)}
        start |= {"model": checks.config_fingerprint(job.model), "initial weights": weights_fingerprint(job.model)}
        start |= {"mixed_precision": job.accelerator.mixed_precision}
        job = replace(job, checkpoint=Checkpoint(output_dir, {"tasks": str(origin)} | start, job.name, job.accelerator))
    with job.on_epoch if isinstance(job.on_epoch, AbstractContextManager) else nullcontext():
        history, best_epoch = train(job)
    key = digest(" ".join(origin.values()).encode())[:8]  # of all tasks: with others this one's result is another
    records = {}
    for task, own in job.jobs.items():
        started, used = time.perf_counter(), {"num_hidden_layers": own.model.config.num_hidden_layers}
        used |= {"mixed_precision": job.accelerator.mixed_precision, "tasks": [*job.jobs]}
        others = [one for name, one in job.jobs.items() if name != task]
        beside = {"other_rows": [one.data.fingerprints["train"] for one in others]}  # by these, comparisons tell runs
        beside |= {"other_teachers": [one.taught for one in others]}  # of equal tasks apart
        weights = {"tokens": own.data.tokens, **own.taught, "weights": weights_fingerprint(own.model)}
        weights |= {name: digest(str(value).encode()) for name, value in beside.items() if others}
        seconds = {"training": sum(row["seconds"] for row in history)}  # of all tasks together, as each epoch's are
        rows = [{"epoch": row["epoch"], **_row_of(task, row), "seconds": row["seconds"]} for row in history]
        records[task] = RunRecord(
            **describe(own.model, own.data, job.accelerator, own.name, job.config.eval_batch_size),
            run_id=f"{own.name.replace(' ', '-')}-{key}", method=own.method, seed=job.config.seed,
            config=job.config.model_dump() | used, layer_map=list(own.objective.layers), best_epoch=best_epoch,
            history=rows, fingerprints=own.data.fingerprints | weights,
            durations_s={**spent, **seconds, "evaluation": time.perf_counter() - started},
        )  # fmt: skip
    if output_dir is not None:
        with checks.room_in(output_dir):
            for task in records:
                for file in (RESULT_FILE, "README.md", "config.json", WEIGHTS_FILE):  # of an earlier run's classifier
                    (output_dir / task / file).unlink(missing_ok=True)
            save_model(job.model, output_dir)
            job.data.tokenizer.save_pretrained(output_dir)
            for task, record in records.items():
                save_result(record, output_dir / task)
        if job.checkpoint:
            job.checkpoint.path.unlink(missing_ok=True)
    return MultiTaskRun({task: own.model for task, own in job.jobs.items()}, records)


def _origin(job: Job) -> str:
    """All that a task adds to what the run's result follows from, but what its model starts from."""
    data = job.data
    return str([job.config.model_dump_json(), data.fingerprints, data.tokens, data.task, data.max_length, job.taught])
