"""The last layer of a sequence classifier for its first token alone, where nothing but logits is wanted.

The head reads position 0 of the last hidden state. Queries, projections, FFN and norms of all other positions would be computed,
and their gradients too, for nothing: a fifth of a training step of a student of three layers. Keys and values are needed of all.
Shapes: B sequences, T tokens, D hidden, H heads, S numbers of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout
from transformers import PreTrainedModel

from worker import anatomy
from worker.signals import Wants


def enough(model: PreTrainedModel, wants: Wants, layers: int) -> bool:
    """Whether these wants are the same with the last state of the first token alone."""
    return (
        model.config.model_type in anatomy.FAMILIES
        and type(model).__name__.endswith("ForSequenceClassification")
        and layers > 0
        and not wants.embedding
        and layers not in wants.hidden | wants.qkv
    )


@contextmanager
def last_layer(model: PreTrainedModel, mask_BT: Tensor, heads: int) -> Iterator[None]:
    """While this holds, the last layer gives (B, 1, D): what it gave before at position 0, but for rounding."""
    part, module = anatomy.of(model).layers[-1], anatomy.blocks(model)[-1]

    def forward(before_BTD: Tensor, *_: Any, **__: Any) -> Tensor:
        first_B1D, p = before_BTD[:, :1], part if module.training else None
        query_BH1S, key_BHTS, value_BHTS = (
            torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)
            for x in (part.query(first_B1D), part.key(before_BTD), part.value(before_BTD))
        )
        scores_BH1T = query_BH1S @ key_BHTS.transpose(2, 3) * key_BHTS.shape[-1] ** -0.5
        weights_BH1T = scores_BH1T.masked_fill(~mask_BT.bool()[:, None, None, :], float("-inf")).softmax(-1)
        weights_BH1T = dropout(weights_BH1T, p.attention_dropout if p else 0.0).to(value_BHTS.dtype)
        attended_B1D = part.attention_out((weights_BH1T @ value_BHTS).transpose(1, 2).flatten(2))
        attended_B1D = part.attention_norm(dropout(attended_B1D, p.attention_out_dropout if p else 0.0) + first_B1D)
        made_B1D = part.ffn_out(part.activation(part.ffn_in(attended_B1D)))
        result: Tensor = part.ffn_norm(dropout(made_B1D, p.ffn_dropout if p else 0.0) + attended_B1D)
        return result

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
