"""Graded relevance labels of a query's documents: one softmax over the list."""

from typing import ClassVar

from torch import Tensor

from worker.objectives.base import Objective, log_softmax, members
from worker.rows import Batch
from worker.signals import Need, Signals


class HardRank(Objective):
    """Σ_G −Σ_k (y_k / Σ y) log softmax(s)_k, in nats: scores s and grades y ≥ 0 of the documents k of each query.

    The softmax is over the documents with a grade. Queries without a relevant document (y > 0) are not counted.
    Source: ListNet's top-one cross-entropy, Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach".
    """

    name = "hard_rank"
    needs: ClassVar[frozenset[Need]] = frozenset({"scores", "labels"})
    problems: ClassVar[frozenset[str]] = frozenset({"ranking"})

    def count(self, batch: Batch) -> int:
        return int((batch.labels > 0).any(1).sum())  # NaN, the unknown grade, is no relevant document

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert student.scores_GK is not None
        grades_GK = batch.labels[:, : student.scores_GK.shape[1]]
        graded_GK = members(student.scores_GK, batch) & ~grades_GK.isnan()
        log_q_GK = log_softmax(student.scores_GK.masked_fill(~graded_GK, float("-inf")), 1.0)
        y_GK = grades_GK.masked_fill(~graded_GK, 0.0).clamp_min(0).to(log_q_GK.dtype)
        target_GK = y_GK / y_GK.sum(1, keepdim=True).clamp_min(1e-12)
        return -(target_GK * log_q_GK).sum()
