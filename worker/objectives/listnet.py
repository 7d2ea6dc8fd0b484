"""ListNet: the student gives a query's documents the probabilities that its teacher gives them."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from worker.objectives.base import Objective, Temperature, both, log_softmax, members
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Signals


class ListNet(Objective):
    """tau² Σ_G −Σ_k softmax(s_T / tau_T)_k log softmax(s_S / tau)_k, in nats: scores s of the documents k of each query.

    A cross-entropy: smallest, at the teacher's entropy and not at 0, where both agree. A teacher whose scores have another
    scale (logits of a cross-encoder against 20 cos of a bi-encoder) gets its own `teacher_temperature`. Counts queries.
    Raises IncompatibleModels when the two do not score the same documents.
    Source: Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach".
    """

    name = "listnet"
    needs: ClassVar[frozenset[Need]] = frozenset({"scores", "teacher"})
    problems: ClassVar[frozenset[str]] = frozenset({"ranking"})

    class Params(PluginParams):
        temperature: Temperature = Field(
            default=1.0, validate_default=True, description="tau; a number or a schedule, 0.01 to 100."
        )
        teacher_temperature: float | None = Field(
            default=None, ge=0.01, le=100, description="tau_T of the teacher's scores. Default: the student's."
        )

    params: Params

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        ours_GK, theirs_GK = both(student, teacher, "scores_GK")
        tau = self.params.temperature(x)
        outside_GK = ~members(ours_GK, batch)
        log_q_GK = log_softmax(ours_GK.masked_fill(outside_GK, float("-inf")), tau)
        p_GK = log_softmax(theirs_GK.masked_fill(outside_GK, float("-inf")), self.params.teacher_temperature or tau).exp()
        return -(tau**2) * (p_GK * log_q_GK).sum()
