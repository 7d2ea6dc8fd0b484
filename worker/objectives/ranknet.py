"""RankNet: of any two documents the student prefers the one that its teacher prefers."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from worker.objectives.base import Objective, both, members
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Signals


class RankNet(Objective):
    """Σ_G Σ_{i >_T j} w_ij log(1 + exp(margin − (s_i − s_j))), in nats, Σ w = 1 per query: student scores s.

    The pairs are those whose teacher scores differ by more than `min_gap`. weights: uniform, or gap, w_ij in proportion to
    the difference of the teacher's scores. Counts queries; one without such a pair adds nothing.
    Raises IncompatibleModels when the two do not score the same documents.
    Source: Burges et al. 2005, "Learning to Rank using Gradient Descent".
    """

    name = "ranknet"
    needs: ClassVar[frozenset[Need]] = frozenset({"scores", "teacher"})
    problems: ClassVar[frozenset[str]] = frozenset({"ranking"})
    matching = False

    class Params(PluginParams):
        weights: Literal["uniform", "gap"] = Field(default="uniform", description="Whether clear preferences count more.")
        margin: float = Field(default=0.0, ge=0, description="How far apart the student's scores have to be, in its own scale.")
        min_gap: float = Field(default=0.0, ge=0, description="Teacher scores that differ by no more than this are a tie.")

    params: Params

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        limit = 1e30  # infinite scores count as this
        ours_GK, theirs_GK = (s.clamp(-limit, limit) for s in both(student, teacher, "scores_GK"))
        inside_GK = members(ours_GK, batch)
        ahead_GKK = theirs_GK[:, :, None] - theirs_GK[:, None, :]
        preferred_GKK = (ahead_GKK > self.params.min_gap) & inside_GK[:, :, None] & inside_GK[:, None, :]
        weight_GKK = ahead_GKK.masked_fill(~preferred_GKK, 0.0) if self.params.weights == "gap" else preferred_GKK.to(ours_GK.dtype)
        weight_GKK = weight_GKK / weight_GKK.sum((1, 2), keepdim=True).clamp_min(1e-30)
        gap_GKK = ours_GK[:, :, None] - ours_GK[:, None, :]
        return (weight_GKK * torch.nn.functional.softplus(self.params.margin - gap_GKK)).sum()
