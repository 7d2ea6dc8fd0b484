"""Weights in closed form: ridge regression for a linear map, and a LayerNorm fitted to what it should give.

    min_{W,b} Σ_n c_n ‖W x_n + b − y_n‖² + λ tr(XᵀCX)/dim ‖W‖²        λ relative to the mean of the diagonal, so free of units

Shapes: N samples, X inputs, Y outputs, D width. Sums in float64.
"""

import torch
from torch import Tensor, nn

RIDGE = 1e-3
CHUNK = 8192


def ridge(given_NX: Tensor, wanted_NY: Tensor, relative: float = RIDGE, counts_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """W (Y, X) and b (Y,) of the regression above; c = 1 where no counts are given."""
    if counts_N is None:
        x_mean, y_mean = given_NX.double().mean(0), wanted_NY.double().mean(0)
        root_N1 = torch.ones(len(given_NX), 1, dtype=torch.float64)
    else:
        share_N = counts_N.double() / counts_N.sum()
        x_mean, y_mean = share_N @ given_NX.double(), share_N @ wanted_NY.double()
        root_N1 = counts_N.double().sqrt().unsqueeze(1)
    gram_XX = torch.zeros(given_NX.shape[1], given_NX.shape[1], dtype=torch.float64)
    cross_XY = torch.zeros(given_NX.shape[1], wanted_NY.shape[1], dtype=torch.float64)
    for x, y, root in zip(*(torch.split(t, CHUNK) for t in (given_NX, wanted_NY, root_N1)), strict=True):
        centred = (x.double() - x_mean) * root
        gram_XX += centred.T @ centred
        cross_XY += centred.T @ ((y.double() - y_mean) * root)
    diagonal = gram_XX.diagonal()
    diagonal += relative * diagonal.mean().clamp_min(1e-12)
    weight_XY = torch.linalg.solve(gram_XX, cross_XY)
    return weight_XY.T.float().contiguous(), (y_mean - x_mean @ weight_XY).float()


@torch.no_grad()
def solve(module: nn.Linear, given_NX: Tensor, wanted_NY: Tensor) -> None:
    """Give `module` the weights of the regression from `given_NX` to `wanted_NY`."""
    weight, bias = ridge(given_NX, wanted_NY)
    module.weight.copy_(weight)
    module.bias.copy_(bias)


def normalised(value_ND: Tensor) -> Tensor:
    centred = value_ND - value_ND.mean(-1, keepdim=True)
    return centred / centred.std(-1, keepdim=True, correction=0).clamp_min(1e-6)


@torch.no_grad()
def fit_norm(norm: nn.LayerNorm, wanted_ND: Tensor) -> Tensor:
    """Set shift and scale for the wanted outputs; returns what the normalised input should be.

    β = mean of the target, γ = regression of the target on its normalised self.
    """
    shift_D = wanted_ND.mean(0)
    unit_ND = normalised(wanted_ND - shift_D)
    scale_D = ((wanted_ND - shift_D) * unit_ND).sum(0) / unit_ND.square().sum(0).clamp_min(1e-12)
    scale_D = scale_D.clamp_min(1e-3 * float(scale_D.abs().mean()) + 1e-12)
    norm.weight.copy_(scale_D)
    norm.bias.copy_(shift_D)
    return normalised((wanted_ND - shift_D) / scale_D)
