"""Relational distillation by distance: the student's vectors lie as far apart as its teacher's."""

from typing import ClassVar

import torch
from torch import Tensor

from worker.losses.geometry import distances
from worker.objectives.base import Objective, both
from worker.rows import Batch
from worker.signals import Need, Signals


class RKDDistance(Objective):
    """Σ_i mean_{j ≠ i} Huber(ψ_S(i, j) − ψ_T(i, j)), with ψ(i, j) = ‖e_i − e_j‖ / mean_{i ≠ j} ‖e_i − e_j‖.

    i and j are sequences of one micro-batch, e their pooled vectors; Huber(d) = d² / 2 up to |d| = 1, |d| − 1/2 beyond.
    Widths may differ and nothing is projected. Counts sequences, of micro-batches with two and more.
    Source: Relational knowledge distillation, Park et al. 2019, arXiv 1904.05068 (RKD-D).
    """

    name = "rkd_distance"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedding", "teacher"})
    batchwise = True

    def count(self, batch: Batch) -> int:
        return len(batch.index_B) if len(batch.index_B) > 1 else 0

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        ours_BE, theirs_BE = both(student, teacher, "embedding_BE")
        # The diagonal is 0 on both sides and adds nothing.
        total = torch.nn.functional.huber_loss(distances(ours_BE), distances(theirs_BE), reduction="sum")
        return total / max(len(ours_BE) - 1, 1)
