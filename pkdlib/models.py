"""Backbones, students and their [CLS] states, through transformers; safetensors only."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pkdlib.engine.checks import ClassNames, Seed, check_tokenizer, check_weights, checked, loading, with_labels
from pkdlib.engine.files import reach

Init = Literal["pretrained", "teacher", "random"]
HEADS: Any = {False: AutoModelForSequenceClassification, True: AutoModelForMultipleChoice}  # whether it chooses
Output = Any  # of a forward pass, as transformers has it: logits, hidden_states, attentions


def load_tokenizer(backbone: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id or a local folder; ValueError where it is none of an encoder with [CLS]."""
    place = reach(backbone, "backbone")
    with loading(backbone):
        return check_tokenizer(AutoTokenizer.from_pretrained(place), backbone)


@checked
def load_classifier(path: str | Path, label_names: Sequence[str] = ()) -> PreTrainedModel:
    """A fine-tuned classifier (teacher or student) of a hub id or local folder, in float32 and evaluation mode.

    Its classes keep their order, or get that of label_names. A checkpoint that was saved as a model for multiple choice
    is loaded as one. Raises ValueError when it has no trained classifier, or classes of other names.
    """
    place = reach(path)
    with loading(path):
        saved = AutoConfig.from_pretrained(place).architectures or [""]
    model = _load(HEADS["MultipleChoice" in saved[0]], path, "a fine-tuned classifier")
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # mapped from the file, it may be unaligned and then rounds otherwise
    return with_labels(model.eval(), label_names, str(path)) if label_names else model.eval()


def load_backbone(backbone: str | Path) -> PreTrainedModel:
    """The encoder of any checkpoint, a hub id or a local folder, without the head it may have; in float32.

    Raises ValueError where weights of its layers are missing, whose states would be random.
    """
    return _load(AutoModel, backbone, "a complete encoder", spare="pooler").eval()  # no hidden state needs a pooler


def _load(model_class: Any, path: str | Path, kind: str, spare: str = "nothing") -> PreTrainedModel:
    """A model in float32, all of whose weights but the spare ones are the checkpoint's; it may leave a head behind."""
    place = reach(path)
    with loading(path):
        model, info = model_class.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
        return check_weights(model, info, path, kind, spare)


@checked
def build_student(
    backbone: str | Path | PreTrainedModel, num_hidden_layers: int | None, label_names: ClassNames, *,
    init: Init = "pretrained", teacher: PreTrainedModel | None = None, seed: Seed = 0, chooses: bool = False,
) -> PreTrainedModel:  # fmt: skip
    """A classifier made of the embeddings, the first k layers and the pooler of its source, with a fresh head.

    init "pretrained" takes them from the pre-trained `backbone`, as the paper does; "teacher" from the fine-tuned
    `teacher`; "random" takes the backbone's shape alone. num_hidden_layers None keeps all layers (that is how a teacher
    starts). What the source lacks is drawn from `seed`; torch's random state stays. chooses: for multiple choice.

    Raises ValueError when the source has fewer layers, or init "teacher" lacks its teacher.
    """
    source: Any = teacher.base_model if teacher is not None else None
    if init == "teacher" and teacher is None:
        raise ValueError("init = 'teacher': needs the fine-tuned teacher")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if init != "teacher":
            source = backbone if isinstance(backbone, PreTrainedModel) else load_backbone(backbone)
        config = copy.deepcopy(source.config)
        if num_hidden_layers is not None and not 1 <= num_hidden_layers <= config.num_hidden_layers:
            raise ValueError(f"{num_hidden_layers = }: must be in 1..{config.num_hidden_layers}, the source's")
        depth, config.num_hidden_layers = config.num_hidden_layers, num_hidden_layers or config.num_hidden_layers
        for name, value in config.to_dict().items():
            if "layer" in name and isinstance(value, list) and len(value) == depth:  # as ModernBERT's layer_types
                setattr(config, name, value[: config.num_hidden_layers])
        config.problem_type = "regression" if len(label_names) == 1 else "single_label_classification"  # its own
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
        config.dtype = torch.float32
        student = HEADS[chooses].from_config(config)
        if init != "random":
            own = student.base_model.state_dict().keys()  # the layers kept, not those above
            student.base_model.load_state_dict({name: w for name, w in source.state_dict().items() if name in own})
    return student


def cls_states(hidden_states: Sequence[Tensor], layers: Sequence[int] | None = None) -> Tensor:
    """[CLS] states (batch, layers, hidden) of the given 1-based layers, or of every layer but the embeddings'.

    hidden_states: transformers' tuple of L+1 tensors (batch, length, hidden); index 0 is the embedding output.
    """
    layers = range(1, len(hidden_states)) if layers is None else layers
    return torch.stack([hidden_states[layer][:, 0] for layer in layers], dim=1)
