"""8-bit and 4-bit values: how far from the float ones, and what their sums cannot reach."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.int8.params import MatrixParams
from worker.int8.values import Affine, quantize_blocks, quantize_columns, quantize_rows

numbers = st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=64)


@given(numbers, st.booleans())
@settings(max_examples=80, deadline=None)
def test_rounding_is_at_most_half_a_step(values: list[float], reduce_range: bool) -> None:
    column = np.array(values, dtype=np.float32).reshape(-1, 1)
    whole, scale = quantize_columns(column, reduce_range)
    assert (np.abs(whole * scale.astype(np.float64) - column) <= scale * 0.501 + 1e-30).all()
    rows, row_scale = quantize_rows(column.T.copy())
    assert (np.abs(rows * row_scale.astype(np.float64) - column.T) <= row_scale * 0.501 + 1e-30).all()


@given(numbers)
@settings(max_examples=80, deadline=None)
def test_neighbouring_products_fit_sixteen_bits_with_reduced_range(values: list[float]) -> None:
    whole, _ = quantize_columns(np.array(values, dtype=np.float32).reshape(-1, 1), True)
    magnitudes = np.abs(np.append(whole.astype(int), [0] * (len(values) % 2)))
    assert 255 * int((magnitudes[0::2] + magnitudes[1::2]).max()) <= 2**15 - 1


def test_reduced_range_is_finer_than_seven_bits_and_coarser_than_eight() -> None:
    weight = np.random.default_rng(0).normal(size=(192, 64)).astype(np.float32)
    full, reduced = (quantize_columns(weight, r)[1] for r in (False, True))
    seven_bits = np.abs(weight).max(0) / 63
    assert (full <= reduced).all()
    assert (reduced <= seven_bits * 1.01).all()
    assert reduced.mean() < 0.75 * seven_bits.mean()


@pytest.mark.parametrize("quantize", [lambda w: quantize_columns(w, True), quantize_rows, lambda w: quantize_blocks(w, 4)])
def test_what_is_not_finite_is_refused(quantize: object) -> None:
    for bad in (np.nan, np.inf):
        weight = np.ones((4, 4), np.float32)
        weight[1, 2] = bad
        with pytest.raises(ValueError, match="NaN or Inf"):
            quantize(weight)  # type: ignore[operator]


def test_zeros_stay_zeros() -> None:
    zeros = np.zeros((4, 32), np.float32)
    assert not quantize_columns(zeros, True)[0].any()
    assert not quantize_rows(zeros)[0].any()
    packed, _ = quantize_blocks(zeros, 16)
    assert (packed == 8 + 16 * 8).all()


def _unpacked(packed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    codes = np.concatenate([packed & 15, packed >> 4], axis=2).astype(np.float64)
    return ((codes - 8) * scale).reshape(len(packed), -1)


@given(st.lists(st.floats(-100, 100, width=32), min_size=32, max_size=32))
@settings(max_examples=80, deadline=None)
def test_four_bits_round_to_half_a_step_except_at_the_far_end(values: list[float]) -> None:
    row = np.array(values, dtype=np.float32).reshape(1, 32)
    packed, scale = quantize_blocks(row, 16)
    steps = np.repeat(np.abs(scale.astype(np.float64)).reshape(-1), 16)
    off = np.abs(_unpacked(packed, scale)[0] - row[0])
    at_end = np.abs(row[0]) / steps > 7.4  # the largest of the other sign may be clipped by one step
    assert (off <= np.where(at_end, 1.02, 0.501) * steps + 1e-12).all()


def test_four_bits_are_as_near_as_the_best_of_sixteen_values() -> None:
    row = np.random.default_rng(1).normal(size=(1, 16)).astype(np.float32)
    packed, scale = quantize_blocks(row, 16)
    grid = (np.arange(16) - 8) * float(scale.reshape(()))
    nearest = grid[np.abs(row[0][:, None] - grid).argmin(1)]
    assert np.allclose(_unpacked(packed, scale)[0], nearest, atol=1e-7)


def test_four_bit_blocks_divide_the_width_and_small_tables_stay_eight_bit() -> None:
    params = MatrixParams(tables="int4")
    assert [params.table_block(30_000, width) for width in (192, 384, 312, 768)] == [32, 32, 26, 32]
    assert params.table_block(30_000, 2 * 131) is None  # no even divisor near 32
    assert params.table_block(512, 384) is None
    assert MatrixParams().table_block(30_000, 384) is None


@given(st.floats(-50, 50), st.floats(-50, 50))
@settings(max_examples=80, deadline=None)
def test_a_range_holds_zero_exactly_and_its_ends_to_a_step(a: float, b: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    affine = Affine.covering(low, high)
    ends = affine.rounded(np.array([0.0, low, high], np.float32))
    assert ends[0] == 0
    assert np.abs(ends[1:] - [low, high]).max() <= affine.scale * 1.01
