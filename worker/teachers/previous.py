"""The student of the stage before as the teacher of this one: generations of one architecture."""

import torch
from transformers import PreTrainedModel

from app.domain.errors import InvalidRequest
from worker.rows import Batch
from worker.signals import Shape, Signals, Wants
from worker.teachers.base import Scene, Source


class Previous(Source):
    """Generation k learns from generation k - 1, frozen: L = CE(y, q_k) + KL(q_{k-1} || q_k).

    With the stage's `restart` it begins from the first weights again.
    Source: born-again networks, arXiv 1805.04770. Raises InvalidRequest in a job's first stage.
    """

    name = "previous"

    def shape(self, scene: Scene) -> Shape | None:
        return scene.head.shape(_there(scene))

    def begin(self, scene: Scene) -> None:
        super().begin(scene)
        self.model = _there(scene).requires_grad_(False)
        self.model.train(False)

    @torch.no_grad()
    def signals(self, batch: Batch, wants: Wants) -> Signals:
        return self.scene.head.forward(self.model, batch, wants)


def _there(scene: Scene) -> PreTrainedModel:
    if scene.previous is None:
        raise InvalidRequest(
            "A first stage has no stage before it.",
            param="stages[0].teacher",
            hint='Use {"type": "previous"} from the second stage on.',
        )
    return scene.previous
