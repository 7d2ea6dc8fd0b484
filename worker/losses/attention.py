"""Attention scores, and relations among the tokens of a sequence, from the queries, keys and values of a layer.

All take float32 or wider. Shapes: B sequences, T tokens, H heads, S numbers of a head.
"""

from torch import Tensor

from worker.losses.divergences import kl

_NEVER = -1e30


def scores(a_BHTS: Tensor, b_BHTS: Tensor) -> Tensor:
    """(B, H, T, T) a bᵀ / √S, before the softmax."""
    result: Tensor = a_BHTS @ b_BHTS.transpose(-1, -2) / a_BHTS.shape[-1] ** 0.5
    return result


def relation_kl(teacher_BHTT: Tensor, student_BHTT: Tensor, valid_BT: Tensor) -> Tensor:
    """Σ over valid tokens of mean_H KL(softmax(teacher) ‖ softmax(student)), both softmaxes over the valid tokens alone."""
    outside = ~valid_BT[:, None, None, :]
    log_p, log_q = (s.masked_fill(outside, _NEVER).log_softmax(-1) for s in (teacher_BHTT, student_BHTT))
    per_token_BT = kl(log_p, log_q).mean(1)
    return per_token_BT.masked_fill(~valid_BT, 0.0).sum()


def resplit(x_BHTS: Tensor, heads: int) -> Tensor:
    """The same numbers as `heads` relation heads, whatever the heads they came from."""
    joined_BTD = x_BHTS.transpose(1, 2).flatten(2)
    return joined_BTD.view(*joined_BTD.shape[:2], heads, -1).transpose(1, 2)
