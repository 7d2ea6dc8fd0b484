"""A number per row. N rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.quality.bootstrap import Bootstrap, value_of
from app.quality.correlation import pearson, spearman, spearman_of, varied
from app.quality.result import Floats, Quality, finite, same_rows


def evaluate(outputs: Any, targets: Any, teacher: Any, labels: Sequence[str], bootstrap: Bootstrap) -> Quality:
    """`outputs`, `targets` and `teacher`: numbers [N] or [N, 1].

    spearman     rank correlation with the targets, ties at their average rank; 0 when all answers are the same (main)
    pearson      linear correlation with the targets
    mse, mae     mean squared and mean absolute error, in the targets' units
    agreement    Spearman's correlation with the teacher's numbers
    A row's score is its absolute error: smaller is better.
    Raises ValueError for fewer than two rows, numbers that are not finite, and targets that are all the same.
    """
    same_rows(outputs, targets, "labels")
    answers_N, targets_N = _column(outputs), _column(targets, "the targets hold")
    varied(targets_N, "all targets are the same")
    statistic = spearman_of(answers_N, targets_N)
    if teacher is not None:
        same_rows(outputs, teacher, "the teacher's answers")
    error_N = answers_N - targets_N
    value = value_of(statistic, len(error_N))
    return Quality(
        metric="spearman",
        value=value,
        ci95=bootstrap.interval(statistic, len(error_N)),
        figures={
            "spearman": value,
            "pearson": pearson(answers_N, targets_N),
            "mse": float((error_N**2).mean()),
            "mae": float(np.abs(error_N).mean()),
            "agreement": None if teacher is None else spearman(answers_N, _column(teacher)),
        },
        per_class=[],
        row_score="absolute error",
        scores_N=np.abs(error_N),
        right_N=None,
        statistic=statistic,
    )


def _column(values: Any, what: str = "the model answers") -> Floats:
    found = finite(values, what)
    return found.reshape(len(found))
