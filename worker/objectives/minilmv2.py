"""MiniLMv2: relations among queries, among keys and among values, in heads of one's own number."""

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from app.domain.errors import IncompatibleModels
from worker.losses.attention import relation_kl, resplit, scores
from worker.objectives.base import Objective, same_rows, wide
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Shape, Signals


class MiniLMv2(Objective):
    """Σ over valid tokens of Σ_{i in Q, K, V} a_i mean_R KL(R_T ‖ R_S), in nats, with R = softmax(A_i A_iᵀ / √(D / R)).

    The queries, keys and values of the student's last layer and of one of its teacher's are each split anew into R relation
    heads, so that depths, widths and numbers of heads may all differ; R must divide both widths. Softmaxes run over the
    valid tokens of a sequence; padding never counts. Counts tokens.
    Of a large teacher an upper-middle layer teaches best (21 of 24), of a base one the last.
    Raises InvalidRequest for a layer the teacher lacks, IncompatibleModels for an R that does not divide both widths.
    Source: MiniLMv2, Wang et al. 2020, arXiv 2012.15828.
    """

    name = "minilmv2"
    needs: ClassVar[frozenset[Need]] = frozenset({"qkv", "teacher"})
    compares = "last"

    class Params(PluginParams):
        teacher_layer: Literal["last"] | PositiveInt = Field(default="last", description="Counted from 1, or its last.")
        relation_heads: PositiveInt | None = Field(
            default=None,
            description="R, such as 48 for a base teacher. Default: the most that divide both widths, up to the teacher's heads.",
            json_schema_extra={"x-divides": "hidden_size"},  # of student and teacher
        )
        query_weight: float = Field(default=1.0, ge=0, description="a of Q-Q.")
        key_weight: float = Field(default=1.0, ge=0, description="a of K-K.")
        value_weight: float = Field(default=1.0, ge=0, description="a of V-V.")

    params: Params

    def setup(self, student: Shape, teacher: Shape | None) -> None:
        assert teacher is not None
        super().setup(student, teacher)
        fitting = _divisors(math.gcd(student.hidden, teacher.hidden))
        heads = self.params.relation_heads or max(n for n in fitting if n <= max(teacher.heads, 1))
        if heads not in fitting:
            raise IncompatibleModels(
                f"{heads} relation heads do not divide the widths {student.hidden} and {teacher.hidden}.",
                param="relation_heads",
                hint=f"Use one of {', '.join(map(str, fitting))}, or leave it out.",
            )
        self.relation_heads = heads

    def plan(self) -> dict[str, Any]:
        return super().plan() | {"relation_heads": self.relation_heads}

    def count(self, batch: Batch) -> int:
        return batch.tokens

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert teacher is not None
        valid_BT = batch.attention_mask_BT.bool()
        ((i, j),) = self.pairs
        ours, theirs = student.qkv[i], teacher.qkv[j]
        same_rows(ours[0][:, 0], theirs[0][:, 0])
        total = wide(ours[0]).new_zeros(())
        weights = (self.params.query_weight, self.params.key_weight, self.params.value_weight)
        for weight, a_S, a_T in zip(weights, ours, theirs, strict=True):
            if weight:
                own = resplit(wide(a_S), self.relation_heads)
                given = resplit(wide(a_T.detach()), self.relation_heads)
                total = total + weight * relation_kl(scores(given, given), scores(own, own), valid_BT)
        return total


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
