"""Bootstrap intervals and comparisons against resampling done row by row, and against what a known law predicts."""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from app import quality
from app.quality.masked_lm import score

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def _case(problem: quality.Problem, rows: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """(answers of a model, of a better one, targets)."""
    rng = np.random.default_rng(seed)

    def noisy(right: Callable[[int], np.ndarray], shapes: list[tuple[int, ...]], noise: float) -> list[np.ndarray]:
        return [right(n) + noise * rng.normal(size=shape) for n, shape in enumerate(shapes)]

    match problem:
        case "single_label":
            y = rng.integers(0, 4, rows)
            return *(np.array(noisy(lambda n: 3 * np.eye(4)[y[n]], [(4,)] * rows, s)) for s in (2.5, 1.5)), y
        case "multi_label":
            y = (rng.random((rows, 4)) < 0.3).astype(int)
            return *(np.array(noisy(lambda n: 2 * y[n] - 1, [(4,)] * rows, s)) for s in (1.5, 0.7)), y
        case "regression":
            y = np.round(rng.normal(size=rows), 1)
            return *(np.array(noisy(lambda n: y[n], [()] * rows, s)) for s in (1.0, 0.5)), y
        case "tokens":
            t = [rng.integers(0, 5, n) for n in rng.integers(1, 9, rows)]
            return *(noisy(lambda n: 3 * np.eye(5)[t[n]], [(len(x), 5) for x in t], s) for s in (1.5, 1.0)), t
        case "embedding":
            y = np.round(rng.random(rows), 1)
            v = rng.normal(size=(rows, 2, 6))
            v[:, 1] += 2 * y[:, None] * v[:, 0]
            first, second = (v + s * rng.normal(size=v.shape) for s in (1.5, 0.3))
            return (first[:, 0], first[:, 1]), (second[:, 0], second[:, 1]), y
        case "ranking":
            t = [rng.integers(0, 3, n) for n in rng.integers(2, 12, rows)]
            return *(noisy(lambda n: t[n], [x.shape for x in t], s) for s in (2.0, 0.8)), t
        case "masked_lm":
            y = rng.integers(0, 9, rows)
            return *(score(np.array(noisy(lambda n: 3 * np.eye(9)[y[n]], [(9,)] * rows, s)), y) for s in (2.5, 1.5)), None


def _take(values: Any, rows: np.ndarray) -> Any:
    if values is None or isinstance(values, tuple):
        return values and tuple(v[rows] for v in values)
    return values[rows] if isinstance(values, np.ndarray) else [values[r] for r in rows]


def _evaluate(problem: quality.Problem, outputs: Any, targets: Any, resamples: int = 400) -> quality.Quality:
    return quality.evaluate(problem, outputs, targets, None, LABELS if problem == "tokens" else (), resamples)


@pytest.mark.parametrize("problem", quality.PROBLEMS)
def test_a_weighted_statistic_is_the_metric_of_the_rows_drawn(problem: quality.Problem) -> None:
    """The heart of the bootstrap: weights say how often a row was drawn; doing the draw must give the same number."""
    answers, _, targets = _case(problem, 50)
    found = _evaluate(problem, answers, targets)
    rng = np.random.default_rng(1)
    assert found.statistic(np.ones((1, 50)))[0] == pytest.approx(found.value, abs=1e-12)
    for _ in range(5):
        rows = rng.integers(0, 50, 50)
        weights = np.bincount(rows, minlength=50).astype(float)[None]
        assert found.statistic(weights)[0] == pytest.approx(
            _evaluate(problem, _take(answers, rows), _take(targets, rows)).value, abs=1e-12
        )


def test_fidelity_draws_rows_and_with_them_their_pairs() -> None:
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(12, 5))
    vectors = teacher + rng.normal(size=teacher.shape)
    found = quality.evaluate("embedding", vectors, None, teacher)
    rows = rng.integers(0, 12, 12)
    own, theirs = [], []
    for a in range(12):
        for b in range(a + 1, 12):
            i, j = rows[a], rows[b]
            if i != j:  # a row drawn twice makes no pair with itself
                own.append(vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j]))
                theirs.append(teacher[i] @ teacher[j] / np.linalg.norm(teacher[i]) / np.linalg.norm(teacher[j]))
    own_ranks, their_ranks = (stats.rankdata(np.round(x, 12)) for x in (own, theirs))
    weights = np.bincount(rows, minlength=12).astype(float)[None]
    assert found.statistic(weights)[0] == pytest.approx(np.corrcoef(own_ranks, their_ranks)[0, 1])


@pytest.mark.parametrize("problem", quality.PROBLEMS)
def test_the_interval_is_that_of_resampling_row_by_row(problem: quality.Problem) -> None:
    answers, _, targets = _case(problem, 80)
    found = _evaluate(problem, answers, targets)
    rng = np.random.default_rng(5)
    resampled = []
    for _ in range(150):
        rows = rng.integers(0, 80, 80)
        once = _evaluate(problem, _take(answers, rows), _take(targets, rows), resamples=0)
        assert once.ci95 is None
        resampled.append(once.value)
    spread = float(np.std(resampled))
    expected = np.quantile(resampled, [0.025, 0.975])
    assert found.ci95 == pytest.approx(tuple(expected), abs=0.7 * spread)
    assert found.ci95 is not None
    assert found.ci95[0] < found.value < found.ci95[1]
    assert found.ci95 == _evaluate(problem, answers, targets).ci95


def test_the_interval_of_a_share_is_the_binomial_s() -> None:
    right = np.arange(1000) < 800
    answers = np.eye(2)[np.where(right, 0, 1)]
    found = quality.evaluate("single_label", answers, np.zeros(1000, int), resamples=5000)
    assert found.ci95 == pytest.approx(tuple(stats.binom.ppf([0.025, 0.975], 1000, 0.8) / 1000), abs=0.002)


@pytest.mark.parametrize("problem", quality.PROBLEMS)
def test_the_better_model_is_found_better(problem: quality.Problem) -> None:
    worse, better, targets = _case(problem, 200)
    labels = LABELS if problem == "tokens" else ()
    found = quality.compare(problem, worse, better, targets, labels)
    assert found.difference.value == pytest.approx(found.second.value - found.first.value)
    assert found.difference.ci95[0] < found.difference.value < found.difference.ci95[1]
    assert found.difference.significant
    same = quality.compare(problem, worse, worse, targets, labels)
    assert (same.difference.value, same.difference.ci95, same.difference.significant) == (0.0, (0.0, 0.0), False)
    assert same.agreement == pytest.approx(1.0)
    if found.first.right_N is None:
        assert (found.only_first_right, found.only_second_right) == (None, None)
    else:
        assert found.only_second_right > found.only_first_right >= 0  # type: ignore[operator]
        assert (same.only_first_right, same.only_second_right) == (0.0, 0.0)
    mirrored = quality.compare(problem, better, worse, targets, labels)
    assert mirrored.difference.value == -found.difference.value
    assert mirrored.difference.ci95 == pytest.approx((-found.difference.ci95[1], -found.difference.ci95[0]))
    json.dumps(found.to_json(), allow_nan=False)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    """Two models that fail on nearly the same rows: their intervals overlap widely, the paired difference is still sure."""
    targets = np.zeros(1000, int)
    first, second = np.eye(2)[(np.arange(1000) < 300).astype(int)], np.eye(2)[(np.arange(1000) < 290).astype(int)]
    found = quality.compare("single_label", first, second, targets)
    assert found.second.ci95[0] < found.first.value
    assert found.difference.significant
    assert (found.only_first_right, found.only_second_right) == (0.0, 0.01)
    ones = stats.binom.ppf([0.025, 0.975], 1000, 0.01) / 1000
    assert found.difference.ci95 == pytest.approx(tuple(ones), abs=0.002)


def test_intervals_are_quick() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=3000)
    began = time.perf_counter()
    quality.evaluate("regression", x + rng.normal(size=3000), x)
    assert time.perf_counter() - began < 1.0  # 0.1 alone; the machine that runs the tests is busy
