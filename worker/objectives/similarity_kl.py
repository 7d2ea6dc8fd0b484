"""In-batch relations: to each row the others are as near, relative to one another, as they are for the teacher."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from worker.losses.divergences import kl
from worker.losses.geometry import unit
from worker.objectives.base import Objective, Temperature, both, log_softmax
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Signals


class SimilarityKL(Objective):
    """tau² Σ_i KL(softmax_{j ≠ i}(e_T_i · e_T_j / tau) ‖ softmax_{j ≠ i}(e_S_i · e_S_j / tau)), in nats.

    i and j are sequences of one micro-batch, e their pooled vectors, of length 1 unless `normalize` is off: then the
    products are cosines. Widths may differ and nothing is projected, so what the student serves is what was taught.
    tau² keeps the gradient's size independent of tau, and both small: at 0.05 a weight of 10 to 100 is usual.
    Counts sequences, of micro-batches with three and more.
    Sources: similarity distillation, Fang et al. 2021 (SEED), arXiv 2101.04731; CLIP-KD's relational term, arXiv 2307.12732.
    """

    name = "similarity_kl"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedding", "teacher"})
    batchwise = True

    class Params(PluginParams):
        temperature: Temperature = Field(
            default=0.05, validate_default=True, description="tau of both sides; a number or a schedule, 0.01 to 100."
        )
        normalize: bool = Field(default=True, description="Compare cosines; off: plain products, lengths included.")

    params: Params

    def count(self, batch: Batch) -> int:
        return len(batch.index_B) if len(batch.index_B) > 2 else 0

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        tau = self.params.temperature(x)
        ours, theirs = (self._relations(e_BE, tau) for e_BE in both(student, teacher, "embedding_BE"))
        return tau**2 * kl(theirs, ours).sum()

    def _relations(self, e_BE: Tensor, tau: float) -> Tensor:
        e_BE = unit(e_BE) if self.params.normalize else e_BE
        own_BB = torch.eye(len(e_BE), dtype=torch.bool, device=e_BE.device)
        return log_softmax((e_BE @ e_BE.T).masked_fill(own_BB, float("-inf")), tau)
