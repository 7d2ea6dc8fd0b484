"""What an objective is: a loss over student and teacher outputs that returns (sum, count) and never divides.

Shapes: B rows of a micro-batch, C classes, T tokens, D student width, E teacher width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from app.domain.schedule import Schedule
from worker.plugins import PluginParams
from worker.rows import NO_LABEL

Need = Literal["dense_logits", "labels"]


@dataclass(frozen=True)
class StudentOutput:
    logits_BC: Tensor


@dataclass(frozen=True)
class DenseLogits:
    """The teacher's logits for the same rows, float32, no gradient."""

    logits_BC: Tensor


class Objective(ABC):
    """Subclasses give `name`, `needs`, `Params` and `__call__`; the loop multiplies by the weight and divides by the count."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)

    def schedules(self) -> dict[str, Schedule]:
        """Scheduled parameters, logged every step under their names."""
        return {name: value for name, value in self.params if isinstance(value, Schedule)}

    def count(self, labels_B: Tensor) -> int:
        """How many rows it speaks about: the divisor, known before the forward pass."""
        return len(labels_B) if "labels" not in self.needs else int((labels_B != NO_LABEL).sum())

    @abstractmethod
    def __call__(self, student: StudentOutput, teacher: DenseLogits | None, labels_B: Tensor, x: float) -> Tensor:
        """Sum of the loss over the rows counted, float32 scalar; `x` in [0, 1] is the share of the stage done."""


def log_softmax(logits_BC: Tensor, temperature: float) -> Tensor:
    """log softmax(z / tau) in float32; infinite logits are clamped, so no NaN appears."""
    limit = 1e30  # so large that only infinities meet it, so small that dividing by a low temperature stays finite
    wide = logits_BC if logits_BC.dtype == torch.float64 else logits_BC.float()
    return torch.log_softmax(torch.clamp(wide, -limit, limit) / temperature, dim=-1)
