"""Patient distillation: the first token's state, layer by layer."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from worker.losses.geometry import unit
from worker.objectives.base import LayerObjective
from worker.rows import Batch
from worker.signals import Need, Signals

Pairs = Annotated[list[tuple[PositiveInt, PositiveInt]], Field(min_length=1, max_length=64)]


class PKD(LayerObjective):
    """Σ_B Σ_pairs ‖ h_S / ‖h_S‖ − h_T / ‖h_T‖ ‖², dimensionless, in [0, 4] per pair: h the state of a sequence's first token.

    skip: every layer of the student but its last, j against j floor(L_T / L_S).  last: the last of both. Where the widths
    differ, h_S is mapped by a linear map per pair, trained with the student and dropped afterwards. Counts sequences.
    Raises InvalidRequest for a layer that one of the models lacks.
    Source: Patient knowledge distillation, Sun et al. 2019, arXiv 1908.09355 (L_PT).
    """

    name = "pkd"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden", "teacher"})

    class Params(LayerObjective.Params):
        layers: Literal["skip", "last"] | Pairs = Field(
            default="skip", description="PKD-skip, PKD-last, or pairs [student layer, teacher layer] counted from 1."
        )

    params: Params

    def count(self, batch: Batch) -> int:
        return len(batch.index_B)

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        pairs = self.states(student, teacher)
        return torch.stack([(unit(ours[:, 0]) - unit(theirs[:, 0])).square().sum() for ours, theirs in pairs]).sum()
