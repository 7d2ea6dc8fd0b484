"""Weights in closed form: ridge regression for a linear map, and a LayerNorm fitted to what it should give.

    min_{W,b} Σ_n c_n ‖W x_n + b − y_n‖² + λ tr(XᵀCX)/dim ‖W‖²        λ relative to the mean of the diagonal, so free of units

Shapes: N samples, X inputs, Y outputs, D width. Sums in float64, over chunks multiplied in float32.
"""

import torch
from torch import Tensor, nn

RIDGE = 1e-3
CHUNK = 8192


def ridge(given_NX: Tensor, wanted_NY: Tensor, relative: float = RIDGE, counts_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """W (Y, X) and b (Y,) of the regression above; c = 1 where no counts are given."""
    share_N = None if counts_N is None else counts_N.double() / counts_N.sum()
    x_mean, y_mean = ((v.mean(0, dtype=torch.float64) if share_N is None else share_N @ v.double()) for v in (given_NX, wanted_NY))
    gram_XX = torch.zeros(given_NX.shape[1], given_NX.shape[1], dtype=torch.float64)
    cross_XY = torch.zeros(given_NX.shape[1], wanted_NY.shape[1], dtype=torch.float64)
    for start in range(0, len(given_NX), CHUNK):
        x, y = ((v[start : start + CHUNK] - mean.to(v.dtype)).float() for v, mean in ((given_NX, x_mean), (wanted_NY, y_mean)))
        weighted = x if counts_N is None else x * counts_N[start : start + CHUNK, None].to(x.dtype)
        gram_XX += weighted.T @ x
        cross_XY += weighted.T @ y
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
