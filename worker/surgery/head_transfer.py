"""A teacher's head for a narrower student: solved for, from the student's own last states to what the teacher says.

Sequence and token classifiers: `dense` to the teacher's most important units, `final` to its logits.
Masked language models, whose output table is the narrowed input table E' (V, D) beside the teacher's E (V, E): the vector
that scores words, t' = norm(act(dense(h'))), should give the teacher's scores,

    s = M t,  M = argmin_M Σ_v c_v ‖Mᵀ E'_v − E_v‖²    both tables centred: a shift of all scores changes no probability

with c_v how often word v occurs. norm takes the units' own mean away, so dense(h') may aim at s + 4, where the activation
is all but linear. The output bias takes up the mean error. Shapes: N tokens, E teacher width, D student width, V words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.anatomy import of
from worker.rows import Batch
from worker.surgery.least_squares import fit_norm, solve
from worker.surgery.observation import first_tokens

_LINEAR = 4.0  # standard deviations above zero, where gelu(u) = u to 1e-4 and relu(u) = u
_RIDGE = 1e-4


@dataclass(frozen=True)
class _Scorer:
    """The head of a masked language model up to its table: norm(activation(dense(h)))."""

    dense: nn.Linear
    activation: Callable[[Tensor], Tensor]
    norm: nn.LayerNorm
    output: nn.Linear

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        result: Tensor = self.norm(self.activation(self.dense(hidden_ND)))
        return result


@torch.no_grad()
def transfer_head(
    teacher: PreTrainedModel, student: PreTrainedModel, batches: Sequence[Batch], last_NE: Tensor, state_ND: Tensor
) -> bool:
    """Fill the student's head, where it has the same one as its teacher; False where it has not: it stays as it was made.

    `last_NE` and `state_ND` are the last hidden states of teacher and student at the valid tokens of `batches`.
    """
    if type(teacher) is not type(student):
        return False
    if type(student).__name__.endswith("ForMaskedLM"):
        counts_V = torch.cat([b.input_ids_BT[b.attention_mask_BT.bool()] for b in batches]).bincount(
            minlength=teacher.config.vocab_size
        )
        _transfer_scorer(_scorer(teacher), _scorer(student), counts_V, last_NE, state_ND)
        return True
    wide, narrow = of(teacher), of(student)
    if wide.final is None or narrow.final is None:
        return False
    if type(student).__name__.endswith("ForSequenceClassification"):
        first_R = first_tokens(batches)
        last_NE, state_ND = last_NE[first_R], state_ND[first_R]
    if wide.dense and wide.head_activation and narrow.dense and narrow.head_activation:
        raw_NE = wide.dense(last_NE)
        last_NE = wide.head_activation(raw_NE)
        strength_E = last_NE.std(0, correction=0) * wide.final.weight.norm(dim=0)
        chosen = strength_E.topk(narrow.dense.out_features).indices.sort().values
        solve(narrow.dense, state_ND, raw_NE[:, chosen])
        state_ND = narrow.head_activation(narrow.dense(state_ND))
    solve(narrow.final, state_ND, wide.final(last_NE))
    return True


def _transfer_scorer(wide: _Scorer, narrow: _Scorer, counts_V: Tensor, last_NE: Tensor, state_ND: Tensor) -> None:
    meant_NE = wide(last_NE)
    ours_VD, theirs_VE = narrow.output.weight.double(), wide.output.weight.double()
    if ours_VD.shape == theirs_VE.shape and torch.equal(ours_VD, theirs_VE):
        narrow.norm.load_state_dict(wide.norm.state_dict())
        solve(narrow.dense, state_ND, wide.dense(last_NE))
    else:
        share_V = (counts_V.double() + 1e-3 * counts_V.sum() / len(counts_V)).unsqueeze(1)
        share_V = share_V / share_V.sum()
        ours_VD, theirs_VE = ours_VD - (share_V * ours_VD).sum(0), theirs_VE - (share_V * theirs_VE).sum(0)
        gram_DD = ours_VD.T @ (share_V * ours_VD)
        gram_DD.diagonal().add_(_RIDGE * gram_DD.diagonal().mean().clamp_min(1e-12))
        map_DE = torch.linalg.solve(gram_DD, ours_VD.T @ (share_V * theirs_VE)).float()
        target_ND = fit_norm(narrow.norm, meant_NE @ map_DE.T)
        solve(narrow.dense, state_ND, target_ND + _LINEAR)
    lost_V = wide.output.weight @ meant_NE.mean(0) - narrow.output.weight @ narrow(state_ND).mean(0)
    narrow.output.bias.copy_(wide.output.bias + lost_V)


def _scorer(model: Any) -> _Scorer:
    kind, output = model.config.model_type, model.get_output_embeddings()
    if kind == "bert":
        head = model.cls.predictions.transform
        return _Scorer(head.dense, head.transform_act_fn, head.LayerNorm, output)
    if kind == "distilbert":
        return _Scorer(model.vocab_transform, model.activation, model.vocab_layer_norm, output)
    if kind == "electra":
        head = model.generator_predictions
        return _Scorer(head.dense, head.activation, head.LayerNorm, output)
    return _Scorer(model.lm_head.dense, nn.functional.gelu, model.lm_head.layer_norm, output)
