"""One forward pass, and everything that objectives want of it: hidden states, queries, keys and values, a pooled vector.

Queries, keys and values are taken at the three linear maps, so attention itself may run in whatever kernel is fastest.
Shapes: B sequences, T tokens, D hidden, H heads, S numbers of a head.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.domain.errors import UnsupportedMethod
from worker import anatomy, first_token
from worker.rows import Batch, Mix
from worker.signals import QKV, Shape, Wants


def run(
    model: PreTrainedModel, batch: Batch, wants: Wants, ids_BT: Tensor | None = None, *, body: bool = False
) -> tuple[Any, dict[int, QKV]]:
    """The model's own output (with all hidden states when some are wanted, or an embedding) and the qkv of the layers wanted.

    `ids_BT`: what is fed instead of the batch's ids, when the model's embedding table is a compact one. `body`: without the head.
    """
    called: Any = model.base_model if body else model
    inputs = {"input_ids": batch.input_ids_BT if ids_BT is None else ids_BT, "attention_mask": batch.attention_mask_BT}
    if batch.token_types_BT is not None and getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = batch.token_types_BT
    shape = shape_of(model)
    short = not body and first_token.enough(model, wants, shape.layers)
    last = first_token.last_layer(model, batch.attention_mask_BT, shape.heads) if short else nullcontext()
    with _watched(model, wants.qkv) as seen, _mixed(model, batch.mix), last:
        out = called(**inputs, output_hidden_states=bool(wants.hidden) or wants.embedding)
    return out, {layer: _heads(model, *three) for layer, three in seen.items()}


def shape_of(model: PreTrainedModel, classes: int = 0, influence: tuple[float, ...] = ()) -> Shape:
    config = model.config
    layers = next((int(v) for n in ("num_hidden_layers", "n_layers") if (v := getattr(config, n, None)) is not None), 0)
    hidden = next(int(v) for n in ("hidden_size", "dim") if (v := getattr(config, n, None)) is not None)
    heads = next((int(v) for n in ("num_attention_heads", "n_heads") if (v := getattr(config, n, None)) is not None), 0)
    return Shape(layers, hidden, heads, hidden, classes, influence)


def qkv_of(model: PreTrainedModel, layer: int, before_BTD: Tensor) -> QKV:
    """Queries, keys and values of layer `layer` (from 1) for the hidden state that enters it: no pass of the whole model."""
    part = anatomy.of(model).layers[layer - 1]
    return _heads(model, part.query(before_BTD), part.key(before_BTD), part.value(before_BTD))


def _heads(model: PreTrainedModel, *three: Tensor) -> QKV:
    heads = shape_of(model).heads
    q, k, v = (torch.unflatten(t, -1, (heads, -1)).transpose(1, 2) for t in three)
    return q, k, v


@contextmanager
def _watched(model: PreTrainedModel, layers: frozenset[int]) -> Iterator[Mapping[int, tuple[Tensor, ...]]]:
    seen: dict[int, list[Tensor]] = {layer: [] for layer in sorted(layers)}
    handles = []
    if layers:
        try:
            parts = anatomy.of(model).layers
        except KeyError as error:
            raise UnsupportedMethod(
                f"The attention of a '{model.config.model_type}' cannot be looked into.",
                param="stages",
                hint=f"Use objectives on hidden states or logits, or one of {', '.join(anatomy.FAMILIES)}.",
            ) from error
        for layer, found in seen.items():
            part = parts[layer - 1]
            handles += [
                module.register_forward_hook(lambda _m, _i, out, into=found: into.append(out))
                for module in (part.query, part.key, part.value)
            ]
    result: dict[int, tuple[Tensor, ...]] = {}
    try:
        yield result
    finally:
        for handle in handles:
            handle.remove()
    result |= {layer: tuple(found) for layer, found in seen.items()}


@contextmanager
def _mixed(model: PreTrainedModel, mix: Mix | None) -> Iterator[None]:
    """Word embeddings are mixed across the batch while this holds: e ← λ e + (1 − λ) e[partner]."""
    if mix is None:
        yield
        return
    share, partner_B = mix.share, mix.partner_B

    def blend(_m: Any, _i: Any, out_BTD: Tensor) -> Tensor:
        return share * out_BTD + (1 - share) * out_BTD[partner_B.to(out_BTD.device)]

    handle = model.get_input_embeddings().register_forward_hook(blend)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def influence(states: Mapping[int, Tensor], mask_BT: Tensor) -> list[float]:
    """Block influence of every layer, 1 − mean cos(h_l, h_{l+1}) over valid tokens. Source: ShortGPT, arXiv 2403.03853."""
    valid = mask_BT.bool()
    flat = [states[i][valid].float() for i in sorted(states)]
    return [1 - float(torch.cosine_similarity(a, b, dim=-1).mean()) for a, b in pairwise(flat)]
