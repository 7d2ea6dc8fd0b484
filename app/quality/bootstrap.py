"""The percentile bootstrap over rows (Efron 1979): intervals of one metric, and of the difference of two models.

A resample draws N of N rows with replacement. It is represented by how often each row was drawn, so that a metric of all
resamples at once is arithmetic on a matrix of weights. N rows, R resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from app.quality.result import Floats, Statistic

_CELLS = 2**16  # weights held at a time: what a core's cache holds


@dataclass(frozen=True)
class Bootstrap:
    """`seed` decides the draws: two models over as many rows get the same ones, which is what pairs them."""

    resamples: int
    seed: int

    def interval(self, statistic: Statistic, rows: int) -> tuple[float, float] | None:
        """Quantiles .025 and .975 of the statistic; resamples in which it is not defined do not count. None for no resamples."""
        if not self.resamples:
            return None
        return _percentiles(np.concatenate([statistic(w_RN) for w_RN in self._weights(rows)]))

    def difference(self, first: Statistic, second: Statistic, rows: int) -> tuple[float, float]:
        """The same for second - first, both on the same draws."""
        return _percentiles(np.concatenate([second(w_RN) - first(w_RN) for w_RN in self._weights(rows)]))

    def _weights(self, rows: int) -> Iterator[Floats]:
        rng = np.random.default_rng(self.seed)
        at_once = max(1, _CELLS // rows)
        for start in range(0, self.resamples, at_once):
            count = min(at_once, self.resamples - start)
            drawn_RN = rng.integers(0, rows, size=(count, rows))
            drawn_RN += rows * np.arange(count)[:, None]
            yield np.bincount(drawn_RN.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)


def _percentiles(values_R: Floats) -> tuple[float, float]:
    defined = values_R[np.isfinite(values_R)]
    if not len(defined):
        raise ValueError("too few rows for an interval")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def mean_of(scores_N: Floats) -> Statistic:
    """sum w s / sum w; rows whose score is NaN have no weight."""
    counted_N = np.isfinite(scores_N)
    return ratio_of(np.where(counted_N, scores_N, 0.0), counted_N.astype(np.float64))


def ratio_of(above_N: Floats, below_N: Floats) -> Statistic:
    """sum w a / sum w b: F1, a mean over tokens, and whatever else is a ratio of sums over rows."""

    def statistic(w_RN: Floats) -> Floats:
        above_R, below_R = (w_RN @ np.stack([above_N, below_N], axis=1)).T
        result: Floats = np.divide(above_R, below_R, out=np.full_like(above_R, np.nan), where=below_R > 0)
        return result

    return statistic


def value_of(statistic: Statistic, rows: int) -> float:
    """The statistic of the rows themselves."""
    return float(statistic(np.ones((1, rows)))[0])
