"""In which D of a teacher's E directions a narrower student lives: those of most variance, or the most important axes.

Shapes: N tokens, E teacher width, D student width.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from worker.surgery.least_squares import CHUNK


def moments(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (E,) and covariance (E, E) over all rows of all `states` (N, E), in float64."""
    count = sum(len(s) for s in states)
    mean_E = torch.stack([s.double().sum(0) for s in states]).sum(0) / count
    covariance_EE = torch.zeros(states[0].shape[1], states[0].shape[1], dtype=torch.float64)
    for state in states:
        for chunk in torch.split(state, CHUNK):
            centred = chunk.double() - mean_E
            covariance_EE += centred.T @ centred / count
    return mean_E, covariance_EE


def principal(states: Sequence[Tensor], width: int) -> tuple[Tensor, float]:
    """P (E, D), orthonormal columns of most variance, the least of it along their sum; and the share of variance kept.

    A LayerNorm removes what lies along the all-ones direction, so P is rotated to put its least variance there.
    """
    _, covariance_EE = moments(states)
    values_E, vectors_EE = torch.linalg.eigh(covariance_EE)
    leading_ED = vectors_EE.flip(-1)[:, :width]
    ones = torch.full((width,), width**-0.5, dtype=torch.float64)
    ones[-1] -= 1.0  # Householder: swaps the last axis, of least variance, with the all-ones direction
    mirror = ones / ones.norm().clamp_min(1e-12)
    rotated_ED = leading_ED - 2 * (leading_ED @ mirror)[:, None] * mirror
    return rotated_ED.float(), float(values_E[-width:].sum() / values_E.sum().clamp_min(1e-300))


def important(states: Sequence[Tensor], readers: Iterable[Tensor], width: int) -> tuple[Tensor, float]:
    """A selection P (E, D) of the axes e with the largest std(h_e) ‖W_{:,e}‖, W being all maps that read the states.

    Activation times weight norm: Wanda, arXiv 2306.11695. Also returns the share of variance kept.
    """
    _, covariance_EE = moments(states)
    variance_E = covariance_EE.diagonal()
    strength_E = variance_E.sqrt() * torch.cat(list(readers)).double().norm(dim=0)
    chosen = strength_E.topk(width).indices.sort().values
    axes_ED = torch.zeros(len(variance_E), width)
    axes_ED[chosen, torch.arange(width)] = 1.0
    return axes_ED, float(variance_E[chosen].sum() / variance_E.sum().clamp_min(1e-300))
