"""Documents put in an order, a group per query. N groups, D documents of one group."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.quality.bootstrap import Bootstrap, mean_of, value_of
from app.quality.correlation import kendall
from app.quality.result import Floats, Quality, finite, same_rows

DEPTH = 10


def evaluate(outputs: Any, targets: Any, teacher: Any, labels: Sequence[str], bootstrap: Bootstrap) -> Quality:
    """Per group scores [D] and, with targets, graded relevance [D] >= 0. Without targets a teacher's scores are the order.

    ndcg_at_10      sum over the first ten of rel_d / log2(1 + place_d), over the same of the ideal order (main; gains are the
                    grades themselves, as trec_eval has it)
    mrr_at_10       1 / place of the first relevant document, 0 beyond the tenth
    map             mean over the relevant documents of precision at their place
    recall_at_10    share of the relevant documents that are among the first ten; recall_at_1 likewise
    rank_fidelity   mean of Kendall's tau-b with the teacher's scores (main without targets)
    Documents of one score stand in the worst order, so that a model that cannot tell them apart gains nothing from theirs.
    Groups without a relevant document (without targets: where the teacher has no order) do not count; figures are means over
    the rest, and `groups` says how many. Raises ValueError for no such group, and scores that are not finite.
    """
    if targets is None:
        if teacher is None:
            raise ValueError("scores need either graded relevance or a teacher to be held against")
        return _unlabelled(outputs, teacher, bootstrap)
    same_rows(outputs, targets, "labels")
    found = [_group(scores, grades, n) for n, (scores, grades) in enumerate(zip(outputs, targets, strict=True))]
    names = ("ndcg_at_10", "mrr_at_10", "map", "recall_at_1", "recall_at_10")
    figures_NF = np.array(found, dtype=np.float64)
    counted_N = np.isfinite(figures_NF[:, 0])
    if not counted_N.any():
        raise ValueError("no group has a relevant document")
    means = dict(zip(names, np.nanmean(figures_NF, axis=0).tolist(), strict=True))
    scores_N = figures_NF[:, 0]
    fidelity = None if teacher is None else _fidelity(outputs, teacher)
    agreement = float(np.nanmean(fidelity)) if fidelity is not None and np.isfinite(fidelity).any() else None
    statistic = mean_of(scores_N)
    return Quality(
        metric="ndcg_at_10",
        value=means["ndcg_at_10"],
        ci95=bootstrap.interval(statistic, len(scores_N)),
        figures={**means, "rank_fidelity": agreement, "agreement": agreement, "groups": int(counted_N.sum())},
        per_class=[],
        row_score="nDCG@10",
        scores_N=scores_N,
        right_N=figures_NF[:, 1] == 1,
        statistic=statistic,
    )


def _unlabelled(outputs: Any, teacher: Any, bootstrap: Bootstrap) -> Quality:
    scores_N = _fidelity(outputs, teacher)
    if not np.isfinite(scores_N).any():
        raise ValueError("the teacher puts no group in any order")
    statistic = mean_of(scores_N)
    value = value_of(statistic, len(scores_N))
    return Quality(
        metric="rank_fidelity",
        value=value,
        ci95=bootstrap.interval(statistic, len(scores_N)),
        figures={"rank_fidelity": value, "agreement": value, "groups": int(np.isfinite(scores_N).sum())},
        per_class=[],
        row_score="Kendall's tau",
        scores_N=scores_N,
        right_N=None,
        statistic=statistic,
    )


def _group(scores: Any, grades: Any, number: int) -> tuple[float, ...]:
    """ndcg, mrr, map, recall at 1 and at 10; NaN without a relevant document."""
    scores_D, grades_D = finite(scores), finite(grades, "the grades hold")
    if scores_D.shape != grades_D.shape:
        raise ValueError(f"group {number + 1} has {scores_D.size} scores for {grades_D.size} documents")
    if (grades_D < 0).any():
        raise ValueError(f"group {number + 1} has a grade below 0")
    if not grades_D.any():
        return (float("nan"),) * 5
    ranked_D = grades_D[np.lexsort((grades_D, -scores_D))]
    place_M = np.flatnonzero(ranked_D > 0) + 1
    first = int(place_M[0])
    return (
        _dcg(ranked_D) / _dcg(np.sort(grades_D)[::-1]),
        1 / first if first <= DEPTH else 0.0,
        float((np.arange(1, len(place_M) + 1) / place_M).mean()),
        float((place_M <= 1).mean()),
        float((place_M <= DEPTH).mean()),
    )


def _dcg(grades_D: Floats) -> float:
    top = grades_D[:DEPTH]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


def _fidelity(outputs: Any, teacher: Any) -> Floats:
    same_rows(outputs, teacher, "the teacher's answers")
    found = []
    for n, (scores, wanted) in enumerate(zip(outputs, teacher, strict=True)):
        scores_D, wanted_D = finite(scores), finite(wanted, "the teacher answers")
        if scores_D.shape != wanted_D.shape:
            raise ValueError(f"group {n + 1} has {scores_D.size} scores, the teacher {wanted_D.size}")
        found.append(kendall(scores_D, wanted_D))
    return np.array(found)
