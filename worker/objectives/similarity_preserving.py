"""Similarity-preserving distillation: the micro-batch's matrix of similarities is the teacher's."""

from typing import ClassVar

from torch import Tensor

from worker.losses.geometry import unit
from worker.objectives.base import Objective, both
from worker.rows import Batch
from worker.signals import Need, Signals


class SimilarityPreserving(Objective):
    """Σ_i Σ_j (G_S − G_T)²[i, j] / B, with G = the matrix e eᵀ, every row of it brought to length 1.

    i and j are the B sequences of one micro-batch, e their pooled vectors. Over the count, B, this is ‖G_S − G_T‖² / B².
    Widths may differ and nothing is projected. Counts sequences, of micro-batches with two and more.
    Source: Tung and Mori 2019, arXiv 1907.09682.
    """

    name = "similarity_preserving"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedding", "teacher"})
    batchwise = True

    def count(self, batch: Batch) -> int:
        return len(batch.index_B) if len(batch.index_B) > 1 else 0

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        ours_BB, theirs_BB = (unit(e_BE @ e_BE.T) for e_BE in both(student, teacher, "embedding_BE"))
        return (ours_BB - theirs_BB).square().sum() / len(ours_BB)
