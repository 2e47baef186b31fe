"""From a grid to the runs it stands for, every parameter of each checked before anything starts."""

import json
import re
from dataclasses import dataclass, field
from functools import cache
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from transformers import AutoConfig

from pkdlib.engine.configs import complaints
from pkdlib.engine.files import ROOT, VERSION, digest, here, reach
from pkdlib.readers.sources import load_split, load_task
from pkdlib.records import RESULT_FILE
from pkdlib.sweeps.grid import SEED, Grid, GridError, Stage, Then
from pkdlib.sweeps.notebooks import read_template

FORMAT = 1  # of a run's identity; a new one leaves old runs unused
TEACHER = "teacher_dir"  # ends the name of a parameter that is filled with a teacher's folder
TEACHER_NOTEBOOK = "01_finetune_teacher"
MODELS = ("backbone", "large_backbone", "model_a", "model_b")  # hub ids or folders
SHARED = ("task", "source", "backbone", "train_rows", "max_length")  # a run's own are its teacher's too
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclass(frozen=True)
class PlannedRun:
    """One notebook with all its parameters; its id follows from its content, and its folder from its id."""

    notebook: Path
    parameters: dict[str, Any]
    axes: dict[str, Any]  # the values that tell it from the grid's other runs
    id: str
    folder: str  # within the sweep's
    teachers: dict[str, "PlannedRun"] = field(default_factory=dict)  # by the parameter that takes the folder

    @property
    def label(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.axes.items()) or self.notebook.stem

    def entry(self) -> dict[str, Any]:
        """What the sweep's file says of the run."""
        teachers = {name: teacher.folder for name, teacher in self.teachers.items()}
        return vars(self) | {"notebook": self.notebook.stem, "teachers": teachers}


def plan(grid: Grid, stage: Stage, file: str, kept: dict[str, Any] | None = None) -> list[PlannedRun]:
    """The runs of one stage in order, with what an earlier one has `kept`; GridError with a line per mistake."""
    for remembered in (read_template, _types, _layers_of, _rows, _model):
        remembered.cache_clear()  # notebooks and folders are looked at once per plan, and anew in the next
    places, inherited = dict(grid.places), {}
    if isinstance(stage, Then):
        places |= {name: f"then.{place}" for name, place in stage.places}
        inherited = grid.parameters | (kept or {})
    runs, mistakes = {}, {}
    for axes in stage.model_copy(update={"seeds": stage.seeds or grid.seeds}).combinations():
        try:
            run = _run(grid.notebook, inherited | stage.parameters | axes, axes)
            runs.setdefault(run.id, run)
        except ValueError as error:
            mistakes |= dict.fromkeys(f"{file}: {line}" for line in _placed(error, places).splitlines())
    if mistakes:
        raise GridError("\n".join(mistakes))
    return list(runs.values())


def teachers_of(runs: list[PlannedRun]) -> list[PlannedRun]:
    """The distinct teachers of the runs, in the order they are wanted."""
    return list({teacher.id: teacher for run in runs for teacher in run.teachers.values()}.values())


def _placed(error: ValueError, places: dict[str, str]) -> str:
    """The error's lines, each led by where its parameter stands."""
    return re.sub(r"^[\w.]+", lambda name: places.get(name[0], name[0]), str(error), flags=re.MULTILINE)


def _run(notebook: str, values: dict[str, Any], axes: dict[str, Any], kind: str = "runs") -> PlannedRun:
    """The run with these values; ValueError with a line per bad one."""
    template = read_template(notebook)
    own = {name: value for name, value in values.items() if "." not in name}
    if SEED in own and SEED not in template.defaults:
        own["seeds"] = own.pop(SEED)
    try:
        typed = _types(notebook).model_validate(own).model_dump(by_alias=True, warnings=False)
    except ValidationError as error:
        lines = "\n".join(complaints(_types(notebook), error))
        raise ValueError(re.sub(" = .*: unknown name", ": unknown name", lines)) from None  # once for all its values
    takes = [name.removesuffix("_dir") for name in typed if name.endswith(TEACHER) and name not in own]
    if lost := [name for name in values if "." in name and name.partition(".")[0] not in takes]:
        given = f"no parameter of {template.path.stem}; the teachers it is given are {', '.join(takes) or 'none'}"
        raise ValueError("\n".join(f"{name}: {given}" for name in lost))
    template.check(typed | {f"{name}_dir": f"planned/{name}" for name in ("output", *takes)})
    teachers: dict[str, PlannedRun] = {}
    shared = {name: own[name] for name in SHARED if name in own}
    for prefix in takes:
        special = {name.partition(".")[2]: values[name] for name in values if name.startswith(f"{prefix}.")}
        try:
            teachers[f"{prefix}_dir"] = _run(TEACHER_NOTEBOOK, shared | special, shared | special, "teachers")
        except ValueError as error:
            raise ValueError(_placed(error, {name: f"{prefix}.{name}" for name in special})) from None
    parameters = {name: value for name, value in typed.items() if name not in teachers}
    _check_models(parameters, teachers)
    rows = [parameters.get(name) for name in ("task", "source", "train_rows", "split")]
    with_rows = {"task", "source"} <= parameters.keys() and not parameters.get("texts")
    identity = [
        FORMAT, VERSION, template.fingerprint, parameters, _rows(*rows) if with_rows else None,
        {name: _model(value) for name, value in parameters.items() if isinstance(value, str)},
        {name: teacher.id for name, teacher in teachers.items()},
    ]  # fmt: skip
    name = digest(json.dumps(identity, sort_keys=True).encode())
    unlike = {name: value for name, value in parameters.items() if value != template.defaults[name]}
    words = "-".join(f"{name}-{Path(str(value)).name}" for name, value in unlike.items()) or template.path.stem
    words = re.sub(r"[^A-Za-z0-9.]+", "-", words)[:80].strip("-")
    return PlannedRun(template.path, parameters, axes, name, f"{kind}/{words}-{name[:8]}", teachers)


@cache
def _types(notebook: str) -> type[BaseModel]:
    """A notebook's parameters but output_dir, each of its default's type; one element of a list is a list."""
    fields: dict[str, Any] = {}
    for name, default in read_template(notebook).defaults.items():
        example = (*default, None)[0] if isinstance(default, list) else default  # None says nothing of the type
        kind: Any = Any if example is None else type(example)
        if isinstance(default, list):
            kind = Annotated[list[kind], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]
        if name != "output_dir":
            fields[f"field_{len(fields)}"] = kind, Field(default, alias=name)  # BaseModel keeps some names for itself
    return create_model("Parameters", __config__=STRICT, **fields)


def _check_models(parameters: dict[str, Any], teachers: dict[str, PlannedRun]) -> None:
    """Refuse folders without a model, hub ids out of reach, and students deeper than a teacher of theirs."""
    depths = {name: _layers_of("backbone", run.parameters["backbone"]) for name, run in teachers.items()}
    for name, value in parameters.items():
        if name.endswith(TEACHER) and value and not (ROOT / value / RESULT_FILE).is_file():
            raise ValueError(f"{name} = {value!r}: no {RESULT_FILE} there, so no finished teacher")
        if (name in MODELS or name.endswith(TEACHER)) and value:
            depths[name] = _layers_of(name, value)
    sizes = parameters.get("student_layers", 0)
    size = max(sizes, default=0) if isinstance(sizes, list) else sizes
    limit = min((depths[name] for name in depths if name == "backbone" or name.endswith(TEACHER)), default=size)
    if size > limit:
        raise ValueError(f"student_layers = {size}: must be between 1 and the teacher's {limit} layers")


@cache
def _layers_of(name: str, model: str) -> int:
    try:
        return AutoConfig.from_pretrained(reach(model, name)).num_hidden_layers
    except (OSError, ValueError) as error:
        if str(error).startswith(f"{name} = "):
            raise ValueError(str(error)) from None
        raise ValueError(f"{name} = {model!r}: no such folder or model: {str(error).splitlines()[0]}") from None


@cache
def _rows(task: str, source: str, train_rows: int | None, split: str | None) -> str:
    """A fingerprint of the rows that the parameters name."""
    try:
        if split:
            return load_split(task, source or None, split).fingerprint
        splits = load_task(task, source or None, train_rows=train_rows or None).splits
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        where = "" if line.startswith(("task =", "train_rows =", "source =")) else f"source = {source!r}: "
        raise ValueError(where + line) from None
    return " ".join(splits[name].fingerprint for name in sorted(splits))


@cache
def _model(name: str) -> str:
    """A fingerprint of the model in a local folder, empty where there is none."""
    folders = map(Path, here(name)[:1])
    files = sorted(
        path for folder in folders for kind in ("config.json", "*.safetensors") for path in folder.glob(kind)
    )
    return " ".join(file_digest(file.open("rb"), "sha256").hexdigest()[:16] for file in files)  # not whole in memory
