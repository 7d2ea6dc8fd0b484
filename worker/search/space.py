"""The students that a search looks at: depths and widths that can be cut from the teacher, from small to large."""

import itertools
from dataclasses import dataclass
from typing import Any

from worker.signals import Shape

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
WIDTHS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)


@dataclass(frozen=True)
class Candidate:
    """What `student` would say; `name` for tables."""

    layers: int
    hidden_size: int

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.hidden_size}"

    def changes(self, asked: dict[str, Any], teacher: Shape) -> dict[str, Any]:
        """The student block with this depth and width; the feed-forward width keeps its proportion to the width."""
        return {**asked, "layers": self.layers, "hidden_size": self.hidden_size, "intermediate_size": None}


def candidates(teacher: Shape, layers: list[int] | None, hidden_sizes: list[int] | None) -> list[Candidate]:
    """Every depth with every width, by about the work of a token: L · D². Widths are whole numbers of the teacher's heads."""
    head = teacher.hidden // teacher.heads
    depths = sorted({d for d in (layers or DEPTHS) if 1 <= d <= teacher.layers} | ({teacher.layers} if layers is None else set()))
    shares = [max(head, round(teacher.hidden * share / head) * head) for share in WIDTHS]
    widths = sorted({w for w in (hidden_sizes or shares) if head <= w <= teacher.hidden and w % head == 0})
    found = [Candidate(d, w) for d, w in itertools.product(depths, widths)]
    return sorted(found, key=lambda c: (c.layers * c.hidden_size**2, c.layers))
