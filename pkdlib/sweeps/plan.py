"""From a grid to the runs it stands for, every parameter of each checked before anything starts."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from transformers import AutoConfig

from pkdlib import config as configs
from pkdlib.config import METHODS
from pkdlib.engine.complaints import complaints
from pkdlib.engine.files import ROOT, locate
from pkdlib.engine.machine import VERSION
from pkdlib.layer_maps import layer_map
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

    kept: what an earlier stage has settled. file: the grid's, for the messages.
    """
    for remembered in (_teacher_template, _layers_of, _rows, _model):
        remembered.cache_clear()  # what lies in a folder is looked at once per plan, and anew in the next
    template, runs, mistakes = _template(grid.notebook, file), {}, []
    inherited = {**grid.parameters, **(kept or {})} if isinstance(stage, Then) else {}
    seeds = stage.seeds or grid.seeds
    for axes in stage.model_copy(update={"seeds": seeds}).combinations():
        try:
            run = _run(template, {**inherited, **stage.parameters, **axes}, axes)
            runs.setdefault(run.id, run)
        except ValueError as error:
            mistakes += [f"{file}: {_place(line, grid, stage)}" for line in str(error).splitlines()]
    if mistakes:
        raise GridError("\n".join(dict.fromkeys(mistakes)))
    return list(runs.values())


def teachers_of(runs: list[PlannedRun]) -> list[PlannedRun]:
    """The distinct teachers of the runs, in the order they are wanted."""
    return list({teacher.id: teacher for run in runs for teacher in run.teachers.values()}.values())


def _template(name: str, file: str) -> Template:
    try:
        return read_template(name)
    except ValueError as error:
        raise GridError(f"{file}: {error}") from None


def _place(line: str, grid: Grid, stage: Stage) -> str:
    """The line, its parameter led by where in the file it stands."""
    line = re.sub(r"^(\w+)\.\d+(?= )", r"\1", line)  # of a list's element: in the grid it stands for itself
    name = re.match(r"[\w.]+", line)
    for where, part in ((("then." if stage is grid.then else ""), stage), ("", grid)):
        entry = part.together[0] if part.together else {}
        for key, found in (("parameters", part.parameters), ("grid", part.grid), ("list", entry)):
            if name and name[0] in found:
                return f"{where}{key}.{line}"
    return line


def _run(template: Template, values: dict[str, Any], axes: dict[str, Any], kind: str = "runs") -> PlannedRun:
    """The run with these values; ValueError with a line per bad one."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        prefix, _, rest = name.rpartition(".")
        parts.setdefault(prefix, {})[rest] = value
    own = parts.pop("", {})
    if SEED in own and SEED not in template.defaults:
        own["seeds"] = own.pop(SEED)
    parameters = _checked(template, own)
    free = [name.removesuffix("_dir") for name in parameters if name.endswith(TEACHER) and name not in own]
    unknown = [f"{prefix}.{name}" for prefix, part in parts.items() for name in part if prefix not in free]
    if unknown:
        takes = f"the teachers it is given are {', '.join(free)}" if free else "it is given no teacher"
        raise ValueError("\n".join(f"{name}: no parameter of {template.name}; {takes}" for name in unknown))
    shared = {name: own[name] for name in SHARED if name in own}
    teachers = {f"{prefix}_dir": _teacher(prefix, shared, parts.get(prefix, {})) for prefix in free}
    parameters = {name: value for name, value in parameters.items() if name not in teachers}
    _check_models(parameters)
    _check_layers(parameters, teachers)
    identity = [
        FORMAT, VERSION, template.fingerprint, parameters, _data(parameters),
        {name: found for name, value in parameters.items() if (found := _content(value))},
        {name: teacher.id for name, teacher in teachers.items()},
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = f"{kind}/{_words(parameters, template)}-{digest[:8]}"
    return PlannedRun(template.path, parameters, axes, digest, folder, teachers)


def _words(parameters: dict[str, Any], template: Template) -> str:
    """What is not as in the notebook, for a person who looks for a run; of the content alone, as its id is."""
    unlike = {name: value for name, value in parameters.items() if value != template.defaults[name]}
    parts = [(name, *(value if isinstance(value, list) else [Path(str(value)).name])) for name, value in unlike.items()]
    words = "-".join(str(word) for part in parts for word in part) or template.name
    return re.sub(r"[^A-Za-z0-9.]+", "-", words)[:80].strip("-")


@cache
def _teacher_template() -> Template:
    return read_template(TEACHER_NOTEBOOK)


def _teacher(prefix: str, shared: dict[str, Any], values: dict[str, Any]) -> PlannedRun:
    try:
        theirs = {**shared, **values}
        return _run(_teacher_template(), theirs, theirs, "teachers")
    except ValueError as error:
        lines = str(error).splitlines()
        named = [line if re.match(r"\w+", line)[0] in shared else f"{prefix}.{line}" for line in lines]
        raise ValueError("\n".join(named)) from None


def _checked(template: Template, values: dict[str, Any]) -> dict[str, Any]:
    """All parameters but output_dir, of their defaults' types, accepted by every configuration that the code names."""
    defaults = {name: value for name, value in template.defaults.items() if name != "output_dir"}
    lines = [_unknown(name, template.name, defaults) for name in values if name not in defaults]
    parameters = dict(defaults)
    for name in values.keys() & defaults.keys():
        try:
            parameters[name] = _typed(name, values[name], defaults[name])
        except ValueError as error:
            lines.append(str(error))
    if not lines:
        for found in dict.fromkeys(re.findall(r"pkdlib\.(\w+Config)\b", template.code)):
            lines += _refused(getattr(configs, found), parameters)
    if lines:
        raise ValueError("\n".join(lines))
    return parameters


def _unknown(name: str, notebook: str, known: dict[str, Any]) -> str:
    if name == "output_dir":
        return "output_dir: every run has a folder of its own; leave it out"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"{name}: unknown parameter of {notebook}; {hint}"


def _typed(name: str, value: Any, default: Any) -> Any:
    """The value as the default's type; one element of a list stands for itself. A text is no number."""
    if isinstance(default, list):
        elements = value if isinstance(value, list) else [value]
        return [_typed(name, element, default[0]) for element in elements]
    kind = type(default)
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        number = kind in (int, float) and isinstance(value, str)
        raise ValueError(
            f"{name} = {value!r}: must be {KINDS[kind]}{', not text: leave the quotes out' if number else ''}"
        ) from None


def _refused(config_class: type, parameters: dict[str, Any]) -> Iterator[str]:
    """A line for each parameter that is a field of the configuration and has no value for it."""
    given = {name: value for name, value in parameters.items() if name in config_class.model_fields}
    try:
        config_class(**given)
    except ValidationError as error:
        for entry, line in zip(error.errors(), complaints(config_class, error), strict=True):
            if entry["loc"] and entry["type"] not in ("missing", "list_type"):  # of other notebooks' forms
                yield line


def _check_models(parameters: dict[str, Any]) -> None:
    """Refuse folders without a model, and hub ids out of reach."""
    for name in MODELS:
        if parameters.get(name):
            _layers_of(name, locate(parameters[name]))
    for name, value in parameters.items():
        if name.endswith(TEACHER) and value and not (ROOT / value / RESULT_FILE).is_file():
            raise ValueError(f"{name} = {value!r}: no {RESULT_FILE} there, so no finished teacher")


def _check_layers(parameters: dict[str, Any], teachers: dict[str, PlannedRun]) -> None:
    """Refuse students that a teacher of that depth cannot have."""
    sizes = parameters.get("student_layers")
    if sizes is None:
        return
    methods = parameters.get("methods", ["PKD-Skip"])
    for depth in filter(None, map(_depth, [parameters, *(teacher.parameters for teacher in teachers.values())])):
        for size in sizes if isinstance(sizes, list) else [sizes]:
            try:
                layers = layer_map(depth, size)
            except ValueError as error:
                raise ValueError(str(error).replace("num_student_layers", "student_layers")) from None
            patient = [method for method in methods if METHODS[method].get("beta") != 0]
            if patient and not layers:
                raise ValueError(f"student_layers = {size}: {patient[0]} has no layer to match; must be at least 2")


def _depth(parameters: dict[str, Any]) -> int | None:
    name = next((key for key in ("backbone", TEACHER) if parameters.get(key)), None)
    return _layers_of(name, locate(parameters[name])) if name else None


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
    names = {name: parameters.get(name) for name in ("task", "source", "train_rows", "split")}
    return _rows(**names)


@cache
def _rows(task: str, source: str, train_rows: int | None, split: str | None) -> str:
    try:
        if split:
            return load_split(task, source or None, split).fingerprint
        data = load_task(task, source or None, train_rows=train_rows or None)
    except OSError as error:
        raise ValueError(f"source = {source!r}: {str(error).splitlines()[0]}") from None
    except ValueError as error:
        named = str(error).startswith(("task =", "train_rows ="))
        raise ValueError(str(error) if named else f"source = {source!r}: {error}") from None
    return " ".join(data.splits[name].fingerprint for name in sorted(data.splits))


def _content(value: Any) -> str | None:
    """A fingerprint of the model in the folder that a parameter names; None where it names none."""
    folder = Path(locate(value)) if isinstance(value, str) and value else None
    return _model(folder) if folder and (folder / "config.json").is_file() else None


@cache
def _model(folder: Path) -> str:
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(hashlib.file_digest(file.open("rb"), "sha256").digest())
    return digest.hexdigest()
