"""What every evaluation answers with, and the checks that all of them share. N rows, C classes, R resamples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# How often each row was drawn, [R, N] → the main metric of each resample, [R]; NaN where it is not defined.
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Quality:
    """One model on N rows. `figures` are JSON values, the main metric first.

    scores_N     what each row contributes, named by `row_score`; NaN for a row that has nothing to score
    right_N      rows answered exactly right; None where an answer is only more or less close
    statistic    the main metric as a function of row weights: `statistic(ones[1, N]) == [value]`
    """

    metric: str
    value: float
    ci95: tuple[float, float] | None
    figures: dict[str, Any]
    per_class: list[dict[str, Any]]
    row_score: str
    scores_N: Floats = field(repr=False)
    right_N: Bools | None = field(repr=False)
    statistic: Statistic = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores_N)

    def to_json(self) -> dict[str, Any]:
        ci95 = None if self.ci95 is None else list(self.ci95)
        shown = {"metric": self.metric, "value": self.value, "ci95": ci95, "rows": len(self), "row_score": self.row_score}
        return shown | self.figures | {f"{self.metric}_ci95": ci95, "per_class": self.per_class}


def finite(values: Any, what: str = "the model answers") -> Floats:
    """As float64; ValueError when empty, NaN or infinite."""
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{what} NaN or Inf")
    return found


def logits(values: Any) -> Floats:
    """[N, C]; ValueError for any other shape."""
    found = finite(values)
    if found.ndim != 2:
        raise ValueError(f"logits have the shape [rows, classes], not {list(found.shape)}")
    return found


def same_rows(outputs: Sequence[Any] | NDArray[Any], others: Sequence[Any] | NDArray[Any], what: str) -> None:
    """ValueError for no rows, and for two lists that do not belong together."""
    if len(outputs) == 0:
        raise ValueError("there are no labelled rows to evaluate on")
    if len(outputs) != len(others):
        raise ValueError(f"{len(outputs)} rows of answers, but {len(others)} of {what}")


def log_softmax(logits_NC: Floats) -> Floats:
    shifted = logits_NC - logits_NC.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def f1_row(label: str, hit: int, support: int, predicted: int) -> dict[str, Any]:
    """One line of a per-class table; a ratio with nothing below the line is 0."""
    return {
        "label": label,
        "support": support,
        "predicted": predicted,
        "precision": hit / predicted if predicted else 0.0,
        "recall": hit / support if support else 0.0,
        "f1": 2 * hit / (support + predicted) if support + predicted else 0.0,
    }


def macro_f1(classes: list[dict[str, Any]]) -> float:
    """Mean F1 of the classes that occur among the rows or the predictions."""
    return float(np.mean([c["f1"] for c in classes if c["support"] or c["predicted"]]))


def names_of(labels: Sequence[str], classes: int) -> Sequence[str]:
    if labels and len(labels) != classes:
        raise ValueError(f"{classes} classes are answered, but {len(labels)} labels are named")
    return labels or [str(c) for c in range(classes)]
