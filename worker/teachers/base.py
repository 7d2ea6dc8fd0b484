"""Where a teacher's outputs come from: a typed value per row, asked for once and kept (see `cached.py`)."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from worker.rows import Rows


class Teacher(ABC):
    """Gives dense logits for tokenised rows; its fingerprint changes whenever its answers could."""

    name: ClassVar[str]

    @abstractmethod
    def fingerprint(self) -> str:
        """Digest of weights, tokenizer and number format."""

    @abstractmethod
    def logits(self, rows: Rows) -> Tensor:
        """(N, C) float32 on the CPU, in the order of `rows`."""
