"""Hard labels: cross-entropy against the rows' own labels."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from worker.objectives.base import DenseLogits, Need, Objective, StudentOutput, log_softmax
from worker.plugins import PluginParams
from worker.rows import NO_LABEL


class HardLabel(Objective):
    """Σ_B −log q(y), in nats, over labelled rows; with smoothing e: (1 − e)(−log q(y)) + e mean_C(−log q).

    Rows without a label (-100) are not counted and get no gradient. Its `weight` is 1 − alpha.
    Source: label smoothing, Szegedy et al. 2016, arXiv 1512.00567, section 7.
    """

    name = "hard_label"
    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})

    class Params(PluginParams):
        label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    params: Params

    def __call__(self, student: StudentOutput, teacher: DenseLogits | None, labels_B: Tensor, x: float) -> Tensor:
        log_q_BC = log_softmax(student.logits_BC, 1.0)
        known_B = labels_B != NO_LABEL
        picked_B = log_q_BC.gather(1, labels_B.clamp_min(0)[:, None])[:, 0]
        e = self.params.label_smoothing
        loss_B = -(1 - e) * picked_B - (e * log_q_BC.mean(-1) if e else 0.0)
        return loss_B.masked_fill(~known_B, 0.0).sum()
