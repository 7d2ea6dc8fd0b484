"""Any number of labels per row. N rows, C classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.quality import calibration
from app.quality.bootstrap import Bootstrap, ratio_of, value_of
from app.quality.result import Bools, Floats, Quality, f1_row, finite, logits, macro_f1, names_of, same_rows


def evaluate(outputs: Any, targets: Any, teacher: Any, labels: Sequence[str], bootstrap: Bootstrap) -> Quality:
    """`outputs` and `teacher`: logits [N, C]; `targets`: 0 or 1, [N, C]. A label is given where sigmoid(z) > 0.5.

    micro_f1                 2 TP / (2 TP + FP + FN) over all N · C decisions (main)
    macro_f1                 mean F1 of the labels that occur
    subset_accuracy          share of rows whose labels are all right
    mean_average_precision   mean over the labels that occur of sum_n (recall_n - recall_n-1) precision_n, from the logits
    ece                      calibration error of the N · C decisions at confidence max(p, 1 - p) (arXiv 1706.04599)
    nll                      mean binary cross-entropy per decision, in nats
    agreement                share of decisions that are the teacher's
    A row's score is its own F1: 1 where there is nothing to find and nothing is found.
    Raises ValueError for no rows, answers that are not finite, and targets without a single label.
    """
    same_rows(outputs, targets, "labels")
    logits_NC, targets_NC = logits(outputs), np.asarray(targets) > 0
    if logits_NC.shape != targets_NC.shape:
        raise ValueError(f"answers have the shape {logits_NC.shape}, labels {targets_NC.shape}")
    if not targets_NC.any():
        raise ValueError("no row has any label: F1 is not defined")
    predicted_NC = logits_NC > 0
    right_NC = predicted_NC == targets_NC
    hit_N = (predicted_NC & targets_NC).sum(axis=1).astype(np.float64)
    both_N = (predicted_NC.sum(axis=1) + targets_NC.sum(axis=1)).astype(np.float64)
    statistic = ratio_of(2 * hit_N, both_N)
    micro_f1 = value_of(statistic, len(hit_N))
    table = _per_label(logits_NC, predicted_NC, targets_NC, names_of(labels, logits_NC.shape[1]))
    confidence_NC = 1 / (1 + np.exp(-np.abs(logits_NC)))
    bins = calibration.reliability(confidence_NC.ravel(), right_NC.ravel())
    agreement = None
    if teacher is not None:
        same_rows(outputs, teacher, "the teacher's answers")
        agreement = float((predicted_NC == (finite(teacher) > 0)).mean())
    loss_NC = np.logaddexp(0, np.where(targets_NC, -logits_NC, logits_NC))
    return Quality(
        metric="micro_f1",
        value=micro_f1,
        ci95=bootstrap.interval(statistic, len(hit_N)),
        figures={
            "micro_f1": micro_f1,
            "macro_f1": macro_f1(table),
            "subset_accuracy": float(right_NC.all(axis=1).mean()),
            "mean_average_precision": float(np.mean([c["average_precision"] for c in table if c["support"]])),
            "ece": calibration.expected_error(bins),
            "nll": float(loss_NC.mean()),
            "agreement": agreement,
            "reliability": bins,
        },
        per_class=table,
        row_score="F1 of the row",
        scores_N=np.divide(2 * hit_N, both_N, out=np.ones_like(hit_N), where=both_N > 0),
        right_N=right_NC.all(axis=1),
        statistic=statistic,
    )


def average_precision(scores_N: Floats, relevant_N: Bools) -> float:
    """sum_n (recall_n - recall_n-1) precision_n over the distinct scores, highest first; rows of one score enter together."""
    order_N = np.argsort(-scores_N, kind="stable")
    last_N = np.append(np.diff(scores_N[order_N]) != 0, True)  # the end of a run of equal scores
    hit_K = np.cumsum(relevant_N[order_N])[last_N]
    precision_K = hit_K / (np.flatnonzero(last_N) + 1)
    return float((np.diff(hit_K, prepend=0) * precision_K).sum() / hit_K[-1])


def _per_label(logits_NC: Floats, predicted_NC: Bools, targets_NC: Bools, names: Sequence[str]) -> list[dict[str, Any]]:
    table = []
    for c, name in enumerate(names):
        row = f1_row(
            name,
            int((predicted_NC[:, c] & targets_NC[:, c]).sum()),
            int(targets_NC[:, c].sum()),
            int(predicted_NC[:, c].sum()),
        )
        found = average_precision(logits_NC[:, c], targets_NC[:, c]) if row["support"] else None
        table.append(row | {"average_precision": found})
    return table
