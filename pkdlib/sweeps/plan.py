"""From a grid to the runs it stands for, every parameter of each checked before anything starts."""

import difflib
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from transformers import AutoConfig

from pkdlib.engine.files import ROOT, locate
from pkdlib.engine.machine import VERSION
from pkdlib.readers.sources import load_split, load_task
from pkdlib.records import RESULT_FILE
from pkdlib.sweeps.grid import SEED, Grid, GridError, Stage, Then
from pkdlib.sweeps.notebooks import Template, read_template

FORMAT = 1  # of a run's identity; a new one leaves old runs unused
TEACHER = "teacher_dir"  # ends the name of a parameter that is filled with a teacher's folder
TEACHER_NOTEBOOK = "01_finetune_teacher"
MODELS = ("backbone", "large_backbone", "model_a", "model_b")  # hub ids or folders
SHARED = ("task", "source", "backbone", "train_rows", "max_length")  # a run's own are its teacher's too

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


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


def plan(grid: Grid, stage: Stage, file: str, kept: dict[str, Any] | None = None) -> list[PlannedRun]:
    """The runs of one stage in order, none twice; GridError with a line per mistake.

    kept: what an earlier stage has settled. file: the grid's, for the messages. The notebook's settings cell is
    executed for every run, in this process.
    """
    for remembered in (read_template, _layers_of, _rows, _model):
        remembered.cache_clear()  # notebooks and folders are looked at once per plan, and anew in the next
    try:
        read_template(grid.notebook)
    except ValueError as error:
        raise GridError(f"{file}: {error}") from None
    runs: dict[str, PlannedRun] = {}
    mistakes: dict[str, None] = {}
    inherited = {**grid.parameters, **(kept or {})} if isinstance(stage, Then) else {}
    seeds = stage.seeds or grid.seeds
    for axes in stage.model_copy(update={"seeds": seeds}).combinations():
        try:
            run = _run(grid.notebook, {**inherited, **stage.parameters, **axes}, axes)
            runs.setdefault(run.id, run)
        except ValueError as error:
            mistakes |= {f"{file}: {_place(line, grid, stage)}": None for line in str(error).splitlines()}
    if mistakes:
        raise GridError("\n".join(mistakes))
    return list(runs.values())


def teachers_of(runs: list[PlannedRun]) -> list[PlannedRun]:
    """The distinct teachers of the runs, in the order they are wanted."""
    return list({teacher.id: teacher for run in runs for teacher in run.teachers.values()}.values())


def _place(line: str, grid: Grid, stage: Stage) -> str:
    """The line, its parameter led by where in the file it stands."""
    name = re.match(r"[\w.]*", line)[0]
    for where, part in ((("then." if stage is grid.then else ""), stage), ("", grid)):
        entry = part.together[0] if part.together else {}
        for key, values in (("parameters", part.parameters), ("grid", part.grid), ("list", entry)):
            if name in values:
                return f"{where}{key}.{line}"
    return line


def _run(notebook: str, values: dict[str, Any], axes: dict[str, Any], kind: str = "runs") -> PlannedRun:
    """The run with these values; ValueError with a line per bad one."""
    template = read_template(notebook)
    parts: dict[str, dict[str, Any]] = {"": {}}
    for name, value in values.items():
        prefix, _, rest = name.rpartition(".")
        parts.setdefault(prefix, {})[rest] = value
    own = parts.pop("")
    if SEED in own and SEED not in template.defaults:
        own["seeds"] = own.pop(SEED)
    parameters = _typed(template, own)
    left = [name for name in parameters if name.endswith(TEACHER) and name not in own]
    takes = [name.removesuffix("_dir") for name in left]
    unknown = [f"{prefix}.{name}" for prefix, part in parts.items() if prefix not in takes for name in part]
    if unknown:
        given = f"the teachers it is given are {', '.join(takes)}" if takes else "it is given no teacher"
        raise ValueError("\n".join(f"{name}: no parameter of {template.name}; {given}" for name in unknown))
    template.check(parameters | {name: f"planned/{name}" for name in ("output_dir", *left)})
    shared = {name: own[name] for name in SHARED if name in own}
    teachers = {f"{prefix}_dir": _teacher(prefix, shared, parts.get(prefix, {})) for prefix in takes}
    parameters = {name: value for name, value in parameters.items() if name not in left}
    _check_models(parameters, teachers)
    texts = {name: value for name, value in parameters.items() if isinstance(value, str) and value}
    identity = [
        FORMAT, VERSION, template.fingerprint, parameters, _data(parameters),
        {name: content for name, value in texts.items() if (content := _model(locate(value)))},
        {name: teacher.id for name, teacher in teachers.items()},
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = f"{kind}/{_words(parameters, template)}-{digest[:8]}"
    return PlannedRun(template.path, parameters, axes, digest, folder, teachers)


def _words(parameters: dict[str, Any], template: Template) -> str:
    """A readable folder name made of the parameters that differ from the notebook's own values."""
    unlike = {name: value for name, value in parameters.items() if value != template.defaults[name]}
    parts = [(name, *(value if isinstance(value, list) else [Path(str(value)).name])) for name, value in unlike.items()]
    words = "-".join(str(word) for part in parts for word in part) or template.name
    return re.sub(r"[^A-Za-z0-9.]+", "-", words)[:80].strip("-")


def _teacher(prefix: str, shared: dict[str, Any], values: dict[str, Any]) -> PlannedRun:
    """A teacher with its run's shared values and its own; a mistake in its own is led by the prefix."""
    try:
        return _run(TEACHER_NOTEBOOK, shared | values, shared | values, "teachers")
    except ValueError as error:
        lines = str(error).splitlines()
        named = [f"{prefix}.{line}" if re.match(r"\w*", line)[0] in values else line for line in lines]
        raise ValueError("\n".join(named)) from None


def _typed(template: Template, values: dict[str, Any]) -> dict[str, Any]:
    """All parameters but output_dir, the given values as their defaults' types; one element of a list is a list."""
    parameters = {name: default for name, default in template.defaults.items() if name != "output_dir"}
    lines = [_unknown(name, template.name, list(parameters)) for name in values if name not in parameters]
    for name, value in values.items():
        if name not in parameters:
            continue
        default = parameters[name]
        elements = [value] if isinstance(default, list) and not isinstance(value, list) else value
        example = (*default, None)[0] if isinstance(default, list) else default  # None says nothing of the type
        kind = Any if example is None else type(example)
        adapter = TypeAdapter(list[kind] if isinstance(default, list) else kind, config={"allow_inf_nan": False})
        try:
            parameters[name] = adapter.validate_python(elements, strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]["input"]
            hint = ", not text: leave the quotes out" if kind in (int, float) and isinstance(wrong, str) else ""
            lines.append(f"{name} = {wrong!r}: must be {KINDS.get(kind, kind.__name__)}{hint}")
    if lines:
        raise ValueError("\n".join(lines))
    return parameters


def _unknown(name: str, notebook: str, known: list[str]) -> str:
    if name == "output_dir":
        return "output_dir: every run has a folder of its own; leave it out"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"{name}: unknown parameter of {notebook}; {hint}"


def _check_models(parameters: dict[str, Any], teachers: dict[str, PlannedRun]) -> None:
    """Refuse folders without a model, hub ids out of reach, and students deeper than a teacher of theirs."""
    for name, value in parameters.items():
        if name.endswith(TEACHER) and value and not (ROOT / value / RESULT_FILE).is_file():
            raise ValueError(f"{name} = {value!r}: no {RESULT_FILE} there, so no finished teacher")
    depths = {name: _layers_of(name, locate(parameters[name])) for name in (*MODELS, TEACHER) if parameters.get(name)}
    depths |= {name: _layers_of("backbone", locate(run.parameters["backbone"])) for name, run in teachers.items()}
    teaching = [depth for name, depth in depths.items() if name == "backbone" or name.endswith(TEACHER)]
    sizes = parameters.get("student_layers", [])
    for size in sizes if isinstance(sizes, list) else [sizes]:
        if teaching and size > min(teaching):
            raise ValueError(f"student_layers = {size}: must be between 1 and the teacher's {min(teaching)} layers")


@cache
def _layers_of(name: str, model: str) -> int:
    try:
        return AutoConfig.from_pretrained(model).num_hidden_layers
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} = {model!r}: no such folder or model: {str(error).splitlines()[0]}") from None


def _data(parameters: dict[str, Any]) -> str | None:
    """A fingerprint of the rows that the parameters name."""
    if "task" not in parameters or "source" not in parameters or parameters.get("texts"):
        return None
    return _rows(*(parameters.get(name) for name in ("task", "source", "train_rows", "split")))


@cache
def _rows(task: str, source: str, train_rows: int | None, split: str | None) -> str:
    try:
        if split:
            return load_split(task, source or None, split).fingerprint
        splits = load_task(task, source or None, train_rows=train_rows or None).splits
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        named = line.startswith(("task =", "train_rows ="))
        raise ValueError(line if named else f"source = {source!r}: {line}") from None
    return " ".join(splits[name].fingerprint for name in sorted(splits))


@cache
def _model(folder: str) -> str | None:
    """A fingerprint of the model in a folder; None where there is none."""
    config = Path(folder) / "config.json"
    if not config.is_file():
        return None
    digest = hashlib.sha256(config.read_bytes())
    for file in sorted(Path(folder).glob("*.safetensors")):
        digest.update(hashlib.file_digest(file.open("rb"), "sha256").digest())
    return digest.hexdigest()
