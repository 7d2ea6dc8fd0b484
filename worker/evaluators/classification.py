"""Quality of a classifier from its logits: accuracy with an interval, F1, calibration, agreement with the teacher.

N rows, C classes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from worker.evaluators.base import Evaluator, Floats, Ints
from worker.plugins import PluginParams


class Classification(Evaluator):
    """Figures of one model on N labelled rows.

    accuracy       share of rows with argmax z = y; `accuracy_ci95` is the percentile bootstrap over rows (Efron 1979), which
                   for a mean of zeros and ones is a binomial draw: quantiles .025 and .975 of Binomial(N, accuracy) / N.
    f1_c           2 TP / (2 TP + FP + FN); 0 when the class is neither present nor predicted. macro_f1 averages over
                   the classes that occur among the rows or the predictions.
    ece            sum_b n_b / N |acc_b - conf_b| over equal-width bins of the largest probability (arXiv 1706.04599).
    nll            mean of -log p_y, in nats.
    agreement      share of rows with the teacher's argmax.
    Raises ValueError for no rows, or logits that are not finite.
    """

    name: ClassVar[str] = "classification"

    class Params(PluginParams):
        bins: int = Field(default=15, ge=2, le=1000)
        bootstrap: int = Field(default=2000, ge=100, description="Resamples for the interval.")
        seed: int = 0

    def evaluate(self, logits_NC: Floats, labels_N: Ints, names: Sequence[str], teacher_NC: Floats | None) -> dict[str, Any]:
        if len(labels_N) == 0:
            raise ValueError("there are no labelled rows to evaluate on")
        if not np.isfinite(logits_NC).all():
            raise ValueError("the model answers NaN or Inf")
        predicted_N = logits_NC.argmax(axis=1)
        log_p_NC = _log_softmax(logits_NC)
        accuracy = float((predicted_N == labels_N).mean())
        classes = per_class(predicted_N, labels_N, names)
        occurring = [c["f1"] for c in classes if c["support"] or c["predicted"]]
        return {
            "rows": len(labels_N),
            "accuracy": accuracy,
            "accuracy_ci95": self._interval(accuracy, len(labels_N)),
            "macro_f1": float(np.mean(occurring)),
            "ece": calibration_error(np.exp(log_p_NC), labels_N, self.params.bins),
            "nll": float(-log_p_NC[np.arange(len(labels_N)), labels_N].mean()),
            "agreement": None if teacher_NC is None else float((predicted_N == teacher_NC.argmax(axis=1)).mean()),
            "per_class": classes,
        }

    def _interval(self, accuracy: float, rows: int) -> list[float]:
        draws = np.random.default_rng(self.params.seed).binomial(rows, accuracy, size=self.params.bootstrap) / rows
        low, high = np.quantile(draws, [0.025, 0.975])
        return [float(low), float(high)]


def per_class(predicted_N: Ints, labels_N: Ints, names: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for c, name in enumerate(names):
        hit = int(((predicted_N == c) & (labels_N == c)).sum())
        support, predicted = int((labels_N == c).sum()), int((predicted_N == c).sum())
        f1 = 2 * hit / (support + predicted) if support + predicted else 0.0
        recall, precision = hit / support if support else 0.0, hit / predicted if predicted else 0.0
        found.append(
            {"label": name, "support": support, "predicted": predicted, "precision": precision, "recall": recall, "f1": f1}
        )
    return found


def calibration_error(probabilities_NC: NDArray[np.float64], labels_N: Ints, bins: int) -> float:
    """ECE with equal-width bins (l, r]; see Classification."""
    confidence_N = probabilities_NC.max(axis=1)
    right_N = probabilities_NC.argmax(axis=1) == labels_N
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    gaps = (abs(float(right_N[bin_N == b].sum()) - float(confidence_N[bin_N == b].sum())) for b in range(bins))
    return sum(gaps) / len(labels_N)


def by_length(lengths_N: Ints, right_N: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Accuracy for the shortest, middle and longest third of the rows, by tokens; ties stay in one bucket."""
    edges = np.unique(np.quantile(lengths_N, [1 / 3, 2 / 3, 1], method="lower"))
    buckets, below = [], 0
    for edge in edges:
        inside = (lengths_N > below) & (lengths_N <= edge)
        if inside.any():
            buckets.append({"tokens": [below + 1, int(edge)], "rows": int(inside.sum()), "accuracy": float(right_N[inside].mean())})
        below = int(edge)
    return buckets


def _log_softmax(logits_NC: Floats) -> NDArray[np.float64]:
    shifted = logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
