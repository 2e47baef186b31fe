"""A trained classifier that is ready to predict: of a folder of weights, or of an exported ONNX file."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from pkdlib.data import EncodedSplit
from pkdlib.engine.batches import SortedBatches
from pkdlib.engine.checks import chooses, loading
from pkdlib.engine.files import locate
from pkdlib.engine.progress import progress_bar
from pkdlib.evaluation import predict
from pkdlib.models import load_classifier, load_tokenizer
from pkdlib.readers.teachers import record_of

ONNX_FILE, INT8_FILE = "model.onnx", "model_int8.onnx"


@dataclass(frozen=True)
class Student:
    """A classifier, whatever runs it."""

    predict: Callable[[EncodedSplit, int], Tensor]  # a split and rows at most in a batch -> logits (rows, classes)
    names: list[str]  # of the classes
    tokenizer: PreTrainedTokenizerBase
    max_length: int  # tokens of a row; what is longer is cut
    columns: tuple[str, ...] = ()  # of texts, in the task that it was trained on; none where nothing says so
    model: PreTrainedModel | None = None  # torch's


def load_student(student: str | Path) -> Student:
    """The classifier of a folder or hub id, of an exported folder, or of one of that folder's .onnx files.

    Raises ValueError or OSError with one line where there is none, ModuleNotFoundError without onnxruntime.
    """
    place = Path(locate(student, "student", files=True))
    if place.suffix == ".onnx" or (place / ONNX_FILE).is_file():
        file = place if place.suffix == ".onnx" else place / ONNX_FILE
        session, tokenizer = load_onnx(file), load_tokenizer(file.parent)
        with loading(file.parent):
            config = AutoConfig.from_pretrained(file.parent)
        max_length = tokenizer.model_max_length  # as `export_onnx` has set it
        return Student(partial(predict_onnx, session), names_of(config), tokenizer, max_length)
    model, tokenizer, record = load_classifier(student), load_tokenizer(student), record_of(student, "student")
    if chooses(model):
        raise ValueError(f"student = {str(student)!r}: is a model for multiple choice: must be a classifier of texts")
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
    max_length, columns = (record.max_length, record.get_task().columns) if record else (longest, ())
    return Student(partial(predict, model), names_of(model.config), tokenizer, max_length, columns, model)


def names_of(config: PreTrainedConfig) -> list[str]:
    """The names of the classes, in the order of the logits."""
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def load_onnx(file: str | Path) -> Any:
    """An onnxruntime session of the file on the CPU, with as many threads as torch has."""
    import onnxruntime  # here, because pkdlib works without it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with loading(file):
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def predict_onnx(session: Any, split: EncodedSplit, batch_size: int = 128) -> Tensor:
    """Logits (rows, classes) of a split, in its order, by a session of `load_onnx`; `evaluation.predict` for ONNX."""
    inputs, logits = [one.name for one in session.get_inputs()], np.empty(())
    for rows in progress_bar(SortedBatches(split.lengths, batch_size), "evaluating"):
        batch = split[rows]
        (output,) = session.run(None, {name: batch[name].numpy() for name in inputs})
        logits = logits if logits.ndim else np.empty((len(split), output.shape[1]), dtype=np.float32)
        logits[rows] = output
    return torch.from_numpy(logits)
