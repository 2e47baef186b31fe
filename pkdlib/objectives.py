"""What a student is trained on: from its output and the teacher's to the loss, term by term."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pkdlib.config import ConfigError, DistillConfig, method_name
from pkdlib.data import Batch
from pkdlib.engine.checks import check_rows_at_once
from pkdlib.engine.configs import Role, fields_with_role
from pkdlib.layer_maps import layer_map
from pkdlib.losses import PKDTerms, pkd_loss
from pkdlib.models import Output, cls_states
from pkdlib.targets import Want
from pkdlib.variants.distances import ANY_WIDTHS, DISTANCES, LEAST_ROWS, in_float32
from pkdlib.variants.maps import MOVING, alp


class Objective(nn.Module, ABC):
    """The loss of a batch. A class of your own may take the place of `PKD`: `distill(..., objective=Yours)`.

    It is made as Yours(config, model, teacher), with the seed set, before any training; what it learns itself (a
    projection) is trained, kept and restored with the model. A teacher that runs along belongs in a tuple, which torch
    does not train.
    """

    names: Sequence[str] = ("loss",)  # of the terms, the one to minimise first; a record's history has them by epoch
    asks: Mapping[str, bool] = {}  # flags of the forward passes: output_hidden_states, or others of `run`
    wants: Mapping[str, Want] = {}  # the teacher's outputs to be cached: name in the batch -> function of its output
    layers: Sequence[int] = ()  # the matched teacher layers, for the record
    runs_teacher = False  # along with the student, so that rows without labels teach too, as they do where it `wants`

    def __init__(self, config: DistillConfig, model: PreTrainedModel, teacher: PreTrainedModel | None = None):
        super().__init__()
        self.method = type(self).__name__  # by which a record calls it

    def begin(self, epoch: int) -> None:
        """Called before every epoch (1, 2, ...), also when a training resumes: for what changes from epoch to epoch."""

    @abstractmethod
    def forward(self, output: Output, batch: Batch) -> Sequence[Tensor]:
        """The terms, scalars in the order of `names`.

        output: the student's, with what `asks` made it give; batch: its inputs, `labels`, `label_weights` where rows
        do not weigh the same, and every wanted output, each (batch, ...). Of a passage and its choices logits are
        (questions, choices) and hidden states those of questions * choices sequences, (questions * choices, ...).
        """


class PKD(Objective):
    """L_PKD = (1 - alpha) L_CE + alpha L_DS + beta L_PT (section 3.2): FT with alpha = beta = 0, KD with beta = 0.

    Of choices, soft targets are over those of a question, and L_PT is the mean over questions and choices, as each has
    a [CLS] state. Raises ValueError when a term lacks its teacher, or labels, layers or widths do not fit.
    """

    names = PKDTerms._fields
    taken: Sequence[int] = ()  # the teacher layers whose [CLS] states the patience term is made of
    moving: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None  # of MOVING, where the map is no fixed one

    def __init__(self, config: DistillConfig, model: PreTrainedModel, teacher: PreTrainedModel | None = None):
        super().__init__(config, model, teacher)
        self.method = method_name(config)
        self.weights = fields_with_role(config, Role.SOFT, Role.PATIENCE)  # what `pkd_loss` takes by name, and:
        projects = self.weights.pop("projection")
        self.projection: nn.Module = nn.Identity()
        self.asks = {"cls_alone": config.last_layer == "cls"}  # nothing else is read of the last layers
        if not (config.alpha or config.beta):
            return
        if teacher is None:
            raise ValueError(f"alpha = {config.alpha}, beta = {config.beta}: needs a teacher")
        ours, theirs = model.config, teacher.config
        self.wants = pkd_wants(())
        if not config.beta:
            return
        n, k, named = theirs.num_hidden_layers, ours.num_hidden_layers, str(config.strategy)
        any_width = DISTANCES[config.distance] in ANY_WIDTHS and MOVING.get(named) is not alp
        if theirs.hidden_size != ours.hidden_size and not (projects or any_width):
            raise ValueError(
                f"hidden_size: the teacher's is {theirs.hidden_size}, the student's {ours.hidden_size}; "
                "the patience term compares equal widths unless projection is True"
            )
        if k == 1:
            raise ConfigError(f"beta = {config.beta}: a student of one layer has no layer to match; beta must be 0")
        check_rows_at_once(config, LEAST_ROWS.get(config.distance, 1))
        self.taken = taken_layers(n, k, config)
        self.layers = () if named in MOVING else self.taken
        self.asks |= {"output_hidden_states": True}
        self.wants = pkd_wants(self.taken)
        if named in MOVING:
            self.moving, self.seed = MOVING[named], config.seed
            self.order = nn.Buffer(torch.arange(n - 1), persistent=False)
        if projects:
            self.projection = nn.Linear(ours.hidden_size, theirs.hidden_size, bias=False)  # one for all layers
            nn.init.orthogonal_(self.projection.weight)  # at first, no angle between states changes where width allows

    def begin(self, epoch: int) -> None:
        if self.moving:  # in place, because a recorded step reads this tensor
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.order))
            self.order.copy_(torch.from_numpy(order))

    def forward(self, output: Output, batch: Batch) -> PKDTerms:
        student_cls, teacher_cls = None, None
        if self.taken:
            matched = range(1, len(output.hidden_states) - 1)  # all but the last
            student_cls = self.projection(cls_states(output.hidden_states, matched))  # (batch, layers, hidden)
            # In float32: bf16's autocast on a CPU cannot stack half precision.
            teacher_cls = torch.stack([batch[f"teacher_cls_{layer}"].float() for layer in self.taken], dim=-2)
            teacher_cls = teacher_cls.flatten(0, -3)  # choices, too, are then rows, as they are of the student
            if self.moving:
                with in_float32(student_cls):
                    teacher_cls = self.moving(student_cls.float(), teacher_cls, self.order)
        labels, logits, weights = batch["labels"], batch.get("teacher_logits"), batch.get("label_weights")
        return pkd_loss(output.logits, labels, logits, student_cls, teacher_cls, weights=weights, **self.weights)


def taken_layers(n: int, k: int, config: DistillConfig) -> list[int]:
    """The layers of a teacher of n layers whose states a student of k takes: the map's, or all where it moves."""
    moves = str(config.strategy) in MOVING
    fixed = layer_map(n, k, "skip" if moves else config.strategy, config.seed)  # which checks that k is at most n
    return [*range(1, n + 1)] if moves else fixed


def pkd_wants(layers: Sequence[int]) -> dict[str, Want]:
    """What L_PKD takes from a teacher: logits and, of each matched layer, [CLS] states (batch, [choices,] hidden)."""

    def cls(output: Output, layer: int) -> Tensor:
        return output.hidden_states[layer][:, 0].unflatten(0, (len(output.logits), -1)).squeeze(1)

    wants: dict[str, Want] = {"teacher_logits": lambda output: output.logits}
    return wants | {f"teacher_cls_{k}": lambda output, k=k: cls(output, k) for k in layers}
