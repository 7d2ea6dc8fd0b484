"""Self-distillation with early exits: every intermediate layer learns to answer, the last one teaches them."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from app.domain.errors import InvalidRequest
from worker.losses.divergences import kl
from worker.losses.geometry import pooled
from worker.losses.likelihoods import binary_cross_entropy, cross_entropy
from worker.objectives.base import Objective, Temperature, distributions, log_softmax, wide
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Shape, Signals, Wants


class EarlyExit(Objective):
    """mean_i Σ_N (1 − alpha) CE(y, q_i) + alpha tau² KL(q ‖ q_i) + feature_weight ‖F_i − F‖²: be your own teacher.

    Exit i reads the mean state m_i of layer i: F_i = A_i m_i, q_i = softmax(C_i F_i); q and F are the model's own answer and
    the mean state of its last layer, without gradient here. A_i and C_i are trained with the student and dropped
    afterwards: what stays is a better body. Give `hard_label` or `response` beside it, which teach the last layer itself.
    CE counts where there is a label; where a row has several, CE and KL are those of each, summed over the labels.
    Counts rows. Needs no teacher. Raises InvalidRequest for a layer that is no intermediate one.
    Source: Be your own teacher, Zhang et al. 2019, arXiv 1905.08094.
    """

    name = "early_exit"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "hidden"})
    problems: ClassVar[frozenset[str]] = frozenset({"single_label", "multi_label"})
    detaches = True

    class Params(PluginParams):
        layers: Literal["all"] | Annotated[list[PositiveInt], Field(min_length=1, max_length=64)] = Field(
            default="all", description="Which layers get an exit, counted from 1. Default: all but the last."
        )
        alpha: float = Field(default=0.5, ge=0, le=1, description="Weight of the last layer's answer; labels get the rest.")
        temperature: Temperature = Field(
            default=3.0, validate_default=True, description="Softmax temperature of the KL; a number or a schedule, 0.01 to 100."
        )
        feature_weight: float = Field(default=0.03, ge=0, description="Weight of the distance to the last layer's state.")

    params: Params

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.exits: list[int] = []
        self.last = 0

    def setup(self, student: Shape, teacher: Shape | None) -> None:
        self.last = student.layers
        wanted = self.params.layers
        self.exits = list(range(1, student.layers)) if wanted == "all" else sorted(set(wanted))
        if not self.exits or self.exits[-1] >= student.layers:
            raise InvalidRequest(
                f"No exit can be made: the student has {student.layers} layers, and its last one is no early exit.",
                param="layers",
                hint=f"Choose from 1 to {student.layers - 1}." if student.layers > 1 else "Use a student of two layers or more.",
            )
        for i in self.exits:
            self.projections.add(f"state_{i}", student.hidden, student.hidden, always=True)
            self.projections.add(f"exit_{i}", student.hidden, student.classes, always=True)

    def plan(self) -> dict[str, Any]:
        return {"exits": self.exits, "projections": self.projections.shapes()}

    def student_wants(self) -> Wants:
        return Wants(logits=True, hidden=frozenset([*self.exits, self.last]))

    def count(self, batch: Batch) -> int:
        return len(batch.index_B)

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert student.logits_NC is not None
        mask_BT, tau, alpha = batch.attention_mask_BT, self.params.temperature(x), self.params.alpha
        deepest_BD = pooled(wide(student.hidden[self.last].detach()), mask_BT)
        log_p = log_softmax(distributions(student.logits_NC.detach(), batch.problem), tau)
        values = []
        for i in self.exits:
            state_BD = wide(self.projections.map(f"state_{i}", pooled(wide(student.hidden[i]), mask_BT)))
            logits_BC = wide(self.projections.map(f"exit_{i}", state_BD))
            soft = kl(log_p, log_softmax(distributions(logits_BC, batch.problem), tau)).sum()
            feature = (state_BD - deepest_BD).square().sum()
            hard = _labels(logits_BC, batch)
            values.append((1 - alpha) * hard + alpha * tau**2 * soft + self.params.feature_weight * feature)
        return torch.stack(values).mean()


def _labels(logits_BC: Tensor, batch: Batch) -> Tensor:
    if batch.problem == "multi_label":
        return binary_cross_entropy(logits_BC, batch.labels).sum()
    return cross_entropy(log_softmax(logits_BC, 1.0), batch.labels).sum()
