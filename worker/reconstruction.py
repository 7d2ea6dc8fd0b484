"""A narrow encoder whose weights are solved for, layer by layer, so that its states repeat a wide one's. No gradient steps.

Along D leading principal directions P (E, D) of the teacher's states, the student's state should be Pᵀh. Everything
linear on the way has a closed form, a ridge regression from what the student has at that place to what it should have
(`worker/least_squares.py`):

1. embeddings: tables T → T W, so that W·(sum of tables) is the target before the LayerNorm
2. queries, keys, values: from the student's states to the teacher's own, of its most important heads
3. attention output, feed-forward in (most important neurons) and out, in this order, each fed by what was solved before it
4. LayerNorms: shift β = mean of the target, scale γ = regression of the target on its normalised self
5. head: `worker/head_transfer.py`

Each step corrects what the steps before it lost, a skipped layer included. Sources: principal directions of the residual
stream, SliceGPT arXiv 2401.15024; least-squares repair of a pruned layer, ThiNet arXiv 1707.06342 and SparseGPT
arXiv 2301.00774.

Shapes: N tokens sampled, E teacher width, D student width, F feed-forward neurons, H heads of S numbers, K numbers kept.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker import selection
from worker.anatomy import Anatomy, Layer, of
from worker.basis import principal
from worker.head_transfer import transfer_head
from worker.least_squares import fit_norm, normalised, ridge, solve
from worker.observation import entering, watch
from worker.rows import Batch


@torch.no_grad()
def reconstruct(teacher: PreTrainedModel, student: PreTrainedModel, kept: Sequence[int], batches: list[Batch]) -> dict[str, Any]:
    """Fill `student` (freshly made, one layer for each of `kept`) from `teacher`. Both on the CPU, float32, in eval mode.

    Returns what it measured: the share of variance that P keeps, and per layer the correlation with its target.
    """
    seen = watch(teacher, kept, batches)
    wide, narrow = of(teacher), of(student)
    states = seen.states_ND
    basis_ED, energy = principal([states[0], *(states[i + 1] for i in kept)], student.config.hidden_size)
    wanted_ND = states[0] @ basis_ED
    state_ND = wanted_ND if keep_tables(teacher, student, basis_ED) else solve_tables(wide, narrow, seen.summed_ND, wanted_ND)
    told = []
    for n, i in enumerate(kept):
        layer, ours = wide.layers[i], narrow.layers[n]
        chosen = selection.heads(layer, states[i], *_head_counts(student, teacher), ours.query.out_features)
        for part in ("query", "key", "value"):
            slot = getattr(ours, part)
            slot.weight[chosen.at], slot.bias[chosen.at] = ridge(state_ND, getattr(layer, part)(states[i]) @ chosen.maps[part])
        context_ND = entering(student, ours.attention_out, batches, body=True)
        target_ND = fit_norm(ours.attention_norm, seen.attended_ND[i] @ basis_ED)
        solve(ours.attention_out, context_ND, target_ND - state_ND)
        state_ND = ours.attention_norm(ours.attention_out(context_ND) + state_ND)
        state_ND, match = _feed_forward(layer, ours, seen.attended_ND[i], state_ND, states[i + 1] @ basis_ED)
        told.append(round(match, 4))
    head = transfer_head(teacher, student, batches, states[len(wide.layers)], state_ND)
    return {"variance_kept": round(energy, 4), "match": told, "tokens": len(state_ND), "head": head}


def keep_tables(teacher: PreTrainedModel, student: PreTrainedModel, basis_ED: Tensor) -> bool:
    """ELECTRA's tables may be narrower than its states: then they stay, and the map behind them gives Pᵀh_0 exactly."""
    theirs, ours = (getattr(model.base_model, "embeddings_project", None) for model in (teacher, student))
    if theirs is None or ours is None:
        return False
    inner, source = cast("nn.Module", student.base_model.embeddings), cast("nn.Module", teacher.base_model.embeddings)
    inner.load_state_dict(source.state_dict())
    ours.weight.copy_(basis_ED.T @ theirs.weight)
    ours.bias.copy_(basis_ED.T @ theirs.bias)
    return True


def solve_tables(wide: Anatomy, narrow: Anatomy, summed_NE: Tensor, wanted_ND: Tensor) -> Tensor:
    """Tables and first norm of the student for its h_0 to be `wanted_ND`; returns what it is."""
    target_ND = fit_norm(narrow.embedding_norm, wanted_ND)
    spread_N = summed_NE.std(-1, keepdim=True, correction=0)  # the target before its division by the spread
    weight_DE, bias_D = ridge(summed_NE, target_ND * spread_N)
    for source, table in zip(wide.tables, narrow.tables, strict=True):
        table.weight.copy_(source.weight @ weight_DE.T)
    narrow.tables[-1].weight.add_(bias_D)  # every token takes exactly one row of the last table
    result: Tensor = narrow.embedding_norm(summed_NE @ weight_DE.T + bias_D)
    return result


def _feed_forward(wide: Layer, narrow: Layer, attended_NE: Tensor, state_ND: Tensor, wanted_ND: Tensor) -> tuple[Tensor, float]:
    """Solve in and out; returns the student's state after the layer and its correlation with the target."""
    raw_NF = wide.ffn_in(attended_NE)
    chosen = selection.neurons(raw_NF, wide.activation, wide.ffn_out.weight, narrow.ffn_in.out_features)
    solve(narrow.ffn_in, state_ND, raw_NF[:, chosen])
    active_NF = narrow.activation(narrow.ffn_in(state_ND))
    target_ND = fit_norm(narrow.ffn_norm, wanted_ND)
    solve(narrow.ffn_out, active_NF, target_ND - state_ND)
    before_ND = narrow.ffn_out(active_NF) + state_ND
    return narrow.ffn_norm(before_ND), float((normalised(before_ND) * target_ND).mean())


def _head_counts(student: PreTrainedModel, teacher: PreTrainedModel) -> tuple[int, int]:
    return student.config.num_attention_heads, teacher.config.num_attention_heads
