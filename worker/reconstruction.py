"""A narrow encoder whose weights are solved for, layer by layer, so that its states repeat a wide one's. No gradient steps.

Along D leading principal directions P (E, D) of the teacher's states, the student's state should be Pᵀh. Everything
linear on the way has a closed form, a ridge regression from what the student has at that place to what it should have
(λ relative to the mean of the diagonal, so free of units):

    min_{W,b} Σ_n ‖W x_n + b − y_n‖² + λ tr(XᵀX)/dim ‖W‖²

1. embeddings: tables T → T W, so that W·(sum of tables) is the target before the LayerNorm
2. queries, keys, values: from the student's states to the teacher's own, of its most important heads
3. attention output, feed-forward in (most important neurons) and out, in this order, each fed by what was solved before it
4. LayerNorms: shift β = mean of the target, scale γ = regression of the target on its normalised self
5. head: dense to the teacher's most important units, final to its logits

A LayerNorm removes what lies along the all-ones direction, so P is rotated to put its least variance there.
Each step corrects what the steps before it lost, a skipped layer included. Sources: principal directions of the residual
stream, SliceGPT arXiv 2401.15024; least-squares repair of a pruned layer, ThiNet arXiv 1707.06342 and SparseGPT
arXiv 2301.00774.

Shapes: N tokens sampled, E teacher width, D student width, F feed-forward neurons, H heads of S numbers, R rows, C classes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.anatomy import Anatomy, Layer, of
from worker.rows import Rows, by_length, collate

RIDGE = 1e-3
MAX_TOKENS = 32_768  # enough for some thousand unknowns per output; bounds memory and time
BATCH = 64
_CHUNK = 8192


@dataclass
class _Record:
    """What the teacher did with the sample: states before and after each layer kept, flat over valid tokens."""

    summed_NE: list[Tensor] = field(default_factory=list)
    states_NE: dict[int, list[Tensor]] = field(default_factory=dict)  # h_0 … h_L
    attended_NE: dict[int, list[Tensor]] = field(default_factory=dict)
    dense_RE: list[Tensor] = field(default_factory=list)
    activated_RE: list[Tensor] = field(default_factory=list)
    logits_RC: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def reconstruct(teacher: PreTrainedModel, student: PreTrainedModel, kept: Sequence[int], rows: Rows) -> dict[str, Any]:
    """Fill `student` (freshly made, one layer for each of `kept`) from `teacher`. Both on the CPU, float32, in eval mode.

    Returns what it measured: the share of variance that P keeps, and per layer the correlation with its target.
    """
    batches = [collate(rows, positions) for positions in _sample(rows)]
    seen = _watch_teacher(teacher, kept, batches)
    wide, narrow = of(teacher), of(student)
    states = {i: torch.cat(parts) for i, parts in seen.states_NE.items()}
    basis_ED, energy = _basis([states[0], *(states[i + 1] for i in kept)], student.config.hidden_size)
    state_ND = _embeddings(wide, narrow, torch.cat(seen.summed_NE), states[0] @ basis_ED)
    told = []
    for n, i in enumerate(kept):
        layer = wide.layers[i]
        heads = student.config.num_attention_heads
        _attention_in(layer, narrow.layers[n], states[i], state_ND, heads, teacher.config.num_attention_heads)
        context_ND = _context(student, narrow.layers[n], batches)
        attended_NE = torch.cat(seen.attended_NE[i])
        target_ND = _fit_norm(narrow.layers[n].attention_norm, attended_NE @ basis_ED)
        _solve(narrow.layers[n].attention_out, context_ND, target_ND - state_ND)
        state_ND = narrow.layers[n].attention_norm(narrow.layers[n].attention_out(context_ND) + state_ND)
        state_ND, match = _feed_forward(layer, narrow.layers[n], attended_NE, state_ND, states[i + 1] @ basis_ED)
        told.append(round(match, 4))
    _head(wide, narrow, student, seen, batches)
    return {"variance_kept": round(energy, 4), "match": told, "tokens": len(state_ND)}


def _sample(rows: Rows) -> list[list[int]]:
    """Row positions in batches of like length, of as many rows from the start as MAX_TOKENS allows."""
    count, tokens = 0, 0
    while count < len(rows) and tokens < MAX_TOKENS:
        tokens += len(rows.tokens[count])
        count += 1
    return by_length(rows.only(range(count)), BATCH)


# -- what the models do with the sample ------------------------------------------------------------------------------


@contextmanager
def _hooked(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch_teacher(teacher: PreTrainedModel, kept: Sequence[int], batches: list[Any]) -> _Record:
    parts, seen = of(teacher), _Record()
    valid_BT = torch.empty(0)

    def flat(value: Tensor) -> Tensor:
        return value[valid_BT]

    def attended(i: int) -> Any:
        return lambda _m, _i, out: seen.attended_NE.setdefault(i, []).append(flat(out))

    handles = [parts.layers[i].attention_norm.register_forward_hook(attended(i)) for i in kept]
    handles.append(parts.embedding_norm.register_forward_pre_hook(lambda _m, given: seen.summed_NE.append(flat(given[0]))))
    handles.append(parts.dense.register_forward_hook(lambda _m, _i, out: seen.dense_RE.append(out)))
    handles.append(parts.final.register_forward_pre_hook(lambda _m, given: seen.activated_RE.append(given[0])))
    needed = sorted({0, *kept, *(i + 1 for i in kept)})
    with _hooked(*handles):
        for batch in batches:
            valid_BT = batch.attention_mask_BT.bool()
            out = teacher(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, output_hidden_states=True)
            seen.logits_RC.append(out.logits)
            for i in needed:
                seen.states_NE.setdefault(i, []).append(flat(out.hidden_states[i]))
    return seen


def _context(student: PreTrainedModel, layer: Layer, batches: list[Any]) -> Tensor:
    """(N, D) what attention of `layer` gathers, before its output map."""
    found: list[Tensor] = []
    with _hooked(layer.attention_out.register_forward_pre_hook(lambda _m, given: found.append(given[0]))):
        for batch in batches:
            student(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
    return torch.cat([value[batch.attention_mask_BT.bool()] for value, batch in zip(found, batches, strict=True)])


# -- the steps -------------------------------------------------------------------------------------------------------


def _basis(states: list[Tensor], width: int) -> tuple[Tensor, float]:
    """P (E, D), its columns orthonormal, the least variance along their sum; and the share of variance kept."""
    covariance_EE = torch.zeros(states[0].shape[1], states[0].shape[1], dtype=torch.float64)
    count = sum(len(s) for s in states)
    mean_E = sum(s.double().sum(0) for s in states) / count
    for state in states:
        for chunk in torch.split(state, _CHUNK):
            centred = chunk.double() - mean_E
            covariance_EE += centred.T @ centred / count
    values_E, vectors_EE = torch.linalg.eigh(covariance_EE)
    leading_ED = vectors_EE.flip(-1)[:, :width]
    ones = torch.full((width,), width**-0.5, dtype=torch.float64)
    ones[-1] -= 1.0  # Householder: swaps the last axis, of least variance, with the all-ones direction
    mirror = ones / ones.norm().clamp_min(1e-12)
    rotated_ED = leading_ED - 2 * (leading_ED @ mirror)[:, None] * mirror
    return rotated_ED.float(), float(values_E[-width:].sum() / values_E.sum().clamp_min(1e-300))


def _embeddings(wide: Anatomy, narrow: Anatomy, summed_NE: Tensor, wanted_ND: Tensor) -> Tensor:
    """Solve the tables; returns the student's h_0 (N, D)."""
    target_ND = _fit_norm(narrow.embedding_norm, wanted_ND)
    spread_N = summed_NE.std(-1, keepdim=True, correction=0)  # the target before its division by the spread
    weight_DE, bias_D = ridge(summed_NE, target_ND * spread_N)
    for source, table in zip(wide.tables, narrow.tables, strict=True):
        table.weight.copy_(source.weight @ weight_DE.T)
    narrow.tables[-1].weight.add_(bias_D)  # every token takes exactly one row of the last table
    result: Tensor = narrow.embedding_norm(summed_NE @ weight_DE.T + bias_D)
    return result


def _attention_in(wide: Layer, narrow: Layer, input_NE: Tensor, state_ND: Tensor, heads: int, teacher_heads: int) -> None:
    """Queries, keys and values of the heads that move the teacher's stream most."""
    size, narrow_size = wide.query.out_features // teacher_heads, narrow.query.out_features // heads
    values_NHS = torch.unflatten(wide.value(input_NE), -1, (teacher_heads, size))
    out_EHS = torch.unflatten(wide.attention_out.weight, -1, (teacher_heads, size))
    moved_H = torch.stack([(values_NHS[:, h] @ out_EHS[:, h].T).var(0, correction=0).sum() for h in range(teacher_heads)])
    chosen = moved_H.topk(min(heads, teacher_heads)).indices.sort().values.tolist()
    taken = min(size, narrow_size)
    for part in ("query", "key", "value"):
        source, slot = getattr(wide, part), getattr(narrow, part)
        wanted_NHS = torch.unflatten(source(input_NE), -1, (teacher_heads, size))[:, chosen]
        if taken < size:  # a smaller head keeps its leading directions; queries and keys must share theirs
            wanted_NHS = _fewer_directions(part, wide, input_NE, wanted_NHS, chosen, teacher_heads, taken)
        if part == "query" and narrow_size != size:
            wanted_NHS = wanted_NHS * (narrow_size / size) ** 0.5  # scores are divided by the root of the head size
        weight, bias = ridge(state_ND, wanted_NHS.flatten(1))
        at = torch.cat([torch.arange(taken) + n * narrow_size for n in range(len(chosen))])
        slot.weight[at], slot.bias[at] = weight, bias


def _fewer_directions(
    part: str, wide: Layer, input_NE: Tensor, wanted_NHS: Tensor, chosen: list[int], teacher_heads: int, taken: int
) -> Tensor:
    sources = [wide.value] if part == "value" else [wide.query, wide.key]
    found = []
    for n, h in enumerate(chosen):
        second = torch.zeros(wanted_NHS.shape[-1], wanted_NHS.shape[-1], dtype=torch.float64)
        for source in sources:
            given_NS = torch.unflatten(source(input_NE), -1, (teacher_heads, -1))[:, h].double()
            second += given_NS.T @ given_NS / given_NS.square().sum().clamp_min(1e-300)
        leading = torch.linalg.eigh(second)[1].flip(-1)[:, :taken].float()
        found.append(wanted_NHS[:, n] @ leading)
    return torch.stack(found, 1)


def _feed_forward(wide: Layer, narrow: Layer, attended_NE: Tensor, state_ND: Tensor, wanted_ND: Tensor) -> tuple[Tensor, float]:
    """Solve in and out; returns the student's state after the layer and its correlation with the target."""
    raw_NF = wide.ffn_in(attended_NE)
    strength_F = wide.activation(raw_NF).std(0, correction=0) * wide.ffn_out.weight.norm(dim=0)
    chosen = strength_F.topk(narrow.ffn_in.out_features).indices.sort().values
    _solve(narrow.ffn_in, state_ND, raw_NF[:, chosen])
    active_NF = narrow.activation(narrow.ffn_in(state_ND))
    target_ND = _fit_norm(narrow.ffn_norm, wanted_ND)
    _solve(narrow.ffn_out, active_NF, target_ND - state_ND)
    before_ND = narrow.ffn_out(active_NF) + state_ND
    return narrow.ffn_norm(before_ND), float((_normalised(before_ND) * target_ND).mean())


def _head(wide: Anatomy, narrow: Anatomy, student: PreTrainedModel, seen: _Record, batches: list[Any]) -> None:
    dense_RE, activated_RE = torch.cat(seen.dense_RE), torch.cat(seen.activated_RE)
    strength_E = activated_RE.std(0, correction=0) * wide.final.weight.norm(dim=0)
    chosen = strength_E.topk(narrow.dense.out_features).indices.sort().values
    for module, wanted in ((narrow.dense, dense_RE[:, chosen]), (narrow.final, torch.cat(seen.logits_RC))):
        given: list[Tensor] = []
        with _hooked(module.register_forward_pre_hook(lambda _m, args, into=given: into.append(args[0]))):
            for batch in batches:
                student(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
        _solve(module, torch.cat(given), wanted)


# -- algebra ---------------------------------------------------------------------------------------------------------


def ridge(given_NX: Tensor, wanted_NY: Tensor, relative: float = RIDGE) -> tuple[Tensor, Tensor]:
    """W (Y, X) and b (Y,) of the regression above; sums in float64."""
    x_mean, y_mean = given_NX.double().mean(0), wanted_NY.double().mean(0)
    gram_XX = torch.zeros(given_NX.shape[1], given_NX.shape[1], dtype=torch.float64)
    cross_XY = torch.zeros(given_NX.shape[1], wanted_NY.shape[1], dtype=torch.float64)
    for x, y in zip(torch.split(given_NX, _CHUNK), torch.split(wanted_NY, _CHUNK), strict=True):
        centred = x.double() - x_mean
        gram_XX += centred.T @ centred
        cross_XY += centred.T @ (y.double() - y_mean)
    diagonal = gram_XX.diagonal()
    diagonal += relative * diagonal.mean().clamp_min(1e-12)
    weight_XY = torch.linalg.solve(gram_XX, cross_XY)
    return weight_XY.T.float().contiguous(), (y_mean - x_mean @ weight_XY).float()


def _solve(module: nn.Linear, given_NX: Tensor, wanted_NY: Tensor) -> None:
    weight, bias = ridge(given_NX, wanted_NY)
    module.weight.copy_(weight)
    module.bias.copy_(bias)


def _normalised(value_ND: Tensor) -> Tensor:
    centred = value_ND - value_ND.mean(-1, keepdim=True)
    return centred / centred.std(-1, keepdim=True, correction=0).clamp_min(1e-6)


def _fit_norm(norm: nn.LayerNorm, wanted_ND: Tensor) -> Tensor:
    """Set shift and scale for the wanted outputs; returns what the normalised input should be."""
    shift_D = wanted_ND.mean(0)
    unit_ND = _normalised(wanted_ND - shift_D)
    scale_D = ((wanted_ND - shift_D) * unit_ND).sum(0) / unit_ND.square().sum(0).clamp_min(1e-12)
    scale_D = scale_D.clamp_min(1e-3 * float(scale_D.abs().mean()) + 1e-12)
    norm.weight.copy_(scale_D)
    norm.bias.copy_(shift_D)
    return _normalised((wanted_ND - shift_D) / scale_D)
