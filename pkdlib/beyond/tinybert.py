"""TinyBERT's intermediate losses (Jiao et al., 2020, arXiv 1909.10351) as an objective: all tokens, attention maps.

Attention maps and the states of all tokens are too large to be cached, so the teacher runs along with the student.
"""

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pkdlib.config import DistillConfig
from pkdlib.data import Batch
from pkdlib.engine.configs import ConfigError
from pkdlib.layer_maps import layer_map
from pkdlib.losses import ce_loss, kd_loss
from pkdlib.models import Output
from pkdlib.objectives import Objective

INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """L_attn = (A_s - A_t)^2 of one layer, averaged over heads and pairs of real tokens (TinyBERT, equation 7).

    student, teacher: attention maps (batch, heads, length, length); mask: (batch, length), 1 for real tokens. TinyBERT
    compares the scores before the softmax; these are the probabilities after it, which transformers gives. The mean is
    over the pairs of a batch or micro-batch, so that its longer rows weigh more.
    """
    pairs = (mask[:, None, :, None] * mask[:, None, None, :]).float()  # (batch, 1, length, length)
    return ((student.float() - teacher.float()).square() * pairs).sum() / (pairs.sum() * student.shape[1])


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """L_hidn = (H_s W - H_t)^2 of one layer, averaged over real tokens and width (TinyBERT, equations 8 and 9).

    student: states (batch, length, hidden), W applied; teacher: of the same shape; mask: (batch, length).
    """
    squared = (student.float() - teacher.float()).square().mean(dim=-1)  # (batch, length)
    return (squared * mask).sum() / mask.sum()


class TinyBERT(Objective):
    """L = (1 - alpha) L_CE + alpha L_DS + beta (L_attn + L_hidn), summed over layers, in one stage.

    Student layer m follows teacher layer m N / k, the embeddings follow the embeddings, and one projection W is learned
    for all of them. temperature, form and t_squared are as in L_PKD; strategy, normalize, distance and projection have
    no effect. The student's attention has no dropout, which would be in the maps that are compared. Raises ValueError
    where the student has more layers than the teacher, or another number of attention heads.
    """

    names = ("loss", "loss_ce", "loss_kd", "loss_attention", "loss_hidden")
    asks: Mapping[str, bool] = MappingProxyType({"output_attentions": True, "output_hidden_states": True})
    runs_teacher = True

    def __init__(self, config: DistillConfig, model: PreTrainedModel, teacher: PreTrainedModel | None = None):
        super().__init__(config, model, teacher)
        if teacher is None:
            raise ConfigError("teacher = None: TinyBERT needs one")
        ours, theirs = model.config, teacher.config
        if ours.num_attention_heads != theirs.num_attention_heads:
            heads = f"num_attention_heads = {ours.num_attention_heads}"
            raise ConfigError(f"{heads}: must be {theirs.num_attention_heads}, as the teacher has")
        if len(model.config.id2label) == 1:
            raise ConfigError("label_names: must be classes, TinyBERT's soft targets are not of values")
        layer_map(theirs.num_hidden_layers, ours.num_hidden_layers)  # the depths fit, or the one line that says why not
        self.config = config
        self.layers: Sequence[int] = [
            m * theirs.num_hidden_layers // ours.num_hidden_layers for m in range(1, ours.num_hidden_layers + 1)
        ]
        self.projection = nn.Linear(ours.hidden_size, theirs.hidden_size, bias=False)
        nn.init.orthogonal_(self.projection.weight)
        self.teacher = (copy.deepcopy(teacher).eval(),)  # in a tuple, where torch neither trains nor saves it
        for one in (model, self.teacher[0]):
            one.set_attn_implementation("eager")  # the others give no attention maps
        for module in model.modules():
            if "SelfAttention" in type(module).__name__ and isinstance(getattr(module, "dropout", None), nn.Dropout):
                module.dropout = nn.Dropout(0.0)

    def forward(self, output: Output, batch: Batch) -> tuple[Tensor, ...]:
        mask, c = batch["attention_mask"].flatten(0, -2), self.config  # of choices a row each, as their states
        with torch.no_grad():
            teacher = self.teacher[0].to(mask.device)
            theirs = teacher(**{name: batch[name] for name in INPUTS if name in batch}, **self.asks)
        ce = ce_loss(output.logits, batch["labels"], batch.get("label_weights"))
        kd = kd_loss(output.logits, theirs.logits, c.temperature, c.form, c.t_squared)
        matched = list(enumerate(self.layers, start=1))
        attention = sum(attention_loss(output.attentions[m - 1], theirs.attentions[n - 1], mask) for m, n in matched)
        states = ((self.projection(output.hidden_states[m]), theirs.hidden_states[n]) for m, n in [(0, 0), *matched])
        hidden = sum(hidden_loss(student, teacher, mask) for student, teacher in states)
        loss = (1 - c.alpha) * ce + c.alpha * kd + c.beta * (attention + hidden)
        return loss, ce, kd, torch.as_tensor(attention), torch.as_tensor(hidden)
