"""Attention matching: the scores before the softmax, layer by layer."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from worker.losses.attention import scores
from worker.objectives.base import LayerObjective, same_rows, wide
from worker.rows import Batch
from worker.signals import Need, Shape, Signals


class AttentionMSE(LayerObjective):
    """Σ over valid tokens t of mean_pairs mean_H mean_u (A_S − A_T)²[t, u], with A = Q Kᵀ / √S before the softmax.

    u runs over the valid tokens of t's sequence; padding never counts. Where the two have different numbers of heads, the
    mean over all heads of A is compared instead (`minilmv2` compares heads of any number one by one). Counts tokens.
    Raises InvalidRequest for a layer that one of the models lacks, IncompatibleModels when the two tokenise differently.
    Source: TinyBERT, Jiao et al. 2019, arXiv 1909.10351 (L_attn).
    """

    name = "attention_mse"
    needs: ClassVar[frozenset[Need]] = frozenset({"qkv", "teacher"})
    projects = None

    def setup(self, student: Shape, teacher: Shape | None) -> None:
        super().setup(student, teacher)
        assert teacher is not None
        self.heads = "one by one" if student.heads == teacher.heads else "their mean"

    def plan(self) -> dict[str, Any]:
        return super().plan() | {"heads": self.heads}

    def count(self, batch: Batch) -> int:
        return batch.tokens

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert teacher is not None
        valid_BT = batch.attention_mask_BT.bool()
        keys_B1 = valid_BT.sum(1, keepdim=True).clamp_min(1)
        outside_BTT = ~(valid_BT[:, :, None] & valid_BT[:, None, :])
        values = []
        for i, j in self.pairs:
            ours, theirs = self._scores(student, i), self._scores(teacher, j).detach()
            same_rows(ours[:, 0], theirs[:, 0])
            if ours.shape[1] != theirs.shape[1]:
                ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
            gap_BTT = (ours - theirs).square().mean(1).masked_fill(outside_BTT, 0.0)
            values.append((gap_BTT.sum(-1) / keys_B1).sum())
        return torch.stack(values).mean()

    @staticmethod
    def _scores(signals: Signals, layer: int) -> Tensor:
        queries, keys, _ = signals.qkv[layer]
        return scores(wide(queries), wide(keys))
