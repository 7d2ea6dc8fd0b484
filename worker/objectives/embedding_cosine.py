"""Embedding matching by direction alone."""

from typing import ClassVar

from torch import Tensor

from worker.losses.geometry import cosine_distance
from worker.objectives.base import Objective, both, wide
from worker.rows import Batch
from worker.signals import Need, Signals


class EmbeddingCosine(Objective):
    """Σ_B (1 − cos(W e_S, e_T)), in [0, 2] per sequence: pooled vectors e of every sequence.

    Where the widths differ, W is a linear map that is trained with the student and dropped afterwards: what the student then
    serves are its own e_S, so add `similarity_kl`, which keeps similarities themselves. Counts sequences.
    Raises IncompatibleModels when the two do not read the same sequences.
    Source: EmbedDistill, Kim et al. 2023, arXiv 2301.12005.
    """

    name = "embedding_cosine"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedding", "teacher"})
    projects = "embedding"

    def count(self, batch: Batch) -> int:
        return len(batch.index_B)

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        ours_BE, theirs_BE = both(student, teacher, "embedding_BE")
        return cosine_distance(wide(self.projections.map("embedding", ours_BE)), theirs_BE).sum()
