"""Centred kernel alignment: the same geometry of states, whatever the widths and without a projection."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from worker.losses.geometry import cka, pooled
from worker.objectives.base import LayerObjective
from worker.rows import Batch
from worker.signals import Need, Signals


class CKA(LayerObjective):
    """B mean_pairs (1 − CKA(X, Y)), CKA = ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms, of centred states: X student, Y teacher.

    Rows of X and Y are the valid tokens of the micro-batch, or the mean state of every sequence. It ignores rotation and
    scale, so widths may differ and nothing is projected. It wants many more rows than dimensions: few rows are always
    alike, so prefer tokens and large batches. Accumulated in float64. Counts the B sequences.
    Raises InvalidRequest for a layer that one of the models lacks, IncompatibleModels when the two tokenise differently.
    Source: Kornblith et al. 2019, arXiv 1905.00414.
    """

    name = "cka"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden", "teacher"})
    batchwise = True
    projects = None

    class Params(LayerObjective.Params):
        rows: Literal["tokens", "pooled"] = Field(default="tokens", description="All tokens, or one mean per sequence.")

    params: Params

    def count(self, batch: Batch) -> int:
        return len(batch.index_B)

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        mask_BT = batch.attention_mask_BT
        values = []
        for ours_BTD, theirs_BTE in self.states(student, teacher):
            if self.params.rows == "tokens":
                likeness = cka(ours_BTD[mask_BT.bool()], theirs_BTE[mask_BT.bool()])
            else:
                likeness = cka(pooled(ours_BTD, mask_BT), pooled(theirs_BTE, mask_BT))
            values.append(1 - likeness)
        return (torch.stack(values).mean() * len(mask_BT)).to(ours_BTD.dtype)
