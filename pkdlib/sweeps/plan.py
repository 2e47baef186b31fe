"""From a grid to the runs it stands for, every parameter of each checked before anything starts."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import file_digest
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig

from pkdlib.data import READING, Split, encode_split
from pkdlib.engine.checks import EXAMPLES, check_same_tokens, check_trained_labels, label_order
from pkdlib.engine.configs import complaints
from pkdlib.engine.files import digest, here, locate, reach
from pkdlib.engine.progress import quiet
from pkdlib.models import load_tokenizer
from pkdlib.readers.own import OF_A_TASK, OWN, load_rows, reading_of, task_of
from pkdlib.readers.records import flat
from pkdlib.readers.sources import load_split, load_texts
from pkdlib.readers.teachers import check_named, record_of
from pkdlib.records import RESULT_FILE, RunRecord
from pkdlib.sweeps.forks import code_of
from pkdlib.sweeps.grid import SEED, Grid, GridError, Stage, Then
from pkdlib.sweeps.notebooks import read_template
from pkdlib.tasks import Task

FORMAT = 2  # of a run's identity; a new one leaves old runs unused
TEACHER = "teacher_dir"  # ends the name of a parameter that is filled with a teacher's folder
TEACHER_NOTEBOOK = "01_finetune_teacher"
WITHOUT_RECORDS = ("05_speed_benchmark", "06_cls_similarity", "07_when_patience_pays")  # of runs, in what they write
FOLDERS = ("students_dir", "texts", "unlabelled", "new_rows", "sources", "sizes", "study")  # or files; a run reads them
MODELS = ("backbone", "large_backbone", "model_a", "model_b")  # hub ids or folders
# Files of a folder that a run may read: weights, vocabularies, records, texts.
READ = {".csv", ".gz", ".json", ".jsonl", ".model", ".parquet", ".safetensors", ".tsv", ".txt"}
Named = tuple[tuple[str, Any], ...]
_texts = cache(load_texts)  # once for all runs of a plan
SHARED = ("task", "source", "backbone", "train_rows", "max_length", *OWN)  # a run's own are its teacher's too
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
    for remembered in (read_template, _types, code_of, _config_of, _teacher, _rows, _texts, _check_tokens, _content):
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


def scores_of(run: PlannedRun) -> list[str] | None:
    """The scores that a run's records will have, split_metric each; None where only the run itself can tell."""
    if run.notebook.stem in WITHOUT_RECORDS:
        return []
    for teacher in run.teachers.values():
        return scores_of(teacher)
    given = [value for name, value in run.parameters.items() if name.endswith(TEACHER) and value]
    if record := _teacher(TEACHER, given[0]) if given else None:
        return [name for name in flat(record.metrics) if not name.endswith("_loss")]
    if not (run.parameters.get("task") and "source" in run.parameters):
        return None
    _, labelled, _, task = _rows(_named(run.parameters), None)
    return [f"{split}_{metric}" for split in labelled if split != "train" for metric in task.metrics]


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
    rows = _named(parameters), parameters.get("split")
    with_rows = parameters.get("task") and "source" in parameters and not parameters.get("texts")
    identity = [
        FORMAT, code_of(template.path), template.fingerprint, parameters, _rows(*rows)[0] if with_rows else None,
        {name: [_content(one) for one in _as_list(value) if isinstance(one, str)]
         for name, value in parameters.items() if name != "source"},
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
            kind = Annotated[list[kind], BeforeValidator(_as_list)]
        if name != "output_dir":
            fields[f"field_{len(fields)}"] = kind, Field(default, alias=name)  # BaseModel keeps some names for itself
    return create_model("Parameters", __config__=STRICT, **fields)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_models(parameters: dict[str, Any], teachers: dict[str, PlannedRun]) -> None:
    """Refuse models that cannot be loaded, teachers that have not finished, students deeper than one of theirs."""
    configs = {name: _config_of("backbone", run.parameters["backbone"]) for name, run in teachers.items()}
    for name, value in parameters.items():
        if name.endswith(TEACHER) and value:
            record = _teacher(name, value)
            check_named(name, value, parameters)
            configs[name] = _config_of(name, value)
            task = record.get_task() if record else _rows(_named(parameters), None)[3]
            classes = [str(configs[name].id2label[index]) for index in sorted(configs[name].id2label)]
            if not task.choices:  # which have places for names
                label_order(classes, task.label_names, f"{name} = {value!r}")
        elif name in MODELS and value:
            configs[name] = _config_of(name, value)
        for place in _as_list(value) if name in FOLDERS else []:
            if place and not here(place):
                raise ValueError(f"{name} = {place!r}: no such file or folder")
    sizes = parameters.get("student_layers", 0)
    size = max(sizes, default=0) if isinstance(sizes, list) else sizes
    depths = {name: one.num_hidden_layers for name, one in configs.items() if name.endswith(("backbone", TEACHER))}
    limit, least = min(((depth, name) for name, depth in depths.items()), default=(size, ""))
    if size > limit:
        whose = least if least == "large_backbone" else "teacher"
        raise ValueError(f"student_layers = {size}: must be between 1 and the {whose}'s {limit} layers")
    tokens = parameters.get("max_length", 0)
    positions = (getattr(one, "max_position_embeddings", 0) for one in configs.values())
    if tokens > (limit := min(filter(None, positions), default=tokens)):
        raise ValueError(f"max_length = {tokens}: must be between 8 and the model's {limit} positions")
    widths = {name: getattr(one, "hidden_size", None) for name, one in configs.items()}
    if "cosine" in str(parameters.get("metric")) and widths.get("model_a") != widths.get("model_b"):
        unequal = f"model_a's is {widths['model_a']}, model_b's {widths['model_b']}"
        raise ValueError(f"metric = {parameters['metric']!r}: needs models of equal widths; {unequal}")
    _check_teaching(parameters, teachers, widths)


def _check_teaching(parameters: dict[str, Any], teachers: dict[str, PlannedRun], widths: dict[str, Any]) -> None:
    """Refuse models that cut the rows into other tokens than the students do, and a teacher of another width."""
    record = _teacher(TEACHER, parameters[TEACHER]) if parameters.get(TEACHER) else None
    own = {name: value for name, value in parameters.items() if value}  # what is empty is as the teacher has it
    if record:
        said = {name: getattr(record, name) for name in ("train_rows", "max_length", *READING)}
        own = said | {"task": record.get_task(), "backbone": record.config.get("backbone")} | own
    elif TEACHER in teachers:
        own = teachers[TEACHER].parameters | own
    if own.get("class_weights") or own.get("unlabelled"):
        _check_labels(own)
    models = {name: value for name, value in own.items() if name == "large_backbone" or name.endswith(TEACHER)}
    models |= {f"{name.removesuffix('_dir')}.backbone": run.parameters["backbone"] for name, run in teachers.items()}
    if "large_backbone" in models and len({run.id for run in teachers.values()}) < len(teachers):
        raise ValueError("large_teacher: the very teacher of teacher_dir; name another large_teacher.backbone")
    start = own.get("backbone")
    if not (models and start and own.get("task")):
        return
    for name, model in models.items():
        if Path(locate(model)).resolve() != Path(locate(start)).resolve():
            _check_tokens(name, model, start, _named(own), own.get("max_length"))
        elif name == "large_backbone":
            raise ValueError(f"{name} = {model!r}: must be another model than {start}")
    ours = getattr(_config_of("backbone", start), "hidden_size", None)
    theirs, methods = widths.get(TEACHER, ours), map(str, parameters.get("methods", ()))
    patient = parameters.get("beta", 1) and any(method.startswith("PKD") for method in methods)
    if patient and theirs != ours and parameters.get("init") != "teacher":
        name = TEACHER if TEACHER in models else "teacher.backbone"
        raise ValueError(f"{name} = {models[name]!r}: is {theirs} wide, its students {ours}: PKD needs equal widths")


def _check_labels(own: dict[str, Any]) -> None:
    """Refuse weights of other classes than the rows', and unlabelled texts that cannot be read."""
    weights, unlabelled = own.get("class_weights", []), own.get("unlabelled", "")
    _, _, first, task = _rows(_named({name: value for name, value in own.items() if name != "unlabelled"}), None)
    check_trained_labels(first.labels, task, SimpleNamespace(class_weights=weights, alpha=1.0))
    try:
        _ = _texts(unlabelled, task.columns) if unlabelled else None
    except (OSError, ValueError) as error:
        raise ValueError(f"unlabelled = {unlabelled!r}: {error}") from None


@cache
def _check_tokens(name: str, model: str, start: str, named: Named, length: int | None) -> None:
    """ValueError where a model's tokenizer cuts the first training rows as the backbone's does not."""
    rows = None
    with suppress(OSError, ValueError):  # of rows that cannot be read here
        rows = encode_split(_rows(named, None)[2], load_tokenizer(start), length or 128)
    if rows is not None:
        check_same_tokens(load_tokenizer(model), rows, f"{name} = {model!r}")


@cache
def _teacher(name: str, folder: str) -> RunRecord | None:
    """The record of a teacher of this kit, None of another's; ValueError where it is broken."""
    try:
        return record_of(folder)
    except ValueError as error:
        raise ValueError(f"{name} = {folder!r}: {error}") from None


@cache
def _config_of(name: str, model: str) -> PreTrainedConfig:
    """The configuration of a model; ValueError where it, or the tokenizer or a weight of a local one, is not there.

    Of the weights only names and shapes are read.
    """
    given = f"{name} = {model!r}"
    try:
        folder = reach(model, name)
    except OSError as error:
        raise ValueError(str(error)) from None
    kind: Any = AutoModelForSequenceClassification if name.endswith(TEACHER) else AutoModel
    missing: list[str] = []
    problem = "no such folder or model"
    try:
        config = AutoConfig.from_pretrained(folder)
        if not isinstance(config.num_hidden_layers, int):
            raise ValueError("its configuration has no num_hidden_layers")
        if Path(folder).is_dir():
            problem = "cannot be loaded"
            load_tokenizer(model)
            with quiet():
                options = {"device_map": "meta", "use_safetensors": True, "output_loading_info": True}
                missing = sorted(kind.from_pretrained(folder, **options)[1]["missing_keys"])
    except Exception as error:  # of transformers, safetensors and a model's own class
        raise ValueError(f"{given}: {problem}: {(str(error).splitlines() or [type(error).__name__])[0]}") from None
    if kind is AutoModel:
        missing = [weight for weight in missing if "pooler" not in weight]  # which no hidden state needs
    if missing:
        raise ValueError(f"{given}: its file of weights lacks {missing[0]} and {len(missing) - 1} more")
    return config


def _named(parameters: Mapping[str, Any]) -> Named:
    """Those of the parameters that name rows, so that they can be remembered."""
    named = reading_of(parameters).items()
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in named)


@cache
def _rows(named: Named, split: str | None) -> tuple[str, list[str], Split, Task]:
    """A fingerprint of the rows that the parameters name, which splits have labels, the first rows, and the task."""
    reading = dict(named)
    source = reading.setdefault("source", "")
    try:
        if split:
            task = task_of(**{name: value for name, value in reading.items() if name in OF_A_TASK})
            where = reading.get("dataset_config", ""), reading.get("dev_fraction", 0.0)
            splits = {split: load_split(task, source or None, split, *where)}
        else:
            raw = load_rows(**reading)
            task, splits = raw.task, raw.splits
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        where = "" if re.match(r"\w+ = ", line) else f"source = {source!r}: "
        raise ValueError(where + line) from None
    labelled = [name for name in splits if splits[name].labels is not None]
    first = splits[split or "train"]
    first = first.take(range(min(len(first), EXAMPLES)))
    return " ".join(splits[name].fingerprint for name in sorted(splits)), labelled, first, task


@cache
def _content(value: str) -> str:
    """A fingerprint of the file, or of what a run may read in the folder, that a parameter names; "" of none."""
    place = next(map(Path, here(value) if value else []), None)
    if place is None:
        return ""
    files = [place] if place.is_file() else [*place.glob("[!.]*"), *place.glob(f"*/**/{RESULT_FILE}")]
    digests = []
    for file in sorted(file for file in files if file.is_file() and file.suffix in READ):
        with open(file, "rb") as opened:
            digests.append(f"{file.relative_to(place)} {file_digest(opened, 'sha256').hexdigest()[:16]}")  # not whole
    return digest("\n".join(digests).encode()) if digests else ""
