"""Which attention kernel trains fastest.

In bf16 the backward pass of torch's flash attention on a CPU takes half of a small encoder's training step (25 ms a layer of
64 texts of 14 tokens, 192 wide, torch 2.13). Plain products take what any matrix product takes, but keep B·H·T² weights for the
backward pass: they are for texts of a few hundred tokens. Shapes: B sequences, T tokens, H heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from worker import anatomy
from worker.capture import shape_of

PLAIN_BYTES = 2**30  # of attention weights that a step may keep
_COPIES = 3  # scores, weights, weights after dropout


def plain_is_faster(model: PreTrainedModel, longest: int, batch_size: int, device: torch.device, bf16: bool) -> bool:
    shape = shape_of(model)
    size = 4 * _COPIES * batch_size * shape.layers * shape.heads * longest**2
    return device.type == "cpu" and bf16 and model.config.model_type in anatomy.FAMILIES and size <= PLAIN_BYTES


@contextmanager
def plain(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """Attention as plain products while this holds, if `wanted`."""
    config: Any = model.config
    before = config._attn_implementation
    if wanted:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if wanted:
            model.set_attn_implementation(before)
