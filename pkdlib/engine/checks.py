"""What must fit before work starts: classes by name, a model and the rows it reads, folders that are written to."""

import copy
import inspect
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from pkdlib.engine.files import ROOT, digest, here
from pkdlib.engine.progress import quiet, say_once

NAMELESS = re.compile(r"LABEL_\d+")  # what transformers calls classes that nobody has named
# Fields of a model's configuration that change nothing of what the model computes.
NO_EFFECT = {
    "_name_or_path", "architectures", "dtype", "finetuning_task", "id2label", "label2id", "problem_type",
    "transformers_version", "use_cache",
}  # fmt: skip
EXAMPLES = 32  # rows on which two tokenizers are compared


# ------------------------------------------------------------------------------------------------ classes by name
def label_order(theirs: Sequence[str], ours: Sequence[str], where: str) -> list[int]:
    """Where each of our classes stands among theirs, by name; upper case, spaces, - and _ make no difference.

    Classes called LABEL_0, LABEL_1, ... are taken in our order, which is said once. Raises ValueError when the names
    are others.
    """
    if len(theirs) == len(ours) and all(map(NAMELESS.fullmatch, theirs)):
        say_once(f"{where}: its classes have no names; they are taken for {', '.join(ours)}, in this order")
        return list(range(len(ours)))
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

    Raises ValueError as `label_order` does.
    """
    where = where or model.name_or_path or "the classifier"
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


def class_names(model: PreTrainedModel) -> list[str]:
    """The names of a classifier's classes, in the order of its logits."""
    return [str(model.config.id2label[index]) for index in range(int(model.config.num_labels or 0))]


# -------------------------------------------------------------------------------------- a model and what it reads
def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer, if it has words and a [CLS] token; ValueError otherwise."""
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up where no file is there
        raise ValueError(f"{where}: no tokenizer there: it must hold the files that save_pretrained() of one writes")
    if tokenizer.cls_token_id is None:
        raise ValueError(f"{where}: its tokenizer has no [CLS] token; an encoder with one, such as BERT, is needed")
    return tokenizer


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
    """ValueError unless the tokenizer gives an EncodedSplit's first rows the tokens and segments that they have."""
    encoded = tokenizer(*split.examples, truncation=True, max_length=split.max_length)
    for row, ids in enumerate(encoded["input_ids"]):
        batch, zeros = split[[row]], [0] * len(ids)
        segments = encoded["token_type_ids"][row] if "token_type_ids" in encoded else zeros
        theirs = batch["token_type_ids"][0].tolist() if "token_type_ids" in batch else [0] * batch["input_ids"].shape[1]
        for name, ours, others in (("tokens", batch["input_ids"][0].tolist(), ids), ("segments", theirs, segments)):
            if ours != others:
                text = " | ".join(column[row] for column in split.examples)
                raise ValueError(
                    f"{where}: its tokenizer gives other {name} than the rows have, first of {text[:80]!r}"
                )


# ------------------------------------------------------------------------------------------- what is written where
def config_fingerprint(model: PreTrainedModel) -> str:
    """A hash of a model's class and of those fields of its configuration that its outputs depend on."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NO_EFFECT}
    return digest(json.dumps([type(model).__name__, config], sort_keys=True, default=str).encode())


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
    if str(folder) in ("", ".") or place == ROOT:
        raise ValueError(f"{refused} name a folder of its own")
    for name in map(str, inputs):
        if name and any(Path(found).resolve() == place for found in here(name)[:1]):
            raise ValueError(f"{refused} not be {name}, which this run reads")
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / ".writer.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{refused} be a folder to which no other process is writing") from None
    with lock:
        _try_to_save(model, place / ".trial")
        yield


def _try_to_save(model: PreTrainedModel, folder: Path) -> None:
    try:
        with quiet():
            model.save_pretrained(folder)
            AutoConfig.from_pretrained(folder)
    except OSError:  # a full disk, say
        raise
    except Exception as error:  # of any class's own checks
        line = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise ValueError(f"{type(model).__name__}: cannot be saved and read again: {line}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
