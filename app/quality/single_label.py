"""One label per row. N rows, C classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.quality import calibration
from app.quality.bootstrap import Bootstrap, mean_of
from app.quality.result import Ints, Quality, f1_row, finite, log_softmax, logits, macro_f1, names_of, same_rows


def evaluate(outputs: Any, targets: Any, teacher: Any, labels: Sequence[str], bootstrap: Bootstrap) -> Quality:
    """`outputs` and `teacher`: logits [N, C]; `targets`: class numbers [N].

    accuracy     share of rows with argmax z = y (main)
    macro_f1     mean over the classes that occur of 2 TP / (2 TP + FP + FN)
    ece          calibration error of the largest probability, 15 equal-width bins (arXiv 1706.04599)
    nll          mean of -log p_y, in nats
    agreement    share of rows with the teacher's argmax
    Raises ValueError for no rows, answers that are not finite, and labels the model does not know.
    """
    targets_N = np.asarray(targets, dtype=np.int64)
    same_rows(outputs, targets_N, "labels")
    logits_NC = logits(outputs)
    classes = logits_NC.shape[1]
    if targets_N.min() < 0 or targets_N.max() >= classes:
        raise ValueError(f"a label lies outside the model's {classes} classes")
    predicted_N, log_p_NC = logits_NC.argmax(axis=1), log_softmax(logits_NC)
    right_N = predicted_N == targets_N
    scores_N = right_N.astype(np.float64)
    table = _per_class(predicted_N, targets_N, names_of(labels, classes))
    bins = calibration.reliability(np.exp(log_p_NC.max(axis=1)), right_N)
    accuracy = float(scores_N.mean())
    statistic = mean_of(scores_N)
    agreement = None
    if teacher is not None:
        same_rows(outputs, teacher, "the teacher's answers")
        agreement = float((predicted_N == finite(teacher).argmax(axis=1)).mean())
    return Quality(
        metric="accuracy",
        value=accuracy,
        ci95=bootstrap.interval(statistic, len(scores_N)),
        figures={
            "accuracy": accuracy,
            "macro_f1": macro_f1(table),
            "ece": calibration.expected_error(bins),
            "nll": float(-log_p_NC[np.arange(len(targets_N)), targets_N].mean()),
            "agreement": agreement,
            "reliability": bins,
        },
        per_class=table,
        row_score="accuracy",
        scores_N=scores_N,
        right_N=right_N,
        statistic=statistic,
    )


def _per_class(predicted_N: Ints, targets_N: Ints, names: Sequence[str]) -> list[dict[str, Any]]:
    classes = len(names)
    support, predicted = np.bincount(targets_N, minlength=classes), np.bincount(predicted_N, minlength=classes)
    hit = np.bincount(targets_N[predicted_N == targets_N], minlength=classes)
    return [f1_row(name, int(hit[c]), int(support[c]), int(predicted[c])) for c, name in enumerate(names)]
