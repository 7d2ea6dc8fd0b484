"""Masked tokens guessed. P masked positions of all rows, V vocabulary."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.quality.bootstrap import Bootstrap, mean_of
from app.quality.result import Floats, Quality, finite, log_softmax, logits, same_rows


def score(logits_PV: Any, tokens_P: Any) -> Floats:
    """[P, 3]: was the masked token the likeliest (0 or 1), its -log p in nats, and the likeliest token.

    What is kept of a batch's logits: those of all rows would fill the memory. A row without a masked token gives [0, 3].
    """
    wanted_P = np.asarray(tokens_P, dtype=np.int64)
    if len(logits_PV) != len(wanted_P):
        raise ValueError(f"{len(logits_PV)} answers for {len(wanted_P)} masked tokens")
    log_p_PV = log_softmax(logits(logits_PV))
    guess_P = log_p_PV.argmax(axis=1)
    return np.stack([guess_P == wanted_P, -log_p_PV[np.arange(len(wanted_P)), wanted_P], guess_P], axis=1).astype(np.float64)


def evaluate(outputs: Any, targets: Any, teacher: Any, labels: Sequence[str], bootstrap: Bootstrap) -> Quality:
    """`outputs` and `teacher`: what `score` says of the same masked positions, [P, 3], or without the guesses [P, 2]; no targets.

    mlm_accuracy        share of masked positions whose likeliest token is the masked one (main)
    nll                 mean of -log p of the masked token, in nats
    pseudo_perplexity   exp(nll): of tokens that were masked together, hence above that of one mask at a time (arXiv 1910.14659)
    agreement           share of masked positions with the teacher's likeliest token; None without guesses
    A row is a masked position. Raises ValueError for none of them, and figures that are not finite.
    """
    found_PF = finite(outputs)
    if len(found_PF) == 0:
        raise ValueError("there are no labelled rows to evaluate on: no position is masked")
    if found_PF.ndim != 2 or found_PF.shape[1] not in (2, 3):
        raise ValueError(f"masked positions have the shape [positions, 2 or 3], not {list(found_PF.shape)}")
    agreement = None
    if teacher is not None:
        same_rows(found_PF, teacher, "the teacher's answers")
        theirs_PF = finite(teacher)
        if found_PF.shape[1] == theirs_PF.shape[1] == 3:
            agreement = float((found_PF[:, 2] == theirs_PF[:, 2]).mean())
    right_P, nll = found_PF[:, 0], float(found_PF[:, 1].mean())
    statistic = mean_of(right_P)
    return Quality(
        metric="mlm_accuracy",
        value=float(right_P.mean()),
        ci95=bootstrap.interval(statistic, len(right_P)),
        figures={
            "mlm_accuracy": float(right_P.mean()),
            "nll": nll,
            "pseudo_perplexity": float(np.exp(min(nll, 700.0))),
            "agreement": agreement,
        },
        per_class=[],
        row_score="accuracy",
        scores_N=right_P,
        right_N=right_P > 0,
        statistic=statistic,
    )
