"""One seed for everything drawn, and kernels that give the same bits every time."""

import hashlib
import random

import torch


def seed_everything(seed: int, deterministic: bool) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def derived(seed: int, name: str) -> int:
    """A seed of its own for each part of a run, so that adding one part does not shift another's draws."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big")
