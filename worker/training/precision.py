"""Device and number format of a run: bf16 where a CUDA card has it, else float32."""

from typing import Literal

import torch


def device_of(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("compute.device is cuda, but this worker has no CUDA device")
    return torch.device("cuda" if wanted in ("cuda", "auto") and torch.cuda.is_available() else "cpu")


def model_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Of a model that is only asked: bf16 where a CUDA card has it, unless float32 is wanted."""
    half = wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return torch.bfloat16 if half else torch.float32


def mixed_precision(wanted: str, device: torch.device) -> Literal["no", "bf16"]:
    """accelerate's name of the autocast format; weights and optimiser state stay float32."""
    if wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()):
        return "bf16"
    return "no"
