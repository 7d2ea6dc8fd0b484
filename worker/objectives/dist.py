"""DIST: the student keeps the correlations of its teacher's predictions, not their exact values."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from worker.losses.geometry import pearson_distance
from worker.objectives.base import Objective, Temperature, both, log_softmax
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Signals


class Dist(Objective):
    """tau² (inter_weight Σ_N (1 − ρ(p_n, q_n)) + intra_weight N mean_C (1 − ρ(p_:c, q_:c))), dimensionless.

    ρ is Pearson's correlation: over the classes of a row (inter), over the rows of the micro-batch for a class (intra);
    p teacher, q student, softmax(z / tau), or σ(z / tau) where a row has several labels. Counts rows.
    For teachers far stronger than the student: their confidence need not be matched, only their preferences.
    Source: DIST, Huang et al. 2022, arXiv 2205.10536. Raises IncompatibleModels when the two differ in classes.
    """

    name = "dist"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "teacher"})
    problems: ClassVar[frozenset[str]] = frozenset({"single_label", "multi_label", "tokens", "masked_lm"})
    batchwise = True

    class Params(PluginParams):
        temperature: Temperature = Field(
            default=1.0,
            validate_default=True,
            description="Softmax temperature of both sides: a number or a schedule, 0.01 to 100.",
        )
        inter_weight: float = Field(default=1.0, ge=0, description="Weight of the correlation over classes.")
        intra_weight: float = Field(default=1.0, ge=0, description="Weight of the correlation over the rows of a micro-batch.")

    params: Params

    def count(self, batch: Batch) -> int:
        return len(batch.labels)

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        tau = self.params.temperature(x)
        q_NC, p_NC = (self._probabilities(z_NC, tau, batch.problem) for z_NC in both(student, teacher, "logits_NC"))
        inter = pearson_distance(q_NC, p_NC).sum()
        intra = pearson_distance(q_NC.T, p_NC.T).mean() * len(q_NC)
        return tau**2 * (self.params.inter_weight * inter + self.params.intra_weight * intra)

    @staticmethod
    def _probabilities(logits_NC: Tensor, tau: float, problem: str) -> Tensor:
        return (logits_NC / tau).sigmoid() if problem == "multi_label" else log_softmax(logits_NC, tau).exp()
