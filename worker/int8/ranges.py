"""Constant scales for activations, measured on calibration rows.

R rows (real tokens), K inputs, N bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from worker.int8.error import Feed, open_session, real_rows
from worker.int8.values import Affine, Floats

_BINS = 2048
_TAIL = 1e-5  # share of values beyond each end of the percentile range
_AT_ONCE = 16  # tensors read in one pass: bounds the memory that a deep model needs
_FRACTIONS = np.linspace(0.2, 1.0, 81)


@dataclass
class Histogram:
    """Counts of a tensor's values over equal bins from `low` to `high`, which cover them all and zero."""

    low: float
    high: float
    counts_N: NDArray[np.int64]

    def ranges(self) -> dict[str, Affine]:
        """method → scale.

        max         from the smallest to the largest value: nothing is clipped
        mse         both bounds shrunk, each to the fraction of max's that gives the least mean squared error, where
                    error² = step² / 12 between the bounds (rounding) and (x - bound)² beyond them (clipping)
        percentile  from the 0.001st to the 99.999th of the values
        Sources: arXiv 1806.08342 section 3, 2004.09602 section 5. Which is best depends on the model: what a percentile
        clips are an encoder's few outlier dimensions, and they carry much. So the caller measures.
        """
        share_N = self.counts_N / max(1, self.counts_N.sum())
        edges = np.linspace(self.low, self.high, _BINS + 1)
        below_N = np.cumsum(share_N)
        first, last = int(np.searchsorted(below_N, _TAIL)), int(np.searchsorted(below_N, 1 - _TAIL))
        return {
            "max": Affine.covering(self.low, self.high),
            "mse": self._least_error(share_N, (edges[:-1] + edges[1:]) / 2),
            "percentile": Affine.covering(float(edges[first]), float(edges[min(last + 1, _BINS)])),
        }

    def _least_error(self, share_N: NDArray[np.float64], middle_N: NDArray[np.float64]) -> Affine:
        lows, highs = self.low * _FRACTIONS, self.high * _FRACTIONS
        clipped_low = [float((share_N * np.square(np.minimum(middle_N - low, 0))).sum()) for low in lows]
        clipped_high = [float((share_N * np.square(np.maximum(middle_N - high, 0))).sum()) for high in highs]
        steps = (highs[None, :] - lows[:, None]) / 255
        cost = np.square(steps) / 12 + np.array(clipped_low)[:, None] + np.array(clipped_high)[None, :]
        row, column = np.unravel_index(int(cost.argmin()), cost.shape)
        return Affine.covering(float(lows[row]), float(highs[column]))


def observe(path: Path, feeds: Sequence[Feed], names: Sequence[str], scratch: Path) -> dict[str, Histogram]:
    """What the named tensors of a float graph hold on these feeds; padding does not count. Two passes: bounds, counts."""
    found: dict[str, Histogram] = {}
    for start in range(0, len(names), _AT_ONCE):
        some = list(names[start : start + _AT_ONCE])
        model: Any = onnx.load(str(path))
        del model.graph.output[:]
        model.graph.output.extend([helper.make_empty_tensor_value_info(name) for name in some])
        scratch.write_bytes(model.SerializeToString())
        session = open_session(scratch)
        seen = {name: Histogram(0.0, 0.0, np.zeros(_BINS, np.int64)) for name in some}
        for feed in feeds:
            for name, values in zip(some, session.run(some, feed), strict=True):
                rows_RK: Floats = real_rows(values, feed["attention_mask"])
                seen[name].low = min(seen[name].low, float(rows_RK.min()))
                seen[name].high = max(seen[name].high, float(rows_RK.max()))
        for feed in feeds:
            for name, values in zip(some, session.run(some, feed), strict=True):
                rows_RK = real_rows(values, feed["attention_mask"])
                seen[name].counts_N += np.histogram(rows_RK, _BINS, (seen[name].low, seen[name].high))[0]
        found |= seen
    return found
