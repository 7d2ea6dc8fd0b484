"""ListMLE: the likelihood of the teacher's order under the student's scores."""

from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from worker.objectives.base import Objective, both, members
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Signals


class ListMLE(Objective):
    """Σ_G −Σ_k log(exp s_π(k) / Σ_{l ≥ k} exp s_π(l)), in nats: student scores s, π the documents in the teacher's order.

    Only the teacher's order matters, not its scale; documents it scores the same keep the order they came in. With `top_k`
    the sum over k stops there: the order of the rest is free. Counts queries.
    Raises IncompatibleModels when the two do not score the same documents.
    Source: Xia et al. 2008, "Listwise Approach to Learning to Rank: Theory and Algorithm".
    """

    name = "listmle"
    needs: ClassVar[frozenset[Need]] = frozenset({"scores", "teacher"})
    problems: ClassVar[frozenset[str]] = frozenset({"ranking"})
    matching = False

    class Params(PluginParams):
        top_k: PositiveInt | None = Field(default=None, description="Places whose order counts. Default: all.")

    params: Params

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        limit = 1e30  # infinite scores count as this
        ours_GK, theirs_GK = (s.clamp(-limit, limit) for s in both(student, teacher, "scores_GK"))
        inside_GK = members(ours_GK, batch)
        order_GK = theirs_GK.masked_fill(~inside_GK, float("-inf")).argsort(dim=1, descending=True, stable=True)
        s_GK, inside_GK = ours_GK.gather(1, order_GK), inside_GK.gather(1, order_GK)
        k = s_GK.shape[1]
        later_KK = torch.ones(k, k, dtype=torch.bool, device=s_GK.device).triu()
        open_GKK = later_KK & inside_GK[:, None, :]  # the documents that place k was chosen from
        among_GK = s_GK[:, None, :].expand(-1, k, -1).masked_fill(~open_GKK, -3e38).logsumexp(-1)
        counts_GK = inside_GK & (torch.arange(k, device=s_GK.device) < (self.params.top_k or k))
        return (among_GK - s_GK).masked_fill(~counts_GK, 0.0).sum()
