"""Layer maps by strategy and by hand, projections between widths."""

from typing import Any

import pytest
import torch

from app.domain.errors import InvalidRequest
from app.domain.layer_maps import layer_map
from worker.alignment import Projections
from worker.signals import Shape


def _shape(layers: int, influence: tuple[float, ...] = ()) -> Shape:
    return Shape(layers=layers, hidden=8, heads=2, embedding=8, influence=influence)


@pytest.mark.parametrize(
    ("strategy", "student", "teacher", "expected"),
    [
        ("uniform", 4, 12, [(1, 3), (2, 6), (3, 9), (4, 12)]),
        ("uniform", 5, 12, [(1, 3), (2, 5), (3, 8), (4, 10), (5, 12)]),
        ("uniform", 3, 2, [(1, 1), (2, 2), (3, 2)]),  # a student deeper than its teacher
        ("last", 4, 12, [(4, 12)]),
        ("skip", 6, 12, [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        ("skip", 1, 12, [(1, 12)]),
        ("skip", 4, 3, [(4, 3)]),
        ("first_last", 4, 12, [(1, 1), (4, 12)]),
        ("first_last", 1, 12, [(1, 12)]),
    ],
)
def test_strategies(strategy: Any, student: int, teacher: int, expected: list[tuple[int, int]]) -> None:
    assert layer_map(strategy, _shape(student), _shape(teacher)) == expected
    assert layer_map(strategy, _shape(student), _shape(teacher), embeddings=True) == [(0, 0), *expected]


@pytest.mark.parametrize("strategy", ["uniform", "last", "skip", "first_last", "block_influence"])
def test_every_strategy_names_layers_that_there_are(strategy: Any) -> None:
    for ours in range(1, 9):
        for theirs in range(1, 13):
            influence = tuple(((7 * n) % 5) / 5 for n in range(theirs))
            found = layer_map(strategy, _shape(ours), _shape(theirs, influence))
            assert found
            assert all(1 <= a <= ours and 1 <= b <= theirs for a, b in found)
            assert [b for _, b in found] == sorted(b for _, b in found)


def test_block_influence_takes_the_layers_that_move_the_state_most() -> None:
    teacher = _shape(6, (0.5, 0.1, 0.4, 0.1, 0.2, 0.6))
    assert layer_map("block_influence", _shape(3), teacher) == [(1, 1), (2, 3), (3, 6)]
    assert layer_map("block_influence", _shape(8), teacher) == [(n + 2, n) for n in range(1, 7)]
    with pytest.raises(InvalidRequest) as caught:
        layer_map("block_influence", _shape(3), _shape(6))
    assert caught.value.param == "layers"


def test_pairs_by_hand() -> None:
    assert layer_map([(0, 0), (2, 12)], _shape(2), _shape(12)) == [(0, 0), (2, 12)]
    for wrong in ([(3, 1)], [(1, 1), (1, 13)]):
        with pytest.raises(InvalidRequest, match=rf"layers\[{len(wrong) - 1}\]") as caught:
            layer_map(wrong, _shape(2), _shape(12))
        assert "1 to" in str(caught.value.hint)
        assert "embeddings" in str(caught.value.hint)


def test_the_embeddings_have_no_queries() -> None:
    with pytest.raises(InvalidRequest, match="no layer 0") as caught:
        layer_map([(0, 1)], _shape(2), _shape(12), lowest=1)
    assert "embeddings" not in str(caught.value.hint)


def test_projections_are_made_where_widths_differ() -> None:
    projections = Projections()
    projections.add("same", 8, 8)
    projections.add("wider", 8, 12)
    projections.add("learned", 8, 8, always=True)
    assert projections.shapes() == {"wider": [8, 12], "learned": [8, 8]}
    value = torch.randn(3, 8)
    assert projections.map("same", value) is value
    assert projections.map("wider", value.bfloat16()).shape == (3, 12)
    assert projections.map("wider", value.bfloat16()).dtype == torch.float32
    assert len(list(projections.parameters())) == 4
