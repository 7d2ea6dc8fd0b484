"""What a model does with a sample of the job's rows: states before and after the layers asked for, flat over valid tokens.

Shapes: N tokens sampled, R rows, D width of the model that is watched, H heads of S numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from worker import capture
from worker.anatomy import Layer, of
from worker.precision import mixed_precision
from worker.rows import Batch, Rows, by_length, collate
from worker.signals import Wants

MAX_TOKENS = 32_768  # enough for some thousand unknowns per output; bounds time
MAX_BYTES = 2 << 30  # of the teacher's states held at once
BATCH = 64
_ALL = Wants(hidden=frozenset({0}))  # every hidden state comes with the first


@dataclass(frozen=True)
class Observed:
    """h_0, h_L and those asked for; `attended`: between attention and feed-forward, `summed`: before the first norm."""

    summed_ND: Tensor
    states_ND: dict[int, Tensor]
    attended_ND: dict[int, Tensor]


def sample(rows: Rows, width: int, layers: int) -> list[Batch]:
    """Batches of like length, of as many sequences from the start as MAX_TOKENS and MAX_BYTES allow."""
    flat = rows.sequences()
    limit = min(MAX_TOKENS, MAX_BYTES // (4 * width * (2 * layers + 2)))
    count, tokens = 0, 0
    while count < len(flat) and tokens < limit:
        tokens += len(flat.tokens[count])
        count += 1
    chosen = flat.only(range(count))
    return [collate(chosen, positions, draw) for draw, positions in enumerate(by_length(chosen, BATCH))]


@torch.no_grad()
def watch(model: PreTrainedModel, layers: Sequence[int], batches: Sequence[Batch]) -> Observed:
    """One pass without the head. `layers` count from 0: the states that enter and leave each of them are kept."""
    parts = of(model)
    summed: list[Tensor] = []
    attended: dict[int, list[Tensor]] = {i: [] for i in layers}
    wanted = {0, *layers, *(i + 1 for i in layers), len(parts.layers)}
    states: dict[int, list[Tensor]] = {i: [] for i in sorted(wanted)}
    valid_BT = torch.empty(0)

    def keep(into: list[Tensor], value: Tensor) -> None:
        into.append(value[valid_BT].float())

    handles = [
        parts.layers[i].attention_norm.register_forward_hook(lambda _m, _i, out, i=i: keep(attended[i], out)) for i in layers
    ]
    handles.append(parts.embedding_norm.register_forward_pre_hook(lambda _m, given: keep(summed, given[0])))
    fast = mixed_precision("auto", torch.device("cpu")) == "bf16"
    with hooked(*handles), torch.autocast("cpu", torch.bfloat16, enabled=fast):
        for batch in batches:
            valid_BT = batch.attention_mask_BT.bool()
            out, _ = capture.run(model, batch, _ALL, body=True)
            for i, found in states.items():
                keep(found, out.hidden_states[i])
    joined = {i: torch.cat(found) for i, found in states.items()}
    return Observed(torch.cat(summed), joined, {i: torch.cat(found) for i, found in attended.items()})


@torch.no_grad()
def contexts(layer: Layer, heads: int, state_ND: Tensor, batches: Sequence[Batch]) -> Tensor:
    """(N, H·S) what a layer's attention gathers, before its output map, from the states that enter the layer."""
    found, start = [], 0
    for batch in batches:
        valid_BT = batch.attention_mask_BT.bool()
        inside_ND = state_ND[start : (start := start + int(valid_BT.sum()))]

        def of_heads(part: nn.Linear, valid_BT: Tensor = valid_BT, inside_ND: Tensor = inside_ND) -> Tensor:
            padded_BTD = inside_ND.new_zeros(*valid_BT.shape, part.out_features)
            padded_BTD[valid_BT] = part(inside_ND)
            return torch.unflatten(padded_BTD, -1, (heads, -1)).transpose(1, 2)

        query, key, value = (of_heads(part) for part in (layer.query, layer.key, layer.value))
        gathered_BHTS = scaled_dot_product_attention(query, key, value, attn_mask=valid_BT[:, None, None, :])
        found.append(gathered_BHTS.transpose(1, 2).flatten(2)[valid_BT])
    return torch.cat(found)


def first_tokens(batches: Sequence[Batch]) -> Tensor:
    """(R,) where each row begins among the N valid tokens."""
    lengths_R = torch.cat([batch.attention_mask_BT.sum(1) for batch in batches])
    return lengths_R.cumsum(0) - lengths_R


@torch.no_grad()
def leaving(model: PreTrainedModel, module: nn.Module, batches: Sequence[Batch], *, body: bool = False) -> Tensor:
    """(N or R, outputs) what `module` gives."""
    found: list[Tensor] = []
    with hooked(module.register_forward_hook(lambda _m, _i, out: found.append(out))):
        for batch in batches:
            capture.run(model, batch, Wants(), body=body)
    return _flat(found, batches)


@torch.no_grad()
def influence(model: PreTrainedModel, batches: Sequence[Batch]) -> list[float]:
    """Block influence of every layer over the sample, 1 − mean cos(h_l, h_{l+1}). Source: ShortGPT, arXiv 2403.03853."""
    sums: list[float] = []
    count = 0
    for batch in batches:
        out, _ = capture.run(model, batch, _ALL, body=True)
        moved = capture.influence(dict(enumerate(out.hidden_states)), batch.attention_mask_BT)
        sums = [a + b * batch.tokens for a, b in zip(sums or [0.0] * len(moved), moved, strict=True)]
        count += batch.tokens
    return [value / max(1, count) for value in sums]


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _flat(found: list[Tensor], batches: Sequence[Batch]) -> Tensor:
    pairs = zip(found, batches, strict=True)
    return torch.cat([value[batch.attention_mask_BT.bool()] if value.dim() == 3 else value for value, batch in pairs])
