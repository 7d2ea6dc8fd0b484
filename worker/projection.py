"""A narrow encoder that is its teacher seen along D directions, nothing solved for: what `reconstruction` is held against.

For columns P (E, D), either principal directions or a selection of axes, and h ≈ P Pᵀh + (I − P Pᵀ) μ with μ the mean state:

    a map that reads the state    W' = W P        b' = b + W (I − P Pᵀ) μ
    a map that writes to it       W' = Pᵀ W       b' such that the sum with the residual has mean zero
    tables                        T' = T P, their sum of mean zero
    LayerNorms                    fitted to Pᵀh, whose mean they add again (`least_squares.fit_norm`)

Means must go before a norm: it divides by the spread of a state, of which the mean state would be the most.

The head is solved for, as in `reconstruction`. Shapes: N tokens, E teacher width, D student width, F neurons, K numbers kept.
Source: SliceGPT, arXiv 2401.15024, for the rotation; Wanda, arXiv 2306.11695, for the choice of axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker import selection
from worker.anatomy import Layer, of
from worker.basis import important, principal
from worker.head_transfer import transfer_head
from worker.least_squares import fit_norm
from worker.observation import entering, leaving, watch
from worker.reconstruction import keep_tables, solve_tables
from worker.rows import Batch


@torch.no_grad()
def project(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    kept: Sequence[int],
    batches: list[Batch],
    directions: Literal["importance", "projection"],
) -> dict[str, Any]:
    """Fill `student` (freshly made, one layer for each of `kept`) from `teacher`. Both on the CPU, float32, in eval mode."""
    seen = watch(teacher, kept, batches)
    wide, narrow = of(teacher), of(student)
    states, width = seen.states_ND, student.config.hidden_size
    counts = (student.config.num_attention_heads, teacher.config.num_attention_heads)
    where = [states[0], *(states[i + 1] for i in kept)]
    if directions == "importance":
        layers = [wide.layers[i] for i in kept]
        readers = [m.weight for layer in layers for m in (layer.query, layer.key, layer.value, layer.ffn_in)]
        basis_ED, energy = important(where, readers, width)
    else:
        basis_ED, energy = principal(where, width)
    if keep_tables(teacher, student, basis_ED):
        pass
    elif wide.tables[0].embedding_dim != len(basis_ED):  # ELECTRA's map behind the tables has no place in this student
        solve_tables(wide, narrow, seen.summed_ND, states[0] @ basis_ED)
    else:
        for source, table in zip(wide.tables, narrow.tables, strict=True):
            table.weight.copy_(source.weight @ basis_ED)
        narrow.tables[-1].weight.sub_(seen.summed_ND.mean(0) @ basis_ED)
        fit_norm(narrow.embedding_norm, states[0] @ basis_ED)
    for n, i in enumerate(kept):
        place = _Place(states[i], seen.attended_ND[i], states[i + 1], basis_ED)
        context_NE = entering(teacher, wide.layers[i].attention_out, batches, body=True)
        _attention(wide.layers[i], narrow.layers[n], place, context_NE, counts)
        _feed_forward(wide.layers[i], narrow.layers[n], place)
    state_ND = leaving(student, narrow.layers[-1].ffn_norm, batches, body=True)
    head = transfer_head(teacher, student, batches, states[len(wide.layers)], state_ND)
    return {"variance_kept": round(energy, 4), "tokens": len(state_ND), "head": head}


@dataclass(frozen=True)
class _Place:
    """The teacher's states around one layer."""

    before_NE: Tensor
    attended_NE: Tensor
    after_NE: Tensor
    basis_ED: Tensor

    def read(self, source: nn.Linear, state_NE: Tensor) -> tuple[Tensor, Tensor]:
        """W P and b + W (I − P Pᵀ) μ, for all outputs."""
        mean_E = state_NE.mean(0)
        lost_E = mean_E - self.basis_ED @ (self.basis_ED.T @ mean_E)
        return source.weight @ self.basis_ED, source.bias + source.weight @ lost_E

    def write(self, source: nn.Linear, given_NF: Tensor, kept_FK: Tensor, residual_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Pᵀ W K for inputs seen through K (F, K), and the bias that leaves no mean of it and the residual Pᵀr."""
        weight_DK = self.basis_ED.T @ source.weight @ kept_FK
        return weight_DK, -weight_DK @ (kept_FK.T @ given_NF.mean(0)) - self.basis_ED.T @ residual_NE.mean(0)


def _attention(wide: Layer, narrow: Layer, place: _Place, context_NE: Tensor, counts: tuple[int, int]) -> None:
    chosen = selection.heads(wide, place.before_NE, *counts, narrow.query.out_features)
    for part in ("query", "key", "value"):
        weight_ED, bias_E = place.read(getattr(wide, part), place.before_NE)
        slot = getattr(narrow, part)
        slot.weight[chosen.at], slot.bias[chosen.at] = chosen.maps[part].T @ weight_ED, chosen.maps[part].T @ bias_E
    weight_DK, bias_D = place.write(wide.attention_out, context_NE, chosen.maps["value"], place.before_NE)
    narrow.attention_out.weight[:, chosen.at] = weight_DK
    narrow.attention_out.bias.copy_(bias_D)
    fit_norm(narrow.attention_norm, place.attended_NE @ place.basis_ED)


def _feed_forward(wide: Layer, narrow: Layer, place: _Place) -> None:
    raw_NF = wide.ffn_in(place.attended_NE)
    chosen = selection.neurons(raw_NF, wide.activation, wide.ffn_out.weight, narrow.ffn_in.out_features)
    weight_FD, bias_F = place.read(wide.ffn_in, place.attended_NE)
    narrow.ffn_in.weight.copy_(weight_FD[chosen])
    narrow.ffn_in.bias.copy_(bias_F[chosen])
    kept_FK = torch.eye(raw_NF.shape[1])[:, chosen]
    weight_DK, bias_D = place.write(wide.ffn_out, wide.activation(raw_NF), kept_FK, place.attended_NE)
    narrow.ffn_out.weight.copy_(weight_DK)
    narrow.ffn_out.bias.copy_(bias_D)
    fit_norm(narrow.ffn_norm, place.after_NE @ place.basis_ED)
