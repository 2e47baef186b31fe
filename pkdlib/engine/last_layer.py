"""The last layer of an encoder for [CLS] alone: a classifier on [CLS] reads nothing else of it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.electra.modeling_electra import ElectraLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

LAYERS = (BertLayer, RobertaLayer, XLMRobertaLayer, ElectraLayer)  # of one make


def run(model: PreTrainedModel, inputs: Mapping[str, Tensor], cls_alone: bool = False, **flags: bool) -> Any:
    """The model's output of a batch, with transformers' flags (output_hidden_states, output_attentions).

    cls_alone: nothing but [CLS] is read of the last layer, which then gives one position, (batch, 1, hidden), to be
    found where it always is. Keys and values are still of all positions. Layers of another make than BERT's, or with
    another attention than torch's own, stay as they are.

    Of a batch of choices, whose inputs are (questions, choices, length), states and attentions are those of
    questions * choices sequences, from models for multiple choice and from encoders without a head.
    """
    if model.base_model is model:
        inputs = {name: tensor.flatten(0, -2) for name, tensor in inputs.items()}
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    layer: Any = layers[-1] if layers else None
    sdpa = model.config._attn_implementation == "sdpa" and not getattr(model.config, "is_decoder", False)
    if not (cls_alone and sdpa and type(layer) in LAYERS) or flags.get("output_attentions"):
        return model(**inputs, **flags)
    layer.forward = partial(_forward, layer)
    try:
        return model(**inputs, **flags)
    finally:
        del layer.forward  # the class's own again


def _forward(layer: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """The layer's output (batch, 1, hidden) at the first position, of hidden_states (batch, length, hidden)."""
    attention, first = layer.attention.self, hidden_states[:, :1]
    inputs = ((attention.query, first), (attention.key, hidden_states), (attention.value, hidden_states))
    query, key, value = (_heads(project(states), attention) for project, states in inputs)
    mask = None if attention_mask is None else attention_mask[:, :, :1]
    dropout = attention.dropout.p if layer.training else 0.0
    context = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=attention.scaling)
    return layer.feed_forward_chunk(layer.attention.output(context.transpose(1, 2).flatten(2), first))


def _heads(states: Tensor, attention: nn.Module) -> Tensor:
    return states.unflatten(2, (-1, attention.attention_head_size)).transpose(1, 2)  # (batch, heads, length, width)
