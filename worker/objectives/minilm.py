"""MiniLM: the last layer's attention and the relations among its values."""

from typing import ClassVar

from torch import Tensor

from app.domain.errors import IncompatibleModels
from worker.losses.attention import relation_kl, scores
from worker.objectives.base import Objective, same_rows, wide
from worker.rows import Batch
from worker.signals import Need, Shape, Signals


class MiniLM(Objective):
    """Σ over valid tokens of mean_H KL(A_T ‖ A_S) + mean_H KL(VR_T ‖ VR_S), in nats, of the last layer of both.

    A = softmax(Q Kᵀ / √S), VR = softmax(V Vᵀ / √S), over the valid tokens of a sequence; padding never counts. Depths and
    widths may differ, numbers of heads may not: IncompatibleModels, with `minilmv2` as the way out. Counts tokens.
    Source: MiniLM, Wang et al. 2020, arXiv 2002.10957.
    """

    name = "minilm"
    needs: ClassVar[frozenset[Need]] = frozenset({"qkv", "teacher"})
    equal: ClassVar[frozenset[str]] = frozenset({"heads"})
    compares = "last"

    def setup(self, student: Shape, teacher: Shape | None) -> None:
        assert teacher is not None
        if student.heads != teacher.heads:
            raise IncompatibleModels(
                f"minilm compares head by head: the student has {student.heads}, the teacher {teacher.heads}.",
                param="stages",
                hint='Use "minilmv2", which splits both into the same number of relation heads.',
            )
        super().setup(student, teacher)

    def count(self, batch: Batch) -> int:
        return batch.tokens

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert teacher is not None
        valid_BT = batch.attention_mask_BT.bool()
        ((ours, theirs),) = self.pairs
        q_S, k_S, v_S = (wide(t) for t in student.qkv[ours])
        q_T, k_T, v_T = (wide(t.detach()) for t in teacher.qkv[theirs])
        same_rows(q_S[:, 0], q_T[:, 0])
        attention = relation_kl(scores(q_T, k_T), scores(q_S, k_S), valid_BT)
        return attention + relation_kl(scores(v_T, v_T), scores(v_S, v_S), valid_BT)
