"""Quality figures against values worked out by hand and against scikit-free references."""

import numpy as np
import pytest

from worker.evaluators.classification import Classification, by_length, calibration_error

NAMES = ["a", "b", "c", "d"]


def _logits(predicted: list[int], confidence: float = 0.9) -> np.ndarray:
    """Logits whose softmax is `confidence` on the predicted class and even on the rest."""
    p = np.full((len(predicted), 4), (1 - confidence) / 3)
    p[np.arange(len(predicted)), predicted] = confidence
    return np.log(p).astype(np.float32)


def test_figures_of_a_small_case() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    teacher = _logits([0, 0, 0, 1, 1, 2])
    found = Classification().evaluate(_logits([0, 0, 1, 1, 1, 0]), labels, NAMES, teacher)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["agreement"] == pytest.approx(4 / 6)
    f1 = {c["label"]: c["f1"] for c in found["per_class"]}
    assert f1 == pytest.approx({"a": 2 * 2 / (3 + 3), "b": 2 * 2 / (2 + 3), "c": 0.0, "d": 0.0})
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)  # d occurs nowhere and does not count
    assert found["ece"] == pytest.approx(abs(4 / 6 - 0.9), abs=1e-6)
    assert found["nll"] == pytest.approx(-(4 * np.log(0.9) + 2 * np.log(0.1 / 3)) / 6, rel=1e-5)


def test_the_interval_is_the_bootstraps_and_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, size=400)
    predicted = np.where(rng.random(400) < 0.8, labels, (labels + 1) % 4)
    evaluator = Classification(bootstrap=4000)
    found = evaluator.evaluate(_logits(list(predicted)), labels, NAMES, None)
    right = (predicted == labels).astype(float)
    resampled = np.array([rng.choice(right, size=400).mean() for _ in range(4000)])
    assert found["accuracy_ci95"] == pytest.approx(list(np.quantile(resampled, [0.025, 0.975])), abs=0.006)
    assert found["accuracy_ci95"] == evaluator.evaluate(_logits(list(predicted)), labels, NAMES, None)["accuracy_ci95"]
    assert found["agreement"] is None


def test_a_perfect_and_sure_model_is_calibrated() -> None:
    labels = np.arange(4)
    found = Classification().evaluate(50 * np.eye(4, dtype=np.float32), labels, NAMES, None)
    assert (found["accuracy"], found["accuracy_ci95"]) == (1.0, [1.0, 1.0])
    assert found["ece"] == pytest.approx(0, abs=1e-6)


def test_calibration_error_by_bins() -> None:
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])  # .95: half right; .6: all right
    assert calibration_error(p, labels, 10) == pytest.approx((2 * abs(0.5 - 0.95) + 2 * abs(1 - 0.6)) / 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_refused(bad: float) -> None:
    logits = _logits([0, 1])
    logits[1, 1] = bad
    with pytest.raises(ValueError, match="NaN or Inf"):
        Classification().evaluate(logits, np.array([0, 1]), NAMES, None)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no labelled rows"):
        Classification().evaluate(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), NAMES, None)


def test_length_buckets_hold_every_row_once() -> None:
    lengths = np.array([3, 3, 3, 3, 9, 9, 12, 20, 40])
    right = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1], dtype=bool)
    buckets = by_length(lengths, right)
    assert sum(b["rows"] for b in buckets) == 9
    assert [b["tokens"][1] for b in buckets] == sorted({b["tokens"][1] for b in buckets})
    assert buckets[0] == {"tokens": [1, 3], "rows": 4, "accuracy": 0.75}
    assert sum(b["rows"] * b["accuracy"] for b in buckets) == pytest.approx(6)
