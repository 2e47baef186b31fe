"""What must fit before work starts: classes by name, a model and the rows it reads, folders that are written to."""

import copy
import inspect
import json
import re
import shutil
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, InstanceOf, ValidationError, create_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AlbertTokenizer, AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from pkdlib.engine.batches import has_label
from pkdlib.engine.configs import ConfigError, shortened
from pkdlib.engine.files import ROOT, digest, here
from pkdlib.engine.progress import quiet, say_once

# Fields of a model's configuration that change nothing of what the model computes.
NO_EFFECT = {
    "_name_or_path", "architectures", "dtype", "finetuning_task", "id2label", "label2id", "problem_type",
    "transformers_version", "use_cache",
}  # fmt: skip
FLAGS = ("output_hidden_states", "output_attentions", "cls_alone")  # of a forward pass
EXAMPLES = 500  # rows at most, on which two tokenizers are compared


def _distinct(names: Sequence[str]) -> Sequence[str]:
    if len({*names}) < max(1, len(names)):
        raise ValueError("distinct names: of at least two classes, or of one value")
    return names


Count = Annotated[int, Field(ge=1)]  # of rows, say
Seed = Annotated[int, Field(ge=0, lt=2**32)]
ClassNames = Annotated[Sequence[str], AfterValidator(_distinct)]
Function = TypeVar("Function", bound=Callable[..., Any])
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


# ------------------------------------------------------------------------------------------- arguments by their types
def checked(function: Function) -> Function:
    """The function, which refuses arguments that its annotations do not allow: ConfigError, a line for each."""
    signature, fields = inspect.signature(function), {}
    for name, parameter in signature.parameters.items():
        kind = parameter.annotation
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        fields[f"of_{name}"] = InstanceOf[kind] if is_model else kind, ...  # else a dict would do
    model = create_model(function.__name__, __config__=STRICT, **fields)  # type: ignore[call-overload]

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        given = signature.bind(*arguments, **named)
        given.apply_defaults()
        try:
            plain = {name: one.item() if isinstance(one, np.generic) else one for name, one in given.arguments.items()}
            model(**{f"of_{name}": value for name, value in plain.items()})
        except ValidationError as error:
            raise ConfigError("\n".join(_lines(error, given.arguments))) from None
        return function(*arguments, **named)

    return call  # type: ignore[return-value]


def _lines(error: ValidationError, given: Mapping[str, Any]) -> list[str]:
    """A line per bad argument; of a choice of types, all that it may be."""
    allowed: dict[str, list[str]] = {}
    for entry in error.errors():
        text = (
            "a list"
            if entry["type"] == "sequence_str"
            else entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        )
        allowed.setdefault(str(entry["loc"][0]).removeprefix("of_"), []).append(text)
    return [
        f"{name} = {shortened(given[name], 80)}: must be {' or '.join(dict.fromkeys(texts))}"
        for name, texts in allowed.items()
    ]


# ------------------------------------------------------------------------------------------------ classes by name
def label_order(theirs: Sequence[str], ours: Sequence[str], where: str) -> list[int]:
    """Where each of our classes stands among theirs, by name; upper case, spaces, - and _ make no difference.

    Classes called LABEL_0, LABEL_1, ... are taken for ours by their numbers, which is said once. Raises ValueError when
    the names are others.
    """
    if len(theirs) == len(ours) == 1:  # one value, whatever it is called
        return [0]
    nameless = [f"LABEL_{number}" for number in range(len(ours))]  # as transformers calls them
    if sorted(theirs) == sorted(nameless):
        say_once(f"{where}: its classes have no names; they are taken for {', '.join(ours)}, by their numbers")
        return [list(theirs).index(name) for name in nameless]
    found, wanted = list(map(spelled, theirs)), list(map(spelled, ours))
    if len(set(wanted)) < len(wanted):  # names that differ in upper case alone, say
        found, wanted = list(theirs), list(ours)
    if sorted(found) != sorted(wanted):
        raise ValueError(f"{where}: its classes are {', '.join(theirs)}: must be {', '.join(ours)}, in any order")
    return [found.index(name) for name in wanted]


def spelled(name: str) -> str:
    """A class's name as it is compared: upper case, spaces, - and _ make no difference."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def with_labels(model: PreTrainedModel, names: Sequence[str], where: str = "") -> PreTrainedModel:
    """The classifier with its classes in the order of `names`: itself, or a copy whose last layer's rows are moved.

    A model for multiple choice is given back as it is: its classes are the places of the texts that it is shown. Raises
    ValueError as `label_order` does.
    """
    where = where or model.name_or_path or "the classifier"
    if chooses(model):
        return model
    order = label_order(class_names(model), names, where)
    if order == list(range(len(names))):
        return model
    body, model = model, copy.deepcopy(model)
    own = set(model.base_model.modules())
    heads = [one for one in model.modules() if one not in own and getattr(one, "out_features", 0) == len(names)]
    if not (heads and isinstance(heads[-1], nn.Linear)):
        raise ValueError(f"{where}: its classes stand in another order than {', '.join(names)}; no layer to reorder")
    for parameter in heads[-1].parameters():  # the weight and, where it has one, the bias
        parameter.data = parameter.data[order]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model.train(body.training)


def chooses(model: PreTrainedModel) -> bool:
    """Whether a model is one for multiple choice, which gives each text of a row a logit."""
    return "MultipleChoice" in type(model).__name__  # as transformers calls them all


def class_names(model: PreTrainedModel) -> list[str]:
    """The names of a classifier's classes, in the order of its logits."""
    if model.base_model is model:
        raise ValueError(f"{model.name_or_path or type(model).__name__}: has no classifier: must be a fine-tuned one")
    names, count = model.config.id2label, model.config.num_labels
    if sorted(names) != list(range(count)):
        line = f"id2label has {', '.join(map(str, names))}: must be numbers from 0 to {count - 1}"
        raise ValueError(f"{model.name_or_path or type(model).__name__}: its {line}")
    return [str(names[index]) for index in range(count)]


# ---------------------------------------------------------------------------------------------- rows and their labels
def check_texts(split: Any) -> None:
    """ValueError unless a Split has columns of as many texts, one, two or a passage's and its choices', and a row."""
    rows = [len(column) if isinstance(column, list | tuple) else 0 for column in split.texts]
    if not (len({*rows}) == 1 and rows[0]):
        allowed = "must be one or two lists, or a passage's and one for each choice, equal, not empty"
        raise ValueError(f"the {split.name} split has columns of {rows} texts: {allowed}")
    for column in split.texts:
        if wrong := next((number for number, text in enumerate(column) if not isinstance(text, str)), -1) + 1:
            raise ValueError(f"the {split.name} split, row {wrong - 1}: {column[wrong - 1]!r}: must be a text")


def check_labels(splits: Mapping[str, Any], task: Any, needed: Iterable[str]) -> None:
    """ValueError unless the needed splits are there, all but train with labels, and those are the task's, one a row."""
    for name in needed:
        if name not in splits or (splits[name].labels is None and name != "train"):
            lacks = "has no labels: it can be predicted, not scored" if name in splits else "is missing"
            raise ValueError(f"the {name} split of task {task.name} {lacks}")
    for name, split in splits.items():
        labels, where = split.labels, f"the {name} split of task {task.name}"
        if hasattr(split, "texts"):  # an EncodedSplit has none any more
            check_texts(split)
            if len(split.texts) != len(task.columns):
                raise ValueError(f"{where} has {len(split.texts)} columns of texts: must be {', '.join(task.columns)}")
        if labels is None:
            continue
        kinds, numbers = ("f", "floats") if task.is_regression else ("iu", "whole numbers")
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in kinds or labels.shape != (len(split),):
            shown = f"{labels.shape} {labels.dtype}" if isinstance(labels, np.ndarray) else type(labels).__name__
            raise ValueError(f"{where}: labels are {shown}: must be an array of {len(split)} {numbers}")
        if task.is_regression:
            if not np.isfinite(labels).all():
                raise ValueError(f"{where}: label {labels[~np.isfinite(labels)][0]}: must be a finite number")
        elif wrong := sorted({*labels.tolist()} - {*range(task.num_labels)}):
            allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(task.label_names))
            raise ValueError(f"{where}: label {wrong[0]}: must be one of {allowed}")


def check_trained_labels(labels: Any, task: Any, config: Any) -> None:
    """ConfigError unless training rows have labels where a term reads them, and class_weights fit the classes."""
    where, alpha = f"the train split of task {task.name}", getattr(config, "alpha", 0.0)
    if alpha != 1 and not has_label(labels).any():
        needed = f"it is trained on, unless alpha is 1 (it is {alpha:g})"
        raise ConfigError(f"{where} has no labels: {needed}")
    weights = config.class_weights
    if weights and (task.is_regression or task.choices):
        raise ConfigError(f"class_weights = {weights!r}: must be left out, {task.name} has no classes")
    if weights not in ([], ["balanced"]) and len(weights) != task.num_labels:
        line = f"must have one for each of {task.num_labels} classes: {', '.join(task.label_names)}"
        raise ConfigError(f"class_weights = {weights!r}: {line}")


# ----------------------------------------------------------------------------------------- objectives of one's own
def check_objective(goal: Any, kind: type, splits: Mapping[str, Any], has_teacher: bool) -> None:
    """ValueError unless an object is an Objective whose `names`, `asks` and `wants` can be used."""
    where = f"objective = {type(goal).__name__}"
    if not isinstance(goal, kind):
        raise ValueError(f"{where}: must give an Objective")
    inputs = {
        "rows",
        "labels",
        "label_weights",
        "attention_mask",
        *(name for split in splits.values() for name in split.columns),
    }
    names = list(goal.names)
    rules = {
        f"names = {goal.names!r}: must be distinct names, the first one loss, none accuracy": (
            names[:1] == ["loss"]
            and len({*names}) == len(names)
            and all(isinstance(name, str) for name in names)
            and "accuracy" not in names
        ),
        f"asks = {goal.asks!r}: must be flags among {', '.join(FLAGS)}": set(goal.asks) <= set(FLAGS),
        f"wants = {', '.join(goal.wants)}: must be functions of the teacher's output": all(
            map(callable, goal.wants.values())
        ),
        f"wants = {', '.join(goal.wants)}: must not be names of a batch's own: {', '.join(inputs)}": not inputs
        & set(goal.wants),
        f"wants = {', '.join(goal.wants)}: needs a teacher": has_teacher or not goal.wants,
    }
    for rule, holds in rules.items():
        if not holds:
            raise ValueError(f"{where}: {rule}")


def objective_fingerprint(goal: Any) -> str:
    """A hash of an objective's terms, and of the code and the plain attributes of its class and of itself.

    What its code reads elsewhere is not in it, nor are weights.
    """
    classes = [kind for kind in type(goal).__mro__ if kind not in (nn.Module, ABC, object)]
    attributes = [item for part in (*classes, goal) for item in sorted(vars(part).items())]
    own = [(name, _described(value)) for name, value in attributes if not name.startswith("__") or callable(value)]
    return digest(str([list(goal.names), own]).encode())


def _described(value: Any) -> Any:
    """A value so that equal ones have equal texts in every process: of functions their code, of other objects none."""
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    if code := getattr(value, "__code__", None):
        defaults = _described([value.__defaults__, value.__kwdefaults__])
        return [code.co_code.hex(), code.co_names, [_described(one) for one in code.co_consts], defaults]
    if hasattr(value, "co_code"):  # of a function within a function
        return [value.co_code.hex(), value.co_names, [_described(one) for one in value.co_consts]]
    if isinstance(value, Mapping):
        return [(str(name), _described(one)) for name, one in value.items()]
    if isinstance(value, list | tuple | range | set | frozenset):
        parts = [_described(one) for one in value]
        return sorted(map(str, parts)) if isinstance(value, set | frozenset) else parts
    return repr(value) if isinstance(value, str | bytes | int | float | bool | None) else type(value).__name__


def check_rows_at_once(config: Any, least: int) -> None:
    """ConfigError where a batch, or a micro-batch, has fewer rows than a distance that compares rows needs."""
    rows = min(config.train_batch_size, config.micro_batch_size or config.train_batch_size)
    if rows < least:
        raise ConfigError(f"distance = {config.distance!r}: needs {least} rows at once, here {rows}")


def tell_unusual_map(goal: Any, split: Any, teacher: Any, tell: Callable[[str], Any]) -> None:
    """Tell in a line what is unusual in an objective's map of teacher layers; the paper's is fixed and increases.

    split: the training rows, of which the teacher's states are cached in half precision.
    """
    layers = goal.layers
    if getattr(goal, "moving", None):
        size = split.offsets.size * teacher.config.hidden_size * 2 * len(goal.taken) / 1e6  # of every choice, too
        states = f"the [CLS] states of all {len(goal.taken)} teacher layers"
        tell(f"{goal.method}: takes {states}, {size:.1f} MB in the cache")
    unusual = ["repeats a layer"] * (len({*layers}) < len(layers)) + ["is not in order"] * ([*layers] != sorted(layers))
    if unusual:
        tell(f"layer map {[*layers]}: {' and '.join(unusual)}, unlike the paper's")


def check_terms(goal: Any, terms: Any) -> Sequence[Tensor]:
    """The terms, if they are as many scalars as the objective has names and the first can be minimised; ValueError."""
    are_scalars = isinstance(terms, list | tuple) and all(isinstance(one, Tensor) and not one.ndim for one in terms)
    if not are_scalars or len(terms) != len(goal.names) or not terms[0].requires_grad:
        parts = terms if isinstance(terms, list | tuple) else [terms]
        shown = ", ".join(str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in parts)
        raise ValueError(
            f"objective = {type(goal).__name__}: forward gave {shown}: must give a scalar tensor () for each of "
            f"{', '.join(goal.names)}, the first with a gradient"
        )
    return terms


def check_wanted(name: str, want: Callable[[Any], Any]) -> Callable[[Any], Tensor]:
    """The function of a teacher's output, which refuses to give anything but a tensor of an entry per row."""

    def take(output: Any) -> Tensor:
        try:
            value = want(output)
        except (AttributeError, LookupError, TypeError) as error:  # as of states that nobody has asked for
            raise ValueError(f"wants.{name}: cannot be had: {type(error).__name__}: {error}") from error
        rows = len(output.logits)
        if not isinstance(value, Tensor) or value.shape[:1] != (rows,):
            shown = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"wants.{name}: gave {shown}: must give a tensor of an entry for each of {rows} rows")
        return value

    return take


# -------------------------------------------------------------------------------------- a model and what it reads
def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer, if it has words and a [CLS] token, with all that its model reads; ValueError otherwise."""
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up where no file is there
        raise ValueError(f"{where}: no tokenizer there: it must hold the files that save_pretrained() of one writes")
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{where}: its tokenizer has no padding token; set its pad_token and save it")
    if tokenizer.cls_token_id is None:
        raise ValueError(f"{where}: its tokenizer has no [CLS] token; an encoder with one, such as BERT, is needed")
    if isinstance(tokenizer, AlbertTokenizer):  # transformers 5 leaves out the segments, which ALBERT was trained with
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


@contextmanager
def loading(where: str | Path) -> Iterator[None]:
    """Load quietly; whatever transformers raises becomes one line that begins with the checkpoint's name."""
    try:
        with quiet():
            yield
    except Exception as error:  # each library below has its own kinds
        if isinstance(error, ValueError) and str(error).startswith(f"{where}: "):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        line = f"{where}: cannot be loaded: {type(error).__name__}: {' '.join(lines[: 1 + lines[0].endswith(':')])}"
        raise (OSError(line) if isinstance(error, OSError) else ValueError(line)) from error


def check_weights(model: PreTrainedModel, info: Mapping[str, Any], where: str | Path, kind: str, spare: str) -> Any:
    """The loaded model; ValueError where weights but the spare ones were not there, or are no numbers, or too many."""
    for name, theirs, ours in sorted(info["mismatched_keys"]):
        if spare not in name:
            shapes = f"{name} is {tuple(theirs)} among its weights, {tuple(ours)} by its config.json"
            raise ValueError(f"{where}: not {kind}, {shapes}: must be equal")
    missing = sorted(name for name in info["missing_keys"] if spare not in name)
    if missing:
        more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
        raise ValueError(f"{where}: not {kind}, {', '.join(missing[:2])}{more} missing")
    if left := sorted(name for name in info["unexpected_keys"] if re.search(r"\blayers?\.\d+\.", name)):
        raise ValueError(f"{where}: its config.json has fewer layers than its weights: {left[0]} is left over")
    for name, weights in model.state_dict().items():
        if not weights.isfinite().all():
            raise ValueError(f"{where}: {name} is not finite: must be numbers")
    return model


def check_reads(model: PreTrainedModel, splits: Iterable[Any], where: str) -> None:
    """ValueError unless the model can read the rows of every EncodedSplit: their tokens, segments and lengths."""
    for split in splits:
        _check_split(model, split, where)


def _check_split(model: PreTrainedModel, split: Any, where: str) -> None:
    columns, body = split.columns, model.base_model
    takes, types = inspect.signature(model.forward).parameters, getattr(model.config, "type_vocab_size", None) or 0
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    largest, known = int(columns["input_ids"].max()), model.get_input_embeddings().num_embeddings
    segments, pairs = columns.get("token_type_ids"), len(split.examples) > 1
    positions = [one for name, one in body.named_modules() if name.endswith("position_embeddings")]
    limit = min((len(one.weight) - (-1 if one.padding_idx is None else one.padding_idx) - 1
                 for one in positions if isinstance(one, nn.Embedding)), default=None)  # fmt: skip
    longest = int(split.lengths.max())
    rules = {
        f"each has {split.choices} choices, its head does not choose: must be a model for multiple choice": (
            not split.choices or chooses(model) or body is model
        ),
        "it chooses among the texts of a row, each has one": not chooses(model) or split.choices,
        f"token {largest} is beyond its {known} embeddings; the rows were tokenised for another model": largest < known,
        f"it takes no {', '.join(set(columns) - set(takes))}": any_name or set(columns) <= set(takes),
        f"it has {types} kinds of segments, the rows more": segments is None or not types or segments.max() < types,
        "it tells a pair's texts apart by token_type_ids, which the rows' tokenizer does not give": (
            not pairs or segments is not None or types < 2 or "token_type_ids" not in takes
        ),
        f"max_length = {split.max_length}: a row has {longest} tokens, it has {limit} positions": (
            limit is None or longest <= limit
        ),
    }
    for rule, holds in rules.items():
        if not holds:
            raise ValueError(f"{where}: cannot read the {split.name} rows: {rule}")


def check_same_tokens(tokenizer: PreTrainedTokenizerBase, split: Any, where: str) -> None:
    """ValueError unless the tokenizer gives an EncodedSplit's example rows the tokens and segments that they have."""
    encoded = tokenizer(*split.examples, truncation=True, max_length=split.max_length)
    spans = split.offsets.ravel()[split.example_places], split.sequence_lengths.ravel()[split.example_places]
    for number, (start, length, ids) in enumerate(zip(*spans, encoded["input_ids"], strict=True)):
        theirs = {name: tokens[start : start + length].tolist() for name, tokens in split.columns.items()}
        segments = encoded["token_type_ids"][number] if "token_type_ids" in encoded else [0] * len(ids)
        pairs = ("tokens", theirs["input_ids"], ids), ("segments", theirs.get("token_type_ids", [0] * length), segments)
        for name, ours, others in pairs:
            if ours != others:
                text = " | ".join(column[number] for column in split.examples)
                raise ValueError(
                    f"{where}: its tokenizer gives other {name} than the rows have, first of {text[:80]!r}"
                )


# ------------------------------------------------------------------------------------------- what is written where
def config_fingerprint(model: PreTrainedModel) -> str:
    """A hash of a model's class and of those fields of its configuration that its outputs depend on."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NO_EFFECT}
    return digest(json.dumps([type(model).__name__, config], sort_keys=True, default=str).encode())


def check_folder(field: str, folder: str | Path) -> Path:
    """The folder, made where it is not there; ValueError where it has no name, OSError where nothing can be written."""
    if str(folder) in ("", ".") or Path(folder).resolve() == ROOT:
        raise ValueError(f"{field} = {str(folder)!r}: must name a folder of its own")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return Path(folder)
    except OSError as error:
        raise OSError(f"{field} = {str(folder)!r}: must be a folder that can be written: {error.strerror}") from None


@contextmanager
def own_folder(
    folder: str | Path | None, inputs: Iterable[str | Path], model: PreTrainedModel, writes: bool = True
) -> Iterator[None]:
    """Make a folder and hold it for this process alone, once the model was seen to be one that can be saved.

    None is no folder, and nothing is checked; writes=False: another process of this run does it. Raises ValueError
    before any work when the folder has no name, is one of those that are read (inputs), or is being written by
    another process, or when transformers cannot save the model and read it again.
    """
    if folder is None or not writes:
        yield
        return
    place, refused = Path(folder).resolve(), f"output_dir = {str(folder)!r}: must"
    for name in map(str, inputs):
        if name and any(Path(found).resolve() == place for found in here(name)[:1]):
            raise ValueError(f"{refused} not be {name}, which this run reads")
    check_folder("output_dir", folder)
    lock = FileLock(place / ".writer.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{refused} be a folder to which no other process is writing") from None
    with lock:
        _try_to_save(model, place / ".trial")
        yield


@contextmanager
def room_in(folder: str | Path) -> Iterator[None]:
    """Write into a folder; OSError with its name and one line where that fails, on a full disk say."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(f"output_dir = {str(folder)!r}: must have room for the model: {error}") from error


def _try_to_save(model: PreTrainedModel, folder: Path) -> None:
    try:
        with quiet(), room_in(folder.parent):
            model.save_pretrained(folder)
            AutoConfig.from_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # of any class's own checks
        line = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise ValueError(f"{type(model).__name__}: cannot be saved and read again: {line}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
