"""Relational distillation by angle: any three of the student's vectors form the angles of its teacher's."""

from typing import ClassVar

import torch
from torch import Tensor

from worker.losses.geometry import angles
from worker.objectives.base import Objective, both
from worker.rows import Batch
from worker.signals import Need, Signals


class RKDAngle(Objective):
    """Σ_j mean_{i ≠ k} Huber(ψ_S(i, j, k) − ψ_T(i, j, k)), with ψ = cos of the angle at e_j between e_i and e_k.

    i, j and k are three sequences of one micro-batch, e their pooled vectors; Huber(d) = d² / 2 up to |d| = 1, |d| − 1/2
    beyond. Widths may differ and nothing is projected. Memory grows as B² E + B³: keep micro-batches below a few hundred.
    Counts sequences, of micro-batches with three and more.
    Source: Relational knowledge distillation, Park et al. 2019, arXiv 1904.05068 (RKD-A).
    """

    name = "rkd_angle"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedding", "teacher"})
    batchwise = True

    def count(self, batch: Batch) -> int:
        return len(batch.index_B) if len(batch.index_B) > 2 else 0

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        ours_BE, theirs_BE = both(student, teacher, "embedding_BE")
        gap_BBB = torch.nn.functional.huber_loss(angles(ours_BE), angles(theirs_BE), reduction="none")
        own_BB = torch.eye(len(ours_BE), dtype=torch.bool, device=ours_BE.device)
        b = len(ours_BE)
        return gap_BBB.masked_fill(own_BB, 0.0).sum() / max((b - 1) * (b - 2), 1)
