"""Contrast: a student's vector is closer to its teacher's of the same row than to those of all other rows."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from worker.losses.geometry import unit
from worker.objectives.base import Objective, Temperature, both, wide
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Signals


class InfoNCE(Objective):
    """Σ_i −log softmax_j(cos(W e_S_i, e_T_j) / tau)[j = i], in nats: the other rows of the micro-batch are the negatives.

    symmetric: the mean of that and of the same over i, every teacher vector looking for its student's (CLIP's).
    Where the widths differ, W is a linear map that is trained with the student and dropped afterwards. More rows in a
    micro-batch are more negatives. Counts sequences, of micro-batches with two and more. It is a cross-entropy against
    hard targets: no tau².
    Sources: CPC, van den Oord et al. 2018, arXiv 1807.03748; CLIP, Radford et al. 2021, arXiv 2103.00020;
    CLIP-KD's interactive contrastive learning, Yang et al. 2023, arXiv 2307.12732.
    """

    name = "infonce"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedding", "teacher"})
    projects = "embedding"
    batchwise = True
    matching = False

    class Params(PluginParams):
        temperature: Temperature = Field(
            default=0.05, validate_default=True, description="tau, divides the cosines; a number or a schedule, 0.01 to 100."
        )
        symmetric: bool = Field(default=False, description="Also let every teacher vector look for its student's.")

    params: Params

    def count(self, batch: Batch) -> int:
        return len(batch.index_B) if len(batch.index_B) > 1 else 0

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        ours_BE, theirs_BE = both(student, teacher, "embedding_BE")
        ours_BE = unit(wide(self.projections.map("embedding", ours_BE)))
        logits_BB = ours_BE @ unit(theirs_BE).T / self.params.temperature(x)
        rows = -logits_BB.log_softmax(1).diagonal().sum()
        if not self.params.symmetric:
            return rows
        return 0.5 * (rows - logits_BB.log_softmax(0).diagonal().sum())
