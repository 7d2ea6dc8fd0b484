"""Fake quantization: a torch model that computes as its exported INT8 graph will, and can still be trained.

R rows (every token of every text is one), K inputs, N outputs, V vocabulary, D hidden.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.int8.params import MatrixParams
from worker.int8.values import LEAST_SCALE, LIMIT

_UNIT = 1 / LIMIT  # scale of a row that was divided by its largest magnitude
_TINY = 1e-9


def with_fake_quant(model: nn.Module, params: MatrixParams) -> None:
    """Every nn.Linear and nn.Embedding that `params` takes computes with INT8 values from now on, in training and in eval.

    The modules change class in place: parameters, their names, ties and hooks stay, so optimisers and checkpoints do not
    notice, and what is saved are the float weights. Merge adapters first: their small matrices would be rounded too.
    """
    for module in model.modules():
        if type(module) is nn.Linear and params.takes_product(module.weight.numel()):
            _become(module, FakeQuantLinear, reduce_range=params.reduce_range)
        elif type(module) is nn.Embedding and params.takes_table(module.weight.numel()):
            _become(module, FakeQuantEmbedding, block=params.table_block(*module.weight.shape))


def remove_fake_quant(model: nn.Module) -> None:
    """The plain float model again, with the weights that training left."""
    for module in model.modules():
        if isinstance(module, FakeQuantLinear):
            del module.reduce_range
            _become(module, nn.Linear)
        elif isinstance(module, FakeQuantEmbedding):
            del module.block
            _become(module, nn.Embedding)


def _become(module: nn.Module, kind: type[nn.Module], **attributes: bool | int | None) -> None:
    module.__class__ = kind
    for name, value in attributes.items():
        setattr(module, name, value)


class FakeQuantLinear(nn.Linear):
    """y = t s (xq Wqᵀ) + b with integers xq = round(x / t), Wq = round(W / s), t [R, 1] per row, s [N] per output.

    t_r = max(max_k |x_rk|, 1e-9) / 127; s_n = max_k |W_nk| / 127, or with `reduce_range` max_j (|W_n,2j| + |W_n,2j+1|) / 127:
    see `worker/int8/values.py`. Sums of integers are exact in float32 up to K = 2,064 (8,128 K < 2^24 with
    `reduce_range`), so this is the exported product bit for bit wherever the platforms' float32 divisions agree.
    Gradient, straight through (arXiv 1308.3432; 1806.08342 section 2.4): d round(u) / du = 1, scales are constants, hence
    dL/dx = dL/dy Ŵ and dL/dW = (dL/dy)ᵀ x̂ with the rounded x̂ = t xq, Ŵ = s Wq. No value is clipped, so none loses its
    gradient.
    """

    reduce_range: bool

    def forward(self, input: Tensor) -> Tensor:
        rows = input.float()  # under autocast too: integers up to 127 are exact in bfloat16, quotients are not
        peak = rows.detach().abs().amax(dim=-1, keepdim=True).clamp_min(_TINY)
        scale_N = _column_scales(self.weight.detach().float(), self.reduce_range)
        product = functional.linear(_round(rows / peak / _UNIT), _round(self.weight.float() / scale_N[:, None]))
        scaled = product.float() * (scale_N * _UNIT) * peak
        return scaled if self.bias is None else scaled + self.bias


class FakeQuantEmbedding(nn.Embedding):
    """The rows that are looked up, rounded: u_v round(E_v / u_v), u_v = max_d |E_vd| / 127, or with `block` four bits.

    See `worker/int8/values.py`. Gradient straight through, to the rows that were looked up.
    """

    block: int | None

    def forward(self, input: Tensor) -> Tensor:
        rows = super().forward(input).float()
        if self.block is not None:
            return rows + (_four_bits(rows.detach(), self.block) - rows).detach()
        scale = _safe(rows.detach().abs().amax(dim=-1, keepdim=True))
        return _round(rows / scale) * scale


def _four_bits(rows: Tensor, block: int) -> Tensor:
    blocks = rows.unflatten(-1, (-1, block))  # type: ignore[no-untyped-call]
    low, high = blocks.amin(dim=-1, keepdim=True), blocks.amax(dim=-1, keepdim=True)
    scale = (torch.where(high >= -low, high, low) / -8).half().float()
    scale = torch.where(scale.abs() < LEAST_SCALE, LEAST_SCALE, scale)
    rounded: Tensor = ((blocks / scale).round().clamp(-8, 7) * scale).flatten(-2)
    return rounded


def _column_scales(weight_NK: Tensor, reduce_range: bool) -> Tensor:
    magnitude_NK = weight_NK.abs()
    if reduce_range:
        padded = functional.pad(magnitude_NK, (0, magnitude_NK.shape[1] % 2))
        magnitude_NK = padded[:, 0::2] + padded[:, 1::2]
    return _safe(magnitude_NK.amax(dim=1))


def _safe(largest: Tensor) -> Tensor:
    return torch.where(largest > 0, largest / LIMIT, 1.0)


def _round(values: Tensor) -> Tensor:
    """Half to even, as ONNX does; the gradient passes. The difference is exact, so the sum is the integer itself."""
    return values + (values.round() - values).detach()
