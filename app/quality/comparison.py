"""Two models on the same rows: is one better, and by how much. N rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.quality.bootstrap import Bootstrap
from app.quality.evaluation import Problem, evaluate
from app.quality.result import Quality


@dataclass(frozen=True)
class Difference:
    """Of the main metric, second - first; `significant` when the 95 % interval leaves out 0."""

    value: float
    ci95: tuple[float, float]

    @property
    def significant(self) -> bool:
        return not self.ci95[0] <= 0 <= self.ci95[1]

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "ci95": list(self.ci95), "significant": self.significant}


@dataclass(frozen=True)
class Comparison:
    """`agreement` as the problem defines it between a model and its teacher; shares of rows are None where no answer is right or
    wrong."""

    first: Quality
    second: Quality
    difference: Difference
    agreement: float | None
    only_first_right: float | None
    only_second_right: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.first.metric,
            "first": self.first.to_json(),
            "second": self.second.to_json(),
            "difference": self.difference.to_json(),
            "agreement": self.agreement,
            "only_first_right": self.only_first_right,
            "only_second_right": self.only_second_right,
            "rows": len(self.first),
        }


def compare(
    problem: Problem, a: Any, b: Any, targets: Any, labels: Sequence[str] = (), resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Answers `a` and `b` to the same rows; see `evaluate` for shapes. Raises ValueError."""
    if targets is None and problem != "masked_lm":
        raise ValueError("there are no labelled rows to compare on")
    first = evaluate(problem, a, targets, b, labels, resamples, seed)
    second = evaluate(problem, b, targets, a, labels, resamples, seed)
    only_first = only_second = None
    if first.right_N is not None and second.right_N is not None:
        only_first = float((first.right_N & ~second.right_N).mean())
        only_second = float((second.right_N & ~first.right_N).mean())
    found = difference(first, second, resamples, seed)
    return Comparison(first, second, found, first.figures["agreement"], only_first, only_second)


def difference(first: Quality, second: Quality, resamples: int = 1000, seed: int = 0) -> Difference:
    """second - first with a paired bootstrap over rows (Efron 1979): both are scored on the same draws.

    Raises ValueError for two qualities of different metrics or rows.
    """
    if first.metric != second.metric or len(first) != len(second):
        raise ValueError(f"{first.metric} of {len(first)} rows cannot be held against {second.metric} of {len(second)} rows")
    interval = Bootstrap(resamples, seed).difference(first.statistic, second.statistic, len(first))
    return Difference(second.value - first.value, interval)
