"""Layer maps and projections: which layers of student and teacher an objective compares, and which widths differ.

The worker's objectives set themselves up by it, and the API tells a job's plan by it before anything runs. Layers are counted
as hidden states are: 0 is the embeddings' output, L the last layer's. Widths: D student, E teacher.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from app.domain.errors import InvalidRequest

Strategy = Literal["uniform", "last", "skip", "first_last", "block_influence"]
LayerMap = list[tuple[int, int]]  # (student's layer, teacher's layer), both 1 … L, or 0 for the embeddings
Compares = Literal["map", "last"]  # layers as the parameter `layers` says; the last ones, or `teacher_layer` of the teacher's
Projects = Literal["hidden", "embedding"]  # hidden states of every pair; pooled vectors
MEASURED: Strategy = "block_influence"  # decided by figures that only a run of the teacher gives


class Measures(Protocol):
    """What of a model decides how it is set beside another."""

    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def embedding(self) -> int: ...  # width of the pooled vector
    @property
    def influence(self) -> tuple[float, ...]: ...  # 1 − cos(h_l, h_{l+1}) per layer, where it was measured


@dataclass(frozen=True)
class Rule:
    """How an objective compares: facts of its class, told alike by the class and by the catalogue."""

    compares: Compares | None
    projects: Projects | None
    lowest: int  # 1 for what the embeddings do not have: queries, keys, values

    @classmethod
    def of(cls, compares: Compares | None, projects: Projects | None, needs: frozenset[str]) -> "Rule":
        return cls(compares or None, projects or None, 1 if "qkv" in needs else 0)

    @classmethod
    def told(cls, entry: Mapping[str, Any]) -> "Rule":
        """Of an objective's catalogue entry."""
        return cls.of(entry.get("compares"), entry.get("projects"), frozenset(entry.get("needs", ())))

    def pairs(self, params: Mapping[str, Any], student: Measures, teacher: Measures) -> LayerMap:
        """Raises InvalidRequest for a layer that one of the two does not have."""
        match self.compares:
            case "map":
                embeddings = bool(params.get("include_embeddings", False))
                return layer_map(params["layers"], student, teacher, embeddings=embeddings, lowest=self.lowest)
            case "last":
                return last(params.get("teacher_layer", "last"), student, teacher)
        return []

    def projections(self, pairs: LayerMap, student: Measures, teacher: Measures) -> dict[str, tuple[int, int]]:
        """name → (D, E) of the linear maps that live beside the student: none where the widths agree."""
        match self.projects:
            case "hidden" if student.hidden != teacher.hidden:
                return {of_pair(pair): (student.hidden, teacher.hidden) for pair in pairs}
            case "embedding" if student.embedding != teacher.embedding:
                return {"embedding": (student.embedding, teacher.embedding)}
        return {}


def of_pair(pair: tuple[int, int]) -> str:
    """Name of a pair's projection."""
    return f"layer_{pair[0]}_{pair[1]}"


def layer_map(
    wanted: Strategy | Sequence[tuple[int, int]], student: Measures, teacher: Measures, *, embeddings: bool = False, lowest: int = 0
) -> LayerMap:
    """Pairs of layers, by strategy or as given; `lowest` is 1 for what the embeddings do not have: queries, keys, values.

    uniform: I(j) = ceil(j L_T / L_S).  last: the last of both.  skip: every layer but the last, I(j) = j floor(L_T / L_S)
    (PKD-skip).  first_last: the first and the last of both.  block_influence: the L_S teacher layers that move the state
    most, 1 − E cos(h_l, h_{l+1}) (ShortGPT), in order. `embeddings` adds (0, 0) to a strategy.
    Sources: PKD arXiv 1908.09355; TinyBERT arXiv 1909.10351; ShortGPT arXiv 2403.03853.
    Raises InvalidRequest for a layer that one of them does not have.
    """
    if not isinstance(wanted, str):
        return _given(wanted, student, teacher, lowest)
    s, t = student.layers, teacher.layers
    if wanted == "uniform":
        found = [(j, math.ceil(j * t / s)) for j in range(1, s + 1)]
    elif wanted == "last":
        found = [(s, t)]
    elif wanted == "skip":
        found = [(j, max(1, j * (t // s))) for j in range(1, s)] if t >= s else []
        found = found or [(s, t)]
    elif wanted == "first_last":
        found = [(1, 1), (s, t)] if s > 1 else [(s, t)]
    else:
        if len(teacher.influence) != t:
            raise InvalidRequest("The influence of the teacher's layers was not measured.", param="layers", hint='Use "uniform".')
        ranked = sorted(range(1, t + 1), key=lambda i: (-teacher.influence[i - 1], i))
        chosen = sorted(ranked[: min(s, t)])
        found = [(s - len(chosen) + n + 1, i) for n, i in enumerate(chosen)]
    return [(0, 0), *found] if embeddings else found


def last(teacher_layer: Literal["last"] | int, student: Measures, teacher: Measures) -> LayerMap:
    """The student's last layer, and the teacher's last or another one. Raises InvalidRequest for one that it does not have."""
    layer = teacher.layers if teacher_layer == "last" else teacher_layer
    if layer > teacher.layers:
        raise InvalidRequest(
            f"The teacher has no layer {layer}.", param="teacher_layer", hint=f"Its layers are 1 to {teacher.layers}."
        )
    return [(student.layers, layer)]


def _given(pairs: Sequence[tuple[int, int]], student: Measures, teacher: Measures, lowest: int) -> LayerMap:
    for n, (ours, theirs) in enumerate(pairs):
        for layer, shape, who in ((ours, student, "student"), (theirs, teacher, "teacher")):
            if not lowest <= layer <= shape.layers:
                raise InvalidRequest(
                    f"layers[{n}]: the {who} has no layer {layer}.",
                    param="layers",
                    hint=f"Its layers are 1 to {shape.layers}" + ("; 0 is the embeddings' output." if lowest == 0 else "."),
                )
    return [(int(a), int(b)) for a, b in pairs]
