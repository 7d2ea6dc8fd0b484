"""Margin-MSE: the student's scores of two documents differ by as much as its teacher's."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from worker.objectives.base import Objective, both, members
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Signals


class MarginMSE(Objective):
    """Σ_G mean_pairs ((s_S(i) − s_S(j)) − c (s_T(i) − s_T(j)))²: scores s of two documents i, j of one query.

    pairs: all of a query's, or best, the document its teacher puts first against each of the others. c is `teacher_scale`,
    for a student whose scores have another range (a bi-encoder's 20 cos lies in ± 20). Counts queries; one with a single
    document adds nothing. Raises IncompatibleModels when the two do not score the same documents.
    Source: Hofstätter et al. 2020, arXiv 2010.02666.
    """

    name = "margin_mse"
    needs: ClassVar[frozenset[Need]] = frozenset({"scores", "teacher"})
    problems: ClassVar[frozenset[str]] = frozenset({"ranking"})

    class Params(PluginParams):
        pairs: Literal["all", "best"] = Field(default="all", description="Which pairs of documents are compared.")
        teacher_scale: float = Field(default=1.0, gt=0, description="c, multiplies the teacher's differences.")

    params: Params

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        limit = 1e15  # infinite scores count as this
        ours_GK, theirs_GK = (s.clamp(-limit, limit) for s in both(student, teacher, "scores_GK"))
        inside_GK = members(ours_GK, batch)
        off_GK = ours_GK - self.params.teacher_scale * theirs_GK
        pairs_GKK = inside_GK[:, :, None] & inside_GK[:, None, :]
        pairs_GKK = pairs_GKK & ~off_GK.new_ones(off_GK.shape[1]).diag().bool()
        if self.params.pairs == "best":
            best_G = theirs_GK.masked_fill(~inside_GK, float("-inf")).argmax(1)
            pairs_GKK = pairs_GKK & (off_GK.new_zeros(off_GK.shape).scatter(1, best_G[:, None], 1.0).bool()[:, :, None])
        gap_GKK = (off_GK[:, :, None] - off_GK[:, None, :]).square().masked_fill(~pairs_GKK, 0.0)
        return (gap_GKK.sum((1, 2)) / pairs_GKK.sum((1, 2)).clamp_min(1)).sum()
