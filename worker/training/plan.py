"""What one run does, where it keeps things, and what it says of itself. Plain values; the loop reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from app.domain.schedule import Schedule
from app.domain.spec import numbered
from worker.objectives.base import Objective


@dataclass(frozen=True)
class Plan:
    name: str
    objectives: Sequence[tuple[Objective, Schedule]]
    epochs: int
    learning_rate: float
    batch_size: int
    seed: int
    gradient_accumulation: int = 1
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    max_grad_norm: float | None = 1.0
    max_steps: int | None = None
    patience: int | None = None
    train: str | Sequence[str] = "all"  # all | head | adapter | patterns of parameter names
    frozen: Sequence[str] = ()  # patterns of parameters that never move
    mixup: float | None = None  # a of Beta(a, a): each micro-batch is also seen mixed with itself
    balance: bool = True  # refuse objectives that differ a thousandfold in gradient

    @property
    def named(self) -> list[tuple[str, Objective, Schedule]]:
        """Each objective under a name of its own: a second of one type is called `hidden_mse-2`."""
        names = numbered([objective.name for objective, _ in self.objectives])
        return [(name, objective, weight) for name, (objective, weight) in zip(names, self.objectives, strict=True)]


@dataclass(frozen=True)
class Place:
    """Where a run keeps its checkpoints and how it speaks to the outside."""

    folder: Path
    earlier: Sequence[Path]
    config_hash: str
    device: torch.device
    mixed_precision: str
    stop: Callable[[], None]
    on_progress: Callable[["Progress"], None]
    on_metrics: Callable[[int, dict[str, float]], None]
    on_checkpoint: Callable[[int, dict[str, float]], None]
    every_steps: int | None = None
    every_seconds: float = 300.0
    micro_batch_divisor: int = 1


@dataclass(frozen=True)
class Progress:
    step: int
    total_steps: int
    epoch: float
    examples_done: int
    examples_total: int
    loss: float
    tokens_per_second: float
    examples_per_second: float
    eta_seconds: float


@dataclass
class Outcome:
    steps: int
    seconds: float
    final_loss: float | None
    best_score: float | None
    scores: list[float] = field(default_factory=list)
    metric: str | None = None  # of the scores
    plan: dict[str, object] = field(default_factory=dict)  # layer maps and projections, by objective
