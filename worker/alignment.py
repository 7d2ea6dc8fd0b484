"""Projections: linear maps between a student's width and its teacher's. Which there are is said by `app/domain/layer_maps.py`."""

from typing import Annotated

from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from app.domain.layer_maps import Strategy

Layers = Strategy | Annotated[list[tuple[NonNegativeInt, NonNegativeInt]], Field(min_length=1, max_length=64)]


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
