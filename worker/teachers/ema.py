"""The student's own moving average as its teacher: steadier than the student, and it costs one more forward pass."""

import copy

import torch
from pydantic import Field

from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Signals, Wants
from worker.teachers.base import Scene, Source


class Ema(Source):
    """theta' <- m_t theta' + (1 - m_t) theta after every step, m_t = min(momentum, (1 + t) / (10 + t)); theta' answers.

    The rising m_t lets the average forget the untrained weights. Source: mean teacher, arXiv 1703.01780.
    """

    name = "ema"

    class Params(PluginParams):
        momentum: float = Field(default=0.99, ge=0, lt=1, description="How slowly the average follows the student.")

    params: Params

    def begin(self, scene: Scene) -> None:
        super().begin(scene)
        self.average = copy.deepcopy(scene.student).requires_grad_(False)
        self.average.train(False)
        self.average.register_buffer("ema_steps", torch.zeros((), dtype=torch.long))
        self.learns = self.average

    @torch.no_grad()
    def signals(self, batch: Batch, wants: Wants) -> Signals:
        return self.scene.head.forward(self.average, batch, wants, self.scene.remap(batch.input_ids_BT))

    @torch.no_grad()
    def after_step(self, learning_rate: float) -> None:
        steps = self.average.get_buffer("ema_steps").add_(1)
        momentum = min(self.params.momentum, (1 + int(steps)) / (10 + int(steps)))
        for mean, value in zip(self.average.parameters(), self.scene.student.parameters(), strict=True):
            mean.lerp_(value.detach(), 1 - momentum)
