"""Layer maps and projections: how a student's layers and widths are set beside its teacher's.

Hidden states are counted from 0 (the embeddings' output) to L (the last layer's). Shapes: D student width, E teacher width.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from app.domain.errors import InvalidRequest
from worker.signals import Shape

Strategy = Literal["uniform", "last", "skip", "first_last", "block_influence"]
Layers = Strategy | Annotated[list[tuple[NonNegativeInt, NonNegativeInt]], Field(min_length=1, max_length=64)]
LayerMap = list[tuple[int, int]]  # (student's layer, teacher's layer), both 1 … L, or 0 for the embeddings


def layer_map(
    wanted: Strategy | Sequence[tuple[int, int]], student: Shape, teacher: Shape, *, embeddings: bool = False, lowest: int = 0
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


def _given(pairs: Sequence[tuple[int, int]], student: Shape, teacher: Shape, lowest: int) -> LayerMap:
    for n, (ours, theirs) in enumerate(pairs):
        for layer, shape, who in ((ours, student, "student"), (theirs, teacher, "teacher")):
            if not lowest <= layer <= shape.layers:
                raise InvalidRequest(
                    f"layers[{n}]: the {who} has no layer {layer}.",
                    param="layers",
                    hint=f"Its layers are 1 to {shape.layers}" + ("; 0 is the embeddings' output." if lowest == 0 else "."),
                )
    return [(int(a), int(b)) for a, b in pairs]


class Projections(nn.Module):
    """Linear maps D → E, one per name, that live beside the student and are dropped after training (EmbedDistill 2301.12005).

    Where the widths agree nothing is made and `map` is the identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleDict()

    def add(self, name: str, ours: int, theirs: int, *, always: bool = False) -> None:
        """`always`: a map is learned between equal widths too."""
        if always or ours != theirs:
            self.maps[name] = nn.Linear(ours, theirs)

    def map(self, name: str, value: Tensor) -> Tensor:
        if name not in self.maps:
            return value
        linear = self.maps[name]
        assert isinstance(linear, nn.Linear)
        result: Tensor = linear(value.to(linear.weight.dtype))
        return result

    def shapes(self) -> dict[str, list[int]]:
        return {name: [m.in_features, m.out_features] for name, m in self.maps.items() if isinstance(m, nn.Linear)}
