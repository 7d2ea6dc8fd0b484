"""Who answers for the teacher while a student trains: the job's own teacher, an average of the student itself, a peer, …"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.heads.base import Head
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Shape, Signals, Wants


@dataclass(frozen=True)
class Scene:
    """What a stage offers to whoever teaches in it. `student` is the model as it trains: its ids go through `remap`."""

    student: PreTrainedModel
    head: Head
    remap: Callable[[Tensor], Tensor]
    device: torch.device
    main: Callable[[Batch, Wants], Signals] | None  # the job's teacher
    main_shape: Shape | None
    previous: PreTrainedModel | None  # the student as the stage before left it
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]  # as the student's own


class Source(ABC):
    """Subclasses give `name`, `Params` and `signals`. `learns` names a module that is saved with every checkpoint."""

    name: ClassVar[str]
    offers: ClassVar[frozenset[Need]] = frozenset()  # what it can say; empty: all
    problems: ClassVar[frozenset[str]] = frozenset()  # kinds of targets that it can speak about; empty: all

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)
        self.learns: nn.Module | None = None
        self.optimizer: torch.optim.Optimizer | None = None

    def shape(self, scene: Scene) -> Shape | None:
        """Of whoever answers, for layer maps and projections; default: of the student itself."""
        return scene.head.shape(scene.student)

    def begin(self, scene: Scene) -> None:
        """Once, before training and before a checkpoint is restored; torch is seeded."""
        self.scene = scene

    @abstractmethod
    def signals(self, batch: Batch, wants: Wants) -> Signals:
        """What is wanted of this micro-batch, without gradient to the student. The batch is on the device."""

    def learn(self, student: Signals, batch: Batch, share: float) -> None:  # noqa: B027 - most do not learn
        """After the student's own backward pass of the micro-batch: `student` is detached, `share` its part of the window."""

    def after_step(self, learning_rate: float) -> None:  # noqa: B027
        """After the student's optimiser step."""
