"""Scored pairs of texts: the cosine of their vectors is the score."""

from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from worker.losses.geometry import cosine_distance
from worker.objectives.base import Objective, wide
from worker.rows import Batch
from worker.signals import Need, Signals


class HardSimilarity(Objective):
    """Σ_pairs (cos(e_a, e_b) − y)², dimensionless, over the pairs with a score y in [−1, 1].

    Single texts and pairs without a score are not counted.
    Source: Sentence-BERT, Reimers and Gurevych 2019, arXiv 1908.10084, section 3 (regression objective).
    """

    name = "hard_similarity"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedding", "labels"})
    problems: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def count(self, batch: Batch) -> int:
        return len(_scored(batch)[0])

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert student.embedding_BE is not None
        examples, first = _scored(batch)
        vectors_BE = wide(student.embedding_BE)
        at_P = torch.tensor(first, dtype=torch.long, device=vectors_BE.device)
        cos_P = 1 - cosine_distance(vectors_BE[at_P], vectors_BE[at_P + 1])
        return (cos_P - batch.labels[examples].to(cos_P.dtype)).square().sum()


def _scored(batch: Batch) -> tuple[list[int], list[int]]:
    """Examples that are a scored pair, and where their first text lies."""
    starts = accumulate(batch.sizes, initial=0)
    known = (~batch.labels.isnan()).tolist()
    found = [(g, start) for g, (size, start) in enumerate(zip(batch.sizes, starts, strict=False)) if size == 2 and known[g]]
    return [g for g, _ in found], [start for _, start in found]
