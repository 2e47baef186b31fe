"""A finished teacher and its rows: of this kit, or any fine-tuned classifier whose data are named."""

from collections.abc import Iterable, Mapping
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from pkdlib.config import DistillConfig
from pkdlib.data import EncodedTask, encode_task
from pkdlib.engine.checkpoints import weights_fingerprint
from pkdlib.engine.checks import check_same_tokens
from pkdlib.engine.configs import ConfigError
from pkdlib.engine.files import here, locate, reach
from pkdlib.engine.machine import make_accelerator
from pkdlib.models import load_classifier, load_tokenizer
from pkdlib.objectives import PKD, pkd_wants, taken_layers
from pkdlib.readers.own import CUSTOM, load_rows, reading_of
from pkdlib.readers.records import load_records
from pkdlib.readers.sources import reload_data
from pkdlib.records import RESULT_FILE, RunRecord
from pkdlib.targets import CACHE, Want, teacher_targets
from pkdlib.training import Run, describe

NEEDED = ("task", "max_length", "backbone")  # what a record would say, and nobody can guess


def record_of(teacher: str | Path, parameter: str = "teacher_dir") -> RunRecord | None:
    """The record beside a model; None where there is none. Raises as `locate` where there can be no model either."""
    file = Path(locate(teacher, parameter)) / RESULT_FILE
    return load_records(file)[0] if file.is_file() else None


def check_named(parameter: str, teacher: str, named: Mapping[str, Any]) -> None:
    """ConfigError unless the teacher has a record, or all is named of what is NEEDED (and a parameter) without one."""
    needed = [name for name in NEEDED if name in named] or NEEDED
    lacking = [name for name in needed if not named.get(name)]
    if record_of(teacher, parameter) is None and lacking:
        raise ConfigError(
            f"{parameter} = {teacher!r}: no {RESULT_FILE} there, so no finished teacher of this kit; "
            f"of another classifier, name {', '.join(lacking)}"
        )


def _check_agreement(record: RunRecord, teacher: str, named: Mapping[str, Any]) -> None:
    task = record.get_task()
    said = {
        name: getattr(record, name) for name in ("source", "train_rows", "max_length", "dataset_config", "dev_fraction")
    }
    said |= {"task": CUSTOM if task.name.startswith(CUSTOM) else task.name, "backbone": record.config["backbone"]}
    said |= {"text_columns": [*task.columns], "label_column": task.label_column}
    for name, value in {**said, "label_names": [*task.label_names], "metrics": [*task.metrics]}.items():
        given = named.get(name) or value  # empty or 0: as the record says
        if (here(str(given)) or [str(given)])[0] != (here(str(value)) or [str(value)])[0]:
            raise ConfigError(f"{name} = {given!r}: the record of {teacher} says {value!r}; leave it empty")


def check_students(students: Iterable[DistillConfig], teacher: str, backbone: str) -> None:
    """ConfigError where a student is deeper than what it starts from or its teacher, or their widths do not fit.

    By the two models' configurations alone: no weights are read.
    """
    shapes = {name: _configuration(name) for name in (teacher, backbone)}
    for student in students:
        size, start = student.num_hidden_layers, copy(shapes[teacher if student.init == "teacher" else backbone])
        for name, shape in shapes.items():
            if size and size > shape.num_hidden_layers:
                raise ConfigError(f"student_layers = {size}: must be at most {shape.num_hidden_layers}, as {name} has")
        start.num_hidden_layers = size or start.num_hidden_layers
        models: Any = (SimpleNamespace(config=shape) for shape in (start, shapes[teacher]))
        try:
            PKD(student, *models)  # which looks at configurations alone
        except ValueError as error:
            raise ConfigError(f"{error} ({teacher}, students of {backbone})") from None


def _configuration(model: str) -> Any:
    try:
        return AutoConfig.from_pretrained(reach(model))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model}: no such folder or model: {str(error).splitlines()[0]}") from None


def load_teacher_data(
    teacher_dir: str, students: Iterable[DistillConfig] = (), **named: Any
) -> tuple[EncodedTask, str]:
    """The rows that a teacher was trained on, and the backbone from which its students start.

    They are those of its record, or those named, as the notebooks' parameters are: what `load_rows` takes, max_length
    and backbone; where there is a record too, they must agree. Raises ConfigError before any row is read, as
    `check_named` and, of the students, `check_students` do.
    """
    check_named("teacher_dir", teacher_dir, named)
    if record := record_of(teacher_dir):
        if named.get("source") and not here(record.source):  # moved: `reload_data` sees whether they are the same rows
            record = record.model_copy(update={"source": named["source"]})
        _check_agreement(record, teacher_dir, named)
    backbone = record.config["backbone"] if record else named["backbone"]
    check_students(students, teacher_dir, backbone)
    if record:
        return reload_data(record, named.get("unlabelled", "")), backbone
    raw = load_rows(**reading_of(named))
    return encode_task(raw, load_tokenizer(backbone), named["max_length"]), backbone


def load_teacher(teacher: str, data: EncodedTask, backbone: str) -> Run:
    """A finished teacher, its classes in the task's order, and its record: where none is there, one made here.

    That holds its scores on these rows, and `backbone` as what students start from. ValueError where the teacher has
    other classes or tokens, or was trained on other rows.
    """
    model, record = load_classifier(teacher, data.task.label_names), record_of(teacher)
    check_same_tokens(load_tokenizer(teacher), data.splits["train"], teacher)
    weights = weights_fingerprint(model)
    if record:
        if record.fingerprints["weights"] != weights:
            raise ValueError(f"teacher_dir = {teacher!r}: its weights are not those of its {RESULT_FILE}")
        if record.fingerprints["train"] != data.fingerprints["train"]:
            raise ValueError(f"teacher_dir = {teacher!r}: trained on other rows than those of {data.reading['source']}")
        return Run(model, record)
    record = RunRecord(
        **describe(model, data, make_accelerator(), teacher), run_id=f"{data.task.name}-teacher-{weights[:8]}",
        method="teacher", seed=0, layer_map=[], best_epoch=0, history=[], durations_s={},
        config={"backbone": backbone, "num_hidden_layers": model.config.num_hidden_layers},
        fingerprints={**data.fingerprints, "tokens": data.tokens, "weights": weights},
    )  # fmt: skip
    return Run(model, record)


def cache_targets(
    teacher: PreTrainedModel, data: EncodedTask, students: Iterable[DistillConfig], cache_dir: str | Path = CACHE
) -> None:
    """Keep in cache_dir what `distill` will want of a teacher for these students: one pass of it for them all."""
    wants: dict[str, Want] = {}
    taught = [student for student in students if student.alpha or student.beta]
    for student in taught:
        size = student.num_hidden_layers or teacher.config.num_hidden_layers
        depths = teacher.config.num_hidden_layers, size
        wants |= pkd_wants(taken_layers(*depths, student) if student.beta else ())
    if taught:
        asks = {"output_hidden_states": len(wants) > 1, "cls_alone": taught[0].last_layer == "cls"}
        size, accelerator = taught[0].eval_batch_size, make_accelerator(taught[0].mixed_precision)
        teacher_targets(teacher, data.splits["train"], wants, cache_dir, asks, size, accelerator)
