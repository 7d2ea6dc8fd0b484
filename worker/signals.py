"""What a model says of one micro-batch, as objectives see it, from the student and from the teacher alike.

Shapes: N rows, or for token tasks the positions that count, in row order; B sequences, T tokens, C classes, D hidden,
E embedding, H heads, S numbers of a head, G groups (queries), K members of the largest group.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

# What an objective reads. "teacher": of a teacher too; "labels": the rows' own labels.
Need = Literal["logits", "embedding", "hidden", "qkv", "scores", "labels", "teacher"]
QKV = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Wants:
    """What has to be captured in a forward pass. Hidden state 0 is the embeddings' output, l that of layer l (from 1);
    `qkv` names layers from 1 by the same count: the queries, keys and values inside layer l."""

    logits: bool = False
    embedding: bool = False
    scores: bool = False
    hidden: frozenset[int] = frozenset()
    qkv: frozenset[int] = frozenset()

    def __or__(self, other: "Wants") -> "Wants":
        return Wants(
            self.logits or other.logits,
            self.embedding or other.embedding,
            self.scores or other.scores,
            self.hidden | other.hidden,
            self.qkv | other.qkv,
        )

    def __bool__(self) -> bool:
        return self.logits or self.embedding or self.scores or bool(self.hidden or self.qkv)


@dataclass(frozen=True)
class Signals:
    """Only what was wanted is there. A teacher's signals have no gradient."""

    logits_NC: Tensor | None = None
    embedding_BE: Tensor | None = None  # pooled, of any length
    scores_GK: Tensor | None = None  # relevance of each query's documents; places beyond a group's size hold 0
    hidden: Mapping[int, Tensor] = field(default_factory=dict)  # layer → (B, T, D)
    qkv: Mapping[int, QKV] = field(default_factory=dict)  # layer → three of (B, H, T, S)

    def tensors(self) -> list[Tensor]:
        """Everything here, for looking at gradients."""
        found = [t for t in (self.logits_NC, self.embedding_BE, self.scores_GK) if t is not None]
        return [*found, *self.hidden.values(), *(t for three in self.qkv.values() for t in three)]

    def detached(self) -> "Signals":
        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.detach()

        return Signals(
            cut(self.logits_NC),
            cut(self.embedding_BE),
            cut(self.scores_GK),
            {i: h.detach() for i, h in self.hidden.items()},
            {i: (q.detach(), k.detach(), v.detach()) for i, (q, k, v) in self.qkv.items()},
        )


@dataclass(frozen=True)
class Shape:
    """What of a model decides layer maps and projections."""

    layers: int
    hidden: int
    heads: int
    embedding: int  # width of the pooled vector
    classes: int = 0
    influence: tuple[float, ...] = ()  # 1 − cos(h_l, h_{l+1}) per layer, where it was measured
