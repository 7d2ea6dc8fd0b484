"""A label per token. N rows, T tokens of one row, P labelled tokens of all rows, C classes, M entities."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.quality import calibration
from app.quality.bootstrap import Bootstrap, ratio_of, value_of
from app.quality.result import Bools, Floats, Ints, Quality, Statistic, f1_row, finite, log_softmax, macro_f1, names_of, same_rows
from app.quality.spans import Scheme, Spans, decode, same

IGNORED = -100


def evaluate(outputs: Any, targets: Any, teacher: Any, labels: Sequence[str], bootstrap: Bootstrap) -> Quality:
    """Per row class numbers [T], -100 where a token has no label, and logits [T, C], or those of all rows in one array [sum T, C].

    Both may be padded as well, [N, T] and [N, T, C].

    entity_f1        2 TP / (2 TP + FP + FN) over entities: right are bounds and type, after B-/I- decoding as in the CoNLL
                     evaluation (main); precision and recall likewise
    token_accuracy   share of labelled tokens with argmax z = y (main when no label begins with B- or I-)
    macro_f1         mean over entity types (else over classes) that occur
    ece, nll         of the labelled tokens, as for one label per row
    agreement        share of labelled tokens with the teacher's argmax
    A row's score is its token accuracy; resamples draw whole rows, since tokens of one row are not independent.
    Raises ValueError for no labelled token, answers that are not finite, and targets without any entity.
    """
    row_P, targets_P, logits_PC = _flat(outputs, targets, "labels")
    rows, classes = len(targets), logits_PC.shape[1]
    if targets_P.min() < 0 or targets_P.max() >= classes:
        raise ValueError(f"a label lies outside the model's {classes} classes")
    names = names_of(labels, classes)
    predicted_P, log_p_PC = logits_PC.argmax(axis=1), log_softmax(logits_PC)
    right_P = predicted_P == targets_P
    tokens_N, right_N = _per_row(row_P, rows), _per_row(row_P[right_P], rows)
    bins = calibration.reliability(np.exp(log_p_PC.max(axis=1)), right_P)
    agreement = (
        None
        if teacher is None
        else float((predicted_P == _flat(teacher, targets, "the teacher's answers")[2].argmax(axis=1)).mean())
    )
    scheme = Scheme.of(names)
    if scheme.types:
        figures, table, statistic = _entities(row_P, rows, predicted_P, targets_P, scheme)
        accuracy = {"token_accuracy": float(right_P.mean())}
    else:
        statistic = ratio_of(right_N, tokens_N)
        figures, table, accuracy = {"token_accuracy": float(right_P.mean())}, _classes(predicted_P, targets_P, names), {}
    metric = next(iter(figures))
    return Quality(
        metric=metric,
        value=figures[metric],
        ci95=bootstrap.interval(statistic, rows),
        figures={
            **figures,
            **accuracy,
            "macro_f1": macro_f1(table),
            "ece": calibration.expected_error(bins),
            "nll": float(-log_p_PC[np.arange(len(targets_P)), targets_P].mean()),
            "agreement": agreement,
            "tokens": len(targets_P),
            "reliability": bins,
        },
        per_class=table,
        row_score="token accuracy",
        scores_N=np.divide(right_N, tokens_N, out=np.full(rows, np.nan), where=tokens_N > 0),
        right_N=right_N == tokens_N,
        statistic=statistic,
    )


def _flat(outputs: Any, targets: Any, what: str) -> tuple[Ints, Ints, Floats]:
    """Row number, class and logits of every labelled token."""
    if isinstance(outputs, np.ndarray) and outputs.ndim == 2:
        ends = np.cumsum([len(row) for row in targets])
        if len(targets) and ends[-1] != len(outputs):
            raise ValueError(f"{len(outputs)} answers for {ends[-1]} tokens")
        outputs = np.split(outputs, ends[:-1])
    same_rows(outputs, targets, what)
    kept = [np.asarray(row) != IGNORED for row in targets]
    for n, (row_TC, kept_T) in enumerate(zip(outputs, kept, strict=True)):
        if len(row_TC) != len(kept_T):
            raise ValueError(f"row {n + 1} has {len(row_TC)} answers for {len(kept_T)} tokens")
    counts = [int(kept_T.sum()) for kept_T in kept]
    if not sum(counts):
        raise ValueError("there are no labelled tokens to evaluate on")
    logits_PC = finite(np.concatenate([np.asarray(row_TC)[kept_T] for row_TC, kept_T in zip(outputs, kept, strict=True)]))
    targets_P = np.concatenate([np.asarray(row, dtype=np.int64)[kept_T] for row, kept_T in zip(targets, kept, strict=True)])
    return np.repeat(np.arange(len(counts)), counts), targets_P, logits_PC


def _entities(
    row_P: Ints, rows: int, predicted_P: Ints, targets_P: Ints, scheme: Scheme
) -> tuple[dict[str, Any], list[dict[str, Any]], Statistic]:
    found, wanted = decode(predicted_P, row_P, scheme), decode(targets_P, row_P, scheme)
    if not len(wanted.first_M):
        raise ValueError("no entity is labelled in any row: entity F1 is not defined")
    hit_M = same(found, wanted)
    hit_N = _entities_per_row(row_P, rows, found, hit_M)
    both_N = _entities_per_row(row_P, rows, found) + _entities_per_row(row_P, rows, wanted)
    statistic = ratio_of(2 * hit_N, both_N)
    overall = f1_row("", int(hit_M.sum()), len(wanted.first_M), len(found.first_M))
    figures = {
        "entity_f1": value_of(statistic, rows),
        "entity_precision": overall["precision"],
        "entity_recall": overall["recall"],
        "entities": overall["support"],
    }
    kinds = len(scheme.types)
    hit, support, predicted = (np.bincount(t, minlength=kinds) for t in (found.type_M[hit_M], wanted.type_M, found.type_M))
    table = [f1_row(name, int(hit[k]), int(support[k]), int(predicted[k])) for k, name in enumerate(scheme.types)]
    return figures, table, statistic


def _entities_per_row(row_P: Ints, rows: int, spans: Spans, chosen_M: Bools | None = None) -> Floats:
    return _per_row(row_P[spans.first_M if chosen_M is None else spans.first_M[chosen_M]], rows)


def _classes(predicted_P: Ints, targets_P: Ints, names: Sequence[str]) -> list[dict[str, Any]]:
    count = len(names)
    hit = np.bincount(targets_P[predicted_P == targets_P], minlength=count)
    support, predicted = np.bincount(targets_P, minlength=count), np.bincount(predicted_P, minlength=count)
    return [f1_row(name, int(hit[c]), int(support[c]), int(predicted[c])) for c, name in enumerate(names)]


def _per_row(row_P: Ints, rows: int) -> Floats:
    return np.bincount(row_P, minlength=rows).astype(np.float64)
