"""What changes logits before their softmax besides one temperature: a temperature per row, and standardisation.

Shapes: N rows, C classes.
"""

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.05, 100.0  # what a row's own temperature is kept within
_LIMIT = 1e15  # infinite logits count as this: its square is finite


@torch.no_grad()
def focal(student_NC: Tensor, teacher_NC: Tensor, tau: float, scale: float, gamma: float) -> Tensor:
    """tau_i = tau + scale (mean(w) − w_i), w_i = (1 − cos(z_S, z_T))^gamma: rows that still differ get a lower temperature.

    FLSW of Ding et al. 2019, arXiv 1911.07471; the mean is over the micro-batch. Returns (N, 1), in float64.
    """
    ours_NC, theirs_NC = (z.double().clamp(-_LIMIT, _LIMIT) for z in (student_NC, teacher_NC))
    cos_N = torch.nn.functional.cosine_similarity(ours_NC, theirs_NC, dim=-1, eps=1e-12)
    return _around(tau, scale, (1 - cos_N).clamp_min(0) ** gamma)


@torch.no_grad()
def confident(student_NC: Tensor, tau: float, scale: float) -> Tensor:
    """tau_i = tau + scale (mean(w) − w_i), w_i = 1 / max_C softmax(z_S): unsure rows get a lower temperature.

    CWSM of Ding et al. 2019, arXiv 1911.07471; the mean is over the micro-batch. Returns (N, 1), in float64.
    """
    q_NC = student_NC.double().clamp(-_LIMIT, _LIMIT).softmax(-1)
    return _around(tau, scale, 1 / q_NC.amax(-1))


def _around(tau: float, scale: float, weight_N: Tensor) -> Tensor:
    return (tau + scale * (weight_N.mean() - weight_N)).clamp(LOWEST, HIGHEST)[:, None]


def standardized(logits_NC: Tensor) -> Tensor:
    """(z − mean_C z) / std_C z; 0 where all are the same. Source: Sun et al. 2024, arXiv 2403.01427."""
    centred_NC = logits_NC.clamp(-_LIMIT, _LIMIT)
    centred_NC = centred_NC - centred_NC.mean(-1, keepdim=True)
    variance_N1 = centred_NC.square().mean(-1, keepdim=True)
    flat_N1 = variance_N1 <= 1e-24
    return centred_NC.masked_fill(flat_N1, 0.0) / variance_N1.masked_fill(flat_N1, 1.0).sqrt()
