"""What an objective is: a loss over student and teacher signals that returns a sum, says its count, and never divides.

Shapes: see `worker/signals.py`.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from app.domain.schedule import Schedule
from worker.alignment import Projections
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Shape, Signals, Wants


class Objective(ABC):
    """Subclasses give `name`, `needs`, `Params` and `__call__`; the loop multiplies by the weight and divides by the count.

    `problems` names the kinds of targets it can speak about; empty: all. One that compares layers or widths overrides
    `setup`, which is called once before training, and keeps what it learns beside the student in `projections`.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    problems: ClassVar[frozenset[str]] = frozenset()

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)
        self.projections = Projections()

    def setup(self, student: Shape, teacher: Shape | None) -> None:
        """Resolve layer maps, make projections (torch is seeded). Raises InvalidRequest where the two cannot be compared."""

    def plan(self) -> dict[str, Any]:
        """What `setup` resolved, for the report: layer map, projections."""
        return {}

    def student_wants(self) -> Wants:
        return self._plain_wants()

    def teacher_wants(self) -> Wants:
        return self._plain_wants() if "teacher" in self.needs else Wants()

    def schedules(self) -> dict[str, Schedule]:
        """Scheduled parameters, logged every step under their names."""
        return {name: value for name, value in self.params if isinstance(value, Schedule)}

    def count(self, batch: Batch) -> int:
        """How many rows (positions, groups, pairs) it speaks about: the divisor, known before the forward pass."""
        return batch.labelled if "labels" in self.needs else batch.count

    @abstractmethod
    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        """Sum of the loss over what is counted, float32 scalar; `x` in [0, 1] is the share of the stage done."""

    def _plain_wants(self) -> Wants:
        return Wants(logits="logits" in self.needs, embedding="embedding" in self.needs, scores="scores" in self.needs)


def wide(value: Tensor) -> Tensor:
    """float32 at least: sums and exponentials are never taken in half precision."""
    return value if value.dtype == torch.float64 else value.float()


def distributions(logits_NC: Tensor, problem: str) -> Tensor:
    """Logits of probability distributions: (N, C) as they are, or for multi-label the two-way (N·C, 2) of every label.

    softmax([z, 0]) = [sigmoid(z), 1 − sigmoid(z)], so every divergence of softmaxes is one of independent labels too.
    """
    if problem != "multi_label":
        return logits_NC
    flat = logits_NC.reshape(-1, 1)
    return torch.cat([flat, torch.zeros_like(flat)], dim=1)


def log_softmax(logits_NC: Tensor, temperature: float | Tensor) -> Tensor:
    """log softmax(z / tau) in float32; infinite logits are clamped, so no NaN appears. tau: a number, or (N, 1)."""
    limit = 1e30  # so large that only infinities meet it, so small that dividing by a low temperature stays finite
    return torch.log_softmax(torch.clamp(wide(logits_NC), -limit, limit) / temperature, dim=-1)


def learned(projections: nn.Module) -> list[nn.Parameter]:
    return list(projections.parameters())
