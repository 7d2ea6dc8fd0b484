"""Cross-entropies against labels, one number per row or decision, 0 where the label is unknown.

All take float32 or wider. Shapes: N rows, C classes.
"""

import torch
from torch import Tensor

from worker.rows import NO_LABEL

_LIMIT = 1e30  # so large that only infinities meet it


def cross_entropy(log_q_NC: Tensor, labels_N: Tensor, smoothing: float = 0.0) -> Tensor:
    """(N,) (1 − e)(−log q(y)) + e mean_C(−log q), in nats. Unknown is NO_LABEL."""
    loss_N = -log_q_NC.gather(1, labels_N.clamp_min(0)[:, None])[:, 0]
    if smoothing:
        loss_N = (1 - smoothing) * loss_N - smoothing * log_q_NC.mean(-1)
    return loss_N.masked_fill(labels_N == NO_LABEL, 0.0)


def binary_cross_entropy(logits_NC: Tensor, labels_NC: Tensor, smoothing: float = 0.0) -> Tensor:
    """(N, C) −y' log σ(z) − (1 − y') log σ(−z), in nats, y' = (1 − e) y + e / 2. Unknown is NaN."""
    unknown_NC = labels_NC.isnan()
    y_NC = labels_NC.masked_fill(unknown_NC, 0.0).to(logits_NC.dtype) * (1 - smoothing) + smoothing / 2
    z_NC = logits_NC.clamp(-_LIMIT, _LIMIT)
    loss_NC = -(y_NC * torch.nn.functional.logsigmoid(z_NC) + (1 - y_NC) * torch.nn.functional.logsigmoid(-z_NC))
    return loss_NC.masked_fill(unknown_NC, 0.0)
