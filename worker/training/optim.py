"""AdamW and its learning rate: no decay on embeddings, biases and LayerNorms; linear warm-up, then half a cosine to zero."""

import math

import torch
from torch import nn

NO_DECAY = ("bias", "LayerNorm", "layer_norm", "embeddings")


def adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Source: Loshchilov & Hutter, arXiv 1711.05101. Embeddings are not decayed, so rows without gradient stay put."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if any(part in name for part in NO_DECAY) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def learning_rate_at(step: int, total: int, peak: float, warmup_ratio: float) -> float:
    """Rate of optimiser step `step` in 0 … total-1: linear to the peak over the warm-up, then cosine to zero."""
    warmup = max(1, round(total * warmup_ratio)) if warmup_ratio else 0
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
