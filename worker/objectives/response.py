"""Soft labels: the student matches the teacher's softened class distribution."""

from typing import ClassVar

from pydantic import Field, field_validator
from torch import Tensor

from app.domain.schedule import Schedule, Scheduled, in_range
from worker.objectives.base import DenseLogits, Need, Objective, StudentOutput, log_softmax
from worker.plugins import PluginParams


class Response(Objective):
    """tau² Σ_B KL(p_tau ‖ q_tau) = tau² Σ_B Σ_C p (log p − log q), in nats; p teacher, q student, both softmax(z / tau).

    tau² keeps the size of the gradient, tau (q − p), independent of tau. Its `weight` is alpha.
    Counts every row, labelled or not. Source: Hinton et al. 2015, arXiv 1503.02531, section 2.
    Raises ValueError when student and teacher differ in classes.
    """

    name = "response"
    needs: ClassVar[frozenset[Need]] = frozenset({"dense_logits"})

    class Params(PluginParams):
        temperature: Scheduled = Field(
            default=2.0,
            validate_default=True,
            description="Softmax temperature, dimensionless; a number or a schedule, 0.05 to 100.",
            json_schema_extra={"x-range": [0.05, 100.0]},
        )

        @field_validator("temperature")
        @classmethod
        def _bounded(cls, value: Schedule) -> Schedule:
            return in_range(value, 0.05, 100, "temperature")

    params: Params

    def __call__(self, student: StudentOutput, teacher: DenseLogits | None, labels_B: Tensor, x: float) -> Tensor:
        assert teacher is not None
        if student.logits_BC.shape != teacher.logits_BC.shape:
            raise ValueError(f"student logits {tuple(student.logits_BC.shape)} against teacher {tuple(teacher.logits_BC.shape)}")
        tau = self.params.temperature(x)
        log_q_BC = log_softmax(student.logits_BC, tau)
        log_p_BC = log_softmax(teacher.logits_BC.detach(), tau)
        p_BC = log_p_BC.exp()
        # A class the teacher gives no probability adds nothing, however small the student's: 0 (log 0 − log q) = 0.
        gap_BC = (log_p_BC - log_q_BC).masked_fill(p_BC == 0, 0.0)
        return tau**2 * (p_BC * gap_BC).sum()
