"""A narrow encoder whose weights are set layer by layer, so that its states repeat a wide one's. No gradient steps.

Along D directions P (E, D) of the teacher's states, the student's state should be Pᵀh. In this order, each step fed by what
the steps before it gave:

1. embeddings: tables T → T W, so that W·(sum of tables) is the target before the LayerNorm
2. queries, keys, values: from the student's states to the teacher's own, of its most important heads
3. attention output, feed-forward in (most important neurons) and out
4. LayerNorms: shift β = mean of the target, scale γ = regression of the target on its normalised self
5. head: `worker/surgery/head_transfer.py`

Every linear map on the way, x its inputs in the student and y what it should give, comes by one of

    reconstruct    P of most variance,   W, b = ridge regression of y on x (`surgery/least_squares.py`): corrects what the steps
                   before it lost, a skipped layer included
    projection     P of most variance,   W = the teacher's map seen along P, b = ȳ − W x̄
    importance     P a selection of axes, W and b likewise: rows and columns of the teacher's own matrices

Sources: principal directions of the residual stream, SliceGPT arXiv 2401.15024; least-squares repair of a pruned layer,
ThiNet arXiv 1707.06342 and SparseGPT arXiv 2301.00774; activation times weight norm, Wanda arXiv 2306.11695.

Shapes: N tokens sampled, E teacher width, D student width, F feed-forward neurons, H heads of S numbers, K numbers kept.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from worker.anatomy import Anatomy, Layer, of
from worker.rows import Batch
from worker.surgery import selection
from worker.surgery.basis import important, principal
from worker.surgery.head_transfer import transfer_head
from worker.surgery.least_squares import fit_norm, normalised, ridge
from worker.surgery.observation import contexts, watch

JUDGED = 4096  # tokens that tell which neurons matter
Method = Literal["reconstruct", "projection", "importance"]
# (inputs NX, wanted outputs NY, the teacher's map seen along P: YX) → weight YX and bias Y
_Fit = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def reconstruct(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    kept: Sequence[int],
    batches: list[Batch],
    method: Method = "reconstruct",
) -> dict[str, Any]:
    """Fill `student` (freshly made, one layer for each of `kept`) from `teacher`. Both on the CPU, float32, in eval mode.

    Returns what it measured: the share of variance that P keeps, per layer the correlation with its target, and whether the
    head was inherited too.
    """
    seen = watch(teacher, kept, batches)
    wide, narrow = of(teacher), of(student)
    states = seen.states_ND
    basis_ED, energy = _directions(wide, states, kept, student.config.hidden_size, method)
    fit = _solved if method == "reconstruct" else _kept
    wanted_ND = states[0] @ basis_ED
    state_ND = (
        wanted_ND if _keep_tables(teacher, student, basis_ED) else _tables(wide, narrow, seen.summed_ND, wanted_ND, basis_ED, fit)
    )
    told = []
    counts = (student.config.num_attention_heads, teacher.config.num_attention_heads)
    for n, i in enumerate(kept):
        layer, ours = wide.layers[i], narrow.layers[n]
        chosen = selection.heads(layer, states[i], *counts, ours.query.out_features)
        for part in ("query", "key", "value"):
            source, slot, map_EK = getattr(layer, part), getattr(ours, part), chosen.maps[part]
            along_KD = map_EK.T @ source.weight @ basis_ED
            slot.weight[chosen.at], slot.bias[chosen.at] = fit(state_ND, source(states[i]) @ map_EK, along_KD)
        context_ND = contexts(ours, counts[0], state_ND, batches)
        target_ND = fit_norm(ours.attention_norm, seen.attended_ND[i] @ basis_ED)
        along_DD = ours.attention_out.weight.clone()
        along_DD[:, chosen.at] = basis_ED.T @ layer.attention_out.weight @ chosen.maps["value"]
        _set(ours.attention_out, fit(context_ND, target_ND - state_ND, along_DD))
        state_ND = ours.attention_norm(ours.attention_out(context_ND) + state_ND)
        state_ND, match = _feed_forward(layer, ours, seen.attended_ND[i], state_ND, states[i + 1] @ basis_ED, basis_ED, fit)
        told.append(round(match, 4))
    head = transfer_head(teacher, student, batches, states[len(wide.layers)], state_ND)
    return {"variance_kept": round(energy, 4), "match": told, "tokens": len(state_ND), "head": head}


def _directions(wide: Anatomy, states: dict[int, Tensor], kept: Sequence[int], width: int, method: Method) -> tuple[Tensor, float]:
    where = [states[0], *(states[i + 1] for i in kept)]
    if method != "importance":
        return principal(where, width)
    layers = [wide.layers[i] for i in kept]
    return important(where, [m.weight for x in layers for m in (x.query, x.key, x.value, x.ffn_in)], width)


def _solved(given_NX: Tensor, wanted_NY: Tensor, _along_YX: Tensor) -> tuple[Tensor, Tensor]:
    return ridge(given_NX, wanted_NY)


def _kept(given_NX: Tensor, wanted_NY: Tensor, along_YX: Tensor) -> tuple[Tensor, Tensor]:
    """The mean comes out right: a norm behind it divides by the spread of a state, of which a wrong mean would be the most."""
    return along_YX, wanted_NY.mean(0) - along_YX @ given_NX.mean(0)


def _keep_tables(teacher: PreTrainedModel, student: PreTrainedModel, basis_ED: Tensor) -> bool:
    """ELECTRA's tables may be narrower than its states: then they stay, and the map behind them gives Pᵀh_0 exactly."""
    theirs, ours = (getattr(model.base_model, "embeddings_project", None) for model in (teacher, student))
    if theirs is None or ours is None:
        return False
    inner, source = cast("nn.Module", student.base_model.embeddings), cast("nn.Module", teacher.base_model.embeddings)
    inner.load_state_dict(source.state_dict())
    _set(ours, (basis_ED.T @ theirs.weight, basis_ED.T @ theirs.bias))
    return True


def _tables(wide: Anatomy, narrow: Anatomy, summed_NE: Tensor, wanted_ND: Tensor, basis_ED: Tensor, fit: _Fit) -> Tensor:
    """Fill the tables and the first norm; returns the student's h_0 (N, D)."""
    target_ND = fit_norm(narrow.embedding_norm, wanted_ND)
    spread_N = summed_NE.std(-1, keepdim=True, correction=0)  # the target before its division by the spread
    if summed_NE.shape[1] != len(basis_ED):  # ELECTRA's map behind narrow tables has no place in a student as narrow as they
        fit = _solved
    weight_DE, bias_D = fit(summed_NE, target_ND * spread_N, basis_ED.T)
    for source, table in zip(wide.tables, narrow.tables, strict=True):
        table.weight.copy_(source.weight @ weight_DE.T)
    narrow.tables[-1].weight.add_(bias_D)  # every token takes exactly one row of the last table
    result: Tensor = narrow.embedding_norm(summed_NE @ weight_DE.T + bias_D)
    return result


def _feed_forward(
    wide: Layer, narrow: Layer, attended_NE: Tensor, state_ND: Tensor, wanted_ND: Tensor, basis_ED: Tensor, fit: _Fit
) -> tuple[Tensor, float]:
    """Set in and out; returns the student's state after the layer and its correlation with the target."""
    some_NF = wide.ffn_in(attended_NE[:: max(1, len(attended_NE) // JUDGED)])
    chosen = selection.neurons(some_NF, wide.activation, wide.ffn_out.weight, narrow.ffn_in.out_features)
    raw_NF = linear(attended_NE, wide.ffn_in.weight[chosen], wide.ffn_in.bias[chosen])
    _set(narrow.ffn_in, fit(state_ND, raw_NF, wide.ffn_in.weight[chosen] @ basis_ED))
    del raw_NF
    active_NF = narrow.activation(narrow.ffn_in(state_ND))
    target_ND = fit_norm(narrow.ffn_norm, wanted_ND)
    _set(narrow.ffn_out, fit(active_NF, target_ND - state_ND, basis_ED.T @ wide.ffn_out.weight[:, chosen]))
    before_ND = narrow.ffn_out(active_NF) + state_ND
    return narrow.ffn_norm(before_ND), float((normalised(before_ND) * target_ND).mean())


def _set(module: nn.Linear, found: tuple[Tensor, Tensor]) -> None:
    module.weight.copy_(found[0])
    module.bias.copy_(found[1])
