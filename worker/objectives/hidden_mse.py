"""Hidden-state matching: the student's states are mapped onto its teacher's."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from worker.losses.geometry import unit
from worker.objectives.base import LayerObjective
from worker.rows import Batch
from worker.signals import Need, Signals


class HiddenMSE(LayerObjective):
    """Σ over valid tokens of mean_pairs mean_D (W h_S − h_T)²: states h of paired layers, padding never counts.

    Where the widths differ, W is a linear map per pair that is trained with the student and dropped afterwards. With
    `normalize` both sides have length 1 first, which takes the size of a layer's states out. Counts tokens.
    Raises InvalidRequest for a layer that one of the models lacks, IncompatibleModels when the two tokenise differently.
    Sources: FitNets, Romero et al. 2014, arXiv 1412.6550; TinyBERT, Jiao et al. 2019, arXiv 1909.10351 (L_hidn, L_embd).
    """

    name = "hidden_mse"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden", "teacher"})

    class Params(LayerObjective.Params):
        include_embeddings: bool = Field(
            default=False, description="With a strategy: also compare the embeddings' outputs, TinyBERT's L_embd."
        )
        normalize: bool = Field(default=False, description="Compare directions: both sides are brought to length 1.")

    params: Params

    def count(self, batch: Batch) -> int:
        return batch.tokens

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        return torch.stack([self._pair(*pair, batch) for pair in self.states(student, teacher)]).mean()

    def _pair(self, ours_BTD: Tensor, theirs_BTD: Tensor, batch: Batch) -> Tensor:
        valid_BT = batch.attention_mask_BT.bool()
        ours_ND, theirs_ND = ours_BTD[valid_BT], theirs_BTD[valid_BT]
        if self.params.normalize:
            ours_ND, theirs_ND = unit(ours_ND), unit(theirs_ND)
        return (ours_ND - theirs_ND).square().mean(-1).sum()
