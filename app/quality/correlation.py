"""Pearson, Spearman and Kendall. N rows, D documents, R resamples."""

import numpy as np

from app.quality.bootstrap import value_of
from app.quality.result import Floats, Statistic


def spearman_of(x_N: Floats, y_N: Floats, pairs: tuple[np.ndarray, np.ndarray] | None = None) -> Statistic:
    """Spearman's rho: Pearson's r of the ranks, ties at their average rank, for rows drawn w times.

    A row drawn w times is w tied rows: with S the weight below a value and G the weight at it, its average rank is
    S + (G + 1) / 2. With `pairs` = (i, j), x and y belong to pairs of rows and a pair is drawn w_i w_j times.
    0 where all x are the same, NaN where all y are: who says nothing knows nothing, but what does not vary cannot be known.
    """
    rank_x, rank_y = _ranks_of(x_N), _ranks_of(y_N)

    def statistic(w_RN: Floats) -> Floats:
        if pairs is not None:
            w_RN = w_RN[:, pairs[0]] * w_RN[:, pairs[1]]
        return _weighted_pearson(rank_x(w_RN), rank_y(w_RN), w_RN)

    return statistic


def spearman(x_N: Floats, y_N: Floats) -> float | None:
    """None where it is not defined."""
    value = value_of(spearman_of(x_N, y_N), len(x_N))
    return value if np.isfinite(value) else None


def pearson(x_N: Floats, y_N: Floats) -> float:
    return float(_weighted_pearson(x_N[None], y_N[None], np.ones((1, len(x_N))))[0])


def ranks(x_N: Floats) -> Floats:
    """1 … N, ties at their average."""
    result: Floats = _ranks_of(x_N)(np.ones((1, len(x_N))))[0]
    return result


def kendall(x_D: Floats, y_D: Floats) -> float:
    """tau-b = (concordant - discordant) / sqrt(pairs not tied in x · pairs not tied in y) (Kendall 1945).

    NaN when y has no order to be kept; 0 when only x has none.
    """
    above = np.triu_indices(len(x_D), 1)
    sign_x = np.sign(x_D[:, None] - x_D[None, :])[above]
    sign_y = np.sign(y_D[:, None] - y_D[None, :])[above]
    untied_x, untied_y = np.count_nonzero(sign_x), np.count_nonzero(sign_y)
    if not untied_y:
        return float("nan")
    return float((sign_x * sign_y).sum() / np.sqrt(untied_x * untied_y)) if untied_x else 0.0


def varied(values: Floats, what: str) -> None:
    """ValueError where a correlation is not defined."""
    if len(values) < 2 or np.all(values == values[0]):
        raise ValueError(f"{what}: a correlation is not defined")


def _ranks_of(x_N: Floats) -> Statistic:
    order_N = np.argsort(x_N, kind="stable")
    _, starts_U, group_N = np.unique(x_N[order_N], return_index=True, return_inverse=True)
    value_N = np.empty_like(order_N)
    value_N[order_N] = group_N

    def ranked(w_RN: Floats) -> Floats:
        at_RU = np.add.reduceat(w_RN[:, order_N], starts_U, axis=1)
        rank_RU = np.cumsum(at_RU, axis=1) - at_RU + (at_RU + 1) / 2
        result: Floats = rank_RU[:, value_N]
        return result

    return ranked


def _weighted_pearson(x_RN: Floats, y_RN: Floats, w_RN: Floats) -> Floats:
    total_R1 = np.maximum(w_RN.sum(axis=1, keepdims=True), 1)  # 0 where no pair was drawn
    x_RN = x_RN - (w_RN * x_RN).sum(axis=1, keepdims=True) / total_R1
    y_RN = y_RN - (w_RN * y_RN).sum(axis=1, keepdims=True) / total_R1
    wx_RN = w_RN * x_RN
    covariance_R = (wx_RN * y_RN).sum(axis=1)
    spread_x_R, spread_y_R = (wx_RN * x_RN).sum(axis=1), (w_RN * y_RN * y_RN).sum(axis=1)
    unvaried_R = np.where(spread_y_R > 0, 0.0, np.nan)
    scale_R = np.sqrt(spread_x_R * spread_y_R)
    result: Floats = np.divide(covariance_R, scale_R, out=unvaried_R, where=scale_R > 0)
    return np.clip(result, -1, 1)
