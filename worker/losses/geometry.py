"""Directions, distances and correlations of vectors, without a NaN where a vector is zero or a set of them is one point.

All take float32 or wider. A vector shorter than 1e-12 counts as zero and gets no gradient.
Shapes: N vectors, D and E their widths.
"""

import torch
from torch import Tensor

_ZERO = 1e-12


def unit(x_ND: Tensor) -> Tensor:
    """x / ‖x‖; 0 stays 0."""
    norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
    zero_N1 = norm_N1 <= _ZERO
    result: Tensor = x_ND.masked_fill(zero_N1, 0.0) / norm_N1.masked_fill(zero_N1, 1.0)
    return result


def cosine_distance(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """(N,) 1 − cos(x, y), as ‖x/‖x‖ − y/‖y‖‖² / 2: exact near 0. A zero vector is at distance 1 of others, 0 of another zero."""
    x_ND, y_ND = unit(x_ND), unit(y_ND)
    one_is_zero_N = (x_ND == 0).all(-1) ^ (y_ND == 0).all(-1)
    return 0.5 * ((x_ND - y_ND).square().sum(-1) + one_is_zero_N.to(x_ND.dtype))


def pearson_distance(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """(N,) 1 − Pearson's correlation over the last dimension; 1 where only one of both varies, 0 where none does."""
    return cosine_distance(_centred(x_ND), _centred(y_ND))


def _centred(x_ND: Tensor) -> Tensor:
    """x − mean(x); exactly 0 where all that is left is rounding."""
    left_ND = x_ND - x_ND.mean(-1, keepdim=True)
    noise_N1 = 1e-6 * torch.linalg.vector_norm(x_ND.detach(), dim=-1, keepdim=True)
    return left_ND.masked_fill(torch.linalg.vector_norm(left_ND.detach(), dim=-1, keepdim=True) <= noise_N1, 0.0)


def distances(x_ND: Tensor) -> Tensor:
    """(N, N) ‖x_i − x_j‖ over the mean of all i ≠ j; all 0 when the vectors are one point."""
    apart_NN = torch.cdist(x_ND, x_ND, compute_mode="donot_use_mm_for_euclid_dist")
    n = len(x_ND)
    mean = apart_NN.sum() / max(n * (n - 1), 1)
    return apart_NN / torch.where(mean > _ZERO, mean, 1.0)


def angles(x_ND: Tensor) -> Tensor:
    """(N, N, N) [j, i, k] = cos of the angle at x_j between x_i and x_k; 0 where two of them coincide."""
    towards_NND = unit(x_ND[None, :, :] - x_ND[:, None, :])
    return towards_NND @ towards_NND.transpose(1, 2)


def cka(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """Linear centred kernel alignment ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) (Frobenius norms), in [0, 1]; 1 where one of them is one point.

    Accumulated in float64. Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    x_ND, y_NE = (v.double() - v.double().mean(0) for v in (x_ND, y_NE))
    cross, own = (y_NE.T @ x_ND).square().sum(), torch.linalg.norm(x_ND.T @ x_ND) * torch.linalg.norm(y_NE.T @ y_NE)
    return torch.where(own > _ZERO**2, cross / torch.where(own > _ZERO**2, own, 1.0), 1.0)


def pooled(state_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, D): the mean of a hidden state over the tokens that are no padding."""
    inside_BT1 = mask_BT.bool().unsqueeze(-1)
    return state_BTD.masked_fill(~inside_BT1, 0.0).sum(1) / inside_BT1.sum(1).clamp_min(1)
