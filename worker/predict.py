"""A pass without gradients: the logits of every row, little padded, in the rows' own order.

Shapes: B rows of a batch, C classes, N rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.rows import Rows, by_length, collate


@torch.no_grad()
def predict(
    model: PreTrainedModel, rows: Rows, device: torch.device, remap: Callable[[Tensor], Tensor] | None = None, batch_size: int = 64
) -> Tensor:
    """Logits (N, C) float32 on the CPU, in the order of `rows`; the model's train/eval mode is left as it was."""
    was_training = model.training
    model.train(False)
    out_NC: Tensor | None = None
    for positions in by_length(rows, batch_size):
        batch = collate(rows, positions, remap)
        logits_BC = model(input_ids=batch.input_ids_BT.to(device), attention_mask=batch.attention_mask_BT.to(device)).logits
        if out_NC is None:
            out_NC = torch.empty((len(rows), logits_BC.shape[-1]))
        out_NC[batch.index_B] = logits_BC.float().cpu()
    model.train(was_training)
    return out_NC if out_NC is not None else torch.empty((0, 0))
