"""The job's own teacher: what it said of every row, read from the cache, or asked on the spot where that cannot be."""

from worker.rows import Batch
from worker.signals import Shape, Signals, Wants
from worker.teachers.base import Scene, Source


class Main(Source):
    """p = the job's teacher (or its ensemble), frozen. Logits, vectors and hidden states are labelled once and kept.

    Source: Hinton et al. 2015, arXiv 1503.02531.
    """

    name = "main"

    def shape(self, scene: Scene) -> Shape | None:
        return scene.main_shape

    def signals(self, batch: Batch, wants: Wants) -> Signals:
        assert self.scene.main is not None
        return self.scene.main(batch, wants)
