"""Masked tokens guessed. N rows, P masked positions of one row, V vocabulary."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from app.quality.bootstrap import Bootstrap, ratio_of, value_of
from app.quality.result import Floats, Ints, Quality, finite, log_softmax


class Scored(NamedTuple):
    """A row's masked positions, small enough to keep where [P, V] logits are not: -log p of the token, and the likeliest one."""

    nll_P: Floats
    guess_P: Ints


def score(logits_PV: Any, targets_P: Any) -> Scored:
    """From logits [P, V] and the tokens that were masked, [P]."""
    wanted_P = np.asarray(targets_P, dtype=np.int64)
    log_p_PV = log_softmax(finite(logits_PV))
    return Scored(-log_p_PV[np.arange(len(wanted_P)), wanted_P], log_p_PV.argmax(axis=1))


def evaluate(outputs: Any, targets: Any, teacher: Any, labels: Sequence[str], bootstrap: Bootstrap) -> Quality:
    """Per row the masked tokens [P] as targets, and logits [P, V] or what `score` made of them. The same of the teacher.

    mlm_accuracy        share of masked positions whose likeliest token is the masked one (main)
    nll                 mean of -log p of the masked token, in nats
    pseudo_perplexity   exp(nll): of tokens that were masked together, hence above that of one mask at a time (arXiv 1910.14659)
    agreement           share of masked positions with the teacher's likeliest token
    Resamples draw whole rows, since positions of one row are not independent.
    Raises ValueError for no masked position, and logits that are not finite.
    """
    wanted = [np.asarray(row, dtype=np.int64) for row in targets]
    found = _scored(outputs, wanted)
    masked_N = np.array([len(row) for row in wanted], dtype=np.float64)
    if not masked_N.any():
        raise ValueError("no position is masked")
    hit_N = np.array([(row.guess_P == wanted_P).sum() for row, wanted_P in zip(found, wanted, strict=True)], dtype=np.float64)
    statistic = ratio_of(hit_N, masked_N)
    accuracy = value_of(statistic, len(wanted))
    nll = float(finite(np.concatenate([row.nll_P for row in found])).mean())
    agreement = None
    if teacher is not None:
        pairs = zip(found, _scored(teacher, wanted), strict=True)
        agreement = sum(int((own.guess_P == other.guess_P).sum()) for own, other in pairs) / float(masked_N.sum())
    return Quality(
        metric="mlm_accuracy",
        value=accuracy,
        ci95=bootstrap.interval(statistic, len(wanted)),
        figures={
            "mlm_accuracy": accuracy,
            "nll": nll,
            "pseudo_perplexity": float(np.exp(min(nll, 700.0))),
            "agreement": agreement,
            "positions": int(masked_N.sum()),
        },
        per_class=[],
        row_score="accuracy",
        scores_N=np.divide(hit_N, masked_N, out=np.full(len(wanted), np.nan), where=masked_N > 0),
        right_N=hit_N == masked_N,
        statistic=statistic,
    )


def _scored(outputs: Any, wanted: list[Ints]) -> list[Scored]:
    rows = [row if isinstance(row, Scored) else score(row, wanted_P) for row, wanted_P in zip(outputs, wanted, strict=True)]
    for n, (row, wanted_P) in enumerate(zip(rows, wanted, strict=True)):
        if len(row.guess_P) != len(wanted_P):
            raise ValueError(f"row {n + 1} has {len(row.guess_P)} answers for {len(wanted_P)} masked positions")
    return rows
