"""Hidden-state matching by direction alone."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from worker.losses.geometry import cosine_distance
from worker.objectives.base import LayerObjective
from worker.rows import Batch
from worker.signals import Need, Signals


class HiddenCosine(LayerObjective):
    """Σ over valid tokens of mean_pairs (1 − cos(W h_S, h_T)), in [0, 2]: states h of paired layers, padding never counts.

    W is a linear map per pair where the widths differ, trained with the student and dropped afterwards. Counts tokens.
    The L_cos of DistilBERT's triple loss, with "layers": "last".
    Raises InvalidRequest for a layer that one of the models lacks, IncompatibleModels when the two tokenise differently.
    Source: DistilBERT, Sanh et al. 2019, arXiv 1910.01108.
    """

    name = "hidden_cosine"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden", "teacher"})

    class Params(LayerObjective.Params):
        include_embeddings: bool = Field(default=False, description="With a strategy: also compare the embeddings' outputs.")

    params: Params

    def count(self, batch: Batch) -> int:
        return batch.tokens

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        valid_BT = batch.attention_mask_BT.bool()
        pairs = self.states(student, teacher)
        return torch.stack([cosine_distance(ours[valid_BT], theirs[valid_BT]).sum() for ours, theirs in pairs]).mean()
