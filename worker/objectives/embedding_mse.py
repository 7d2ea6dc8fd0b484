"""Embedding matching: the student's vectors are its teacher's."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from worker.losses.geometry import unit
from worker.objectives.base import Objective, both, wide
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Signals


class EmbeddingMSE(Objective):
    """Σ_B mean_E (W e_S − e_T)²: pooled vectors e of every sequence.

    Where the widths differ, W is a linear map that is trained with the student and dropped afterwards: what the student then
    serves are its own e_S, so add `similarity_kl`, which keeps similarities themselves. With `normalize` both sides have
    length 1 first. Counts sequences. Raises IncompatibleModels when the two do not read the same sequences.
    Source: EmbedDistill, Kim et al. 2023, arXiv 2301.12005; multilingual distillation, Reimers and Gurevych 2020, arXiv 2004.09813.
    """

    name = "embedding_mse"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedding", "teacher"})
    projects = "embedding"

    class Params(PluginParams):
        normalize: bool = Field(default=False, description="Compare directions: both sides are brought to length 1.")

    params: Params

    def count(self, batch: Batch) -> int:
        return len(batch.index_B)

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        ours_BE, theirs_BE = both(student, teacher, "embedding_BE")
        ours_BE = wide(self.projections.map("embedding", ours_BE))
        if self.params.normalize:
            ours_BE, theirs_BE = unit(ours_BE), unit(theirs_BE)
        return (ours_BE - theirs_BE).square().mean(-1).sum()
