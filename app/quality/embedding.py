"""Vectors. N rows, E width (the teacher's may be another), K pairs of rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.quality.bootstrap import Bootstrap, value_of
from app.quality.correlation import pearson, ranks, spearman, spearman_of, varied
from app.quality.result import Floats, Ints, Quality, finite, same_rows

_PAIRS = 5000  # of rows, whose cosines stand for all
_SEED = 0  # every model is asked about the same pairs


def evaluate(outputs: Any, targets: Any, teacher: Any, labels: Sequence[str], bootstrap: Bootstrap) -> Quality:
    """With targets: two arrays [N, E], of the first and the second text of N pairs, and the pairs' similarities [N].

    Without: one array [N, E] and the teacher's.

    spearman         rank correlation of cos(u, v) with the similarities (main with targets)
    pearson          linear correlation of the same
    fidelity         Spearman between the model's and the teacher's cosines: of the N pairs, or of a fixed sample of 5,000
                     pairs of rows (main without targets; there an interval draws rows, and with them their pairs)
    teacher_cosine   mean of cos(model, teacher) over the vectors, where the widths are equal
    uniformity       log mean exp(-2 |u - v|²) over the pairs; 0 when all vectors are the same (arXiv 2005.10242)
    A row's score is 1 - |rank - rank of the target| / (N - 1) with targets; else the mean of 1 - |cos - teacher's cos|
    over its pairs.
    A model for which all pairs are equally similar correlates 0 with everything.
    Raises ValueError for fewer than two pairs, vectors that are not finite, and targets that are all the same.
    """
    if targets is None:
        if teacher is None:
            raise ValueError("vectors need either similarities of pairs or a teacher to be held against")
        same_rows(outputs, teacher, "the teacher's answers")
        return _unlabelled(_unit(outputs), _unit(teacher), bootstrap)
    unit_2NE = _pairs(outputs, targets, "labels")
    theirs_2NE = None if teacher is None else _pairs(teacher, targets, "the teacher's answers")
    return _paired(unit_2NE, finite(targets, "the similarities hold"), theirs_2NE, bootstrap)


def _paired(unit_2NE: Floats, targets_N: Floats, teacher_2NE: Floats | None, bootstrap: Bootstrap) -> Quality:
    cosine_N = _pair_cosines(unit_2NE)
    varied(targets_N, "all similarities are the same")
    statistic = spearman_of(cosine_N, targets_N)
    rows = len(cosine_N)
    value = value_of(statistic, rows)
    fidelity, closeness = None, None
    if teacher_2NE is not None:
        fidelity = spearman(cosine_N, _pair_cosines(teacher_2NE))
        closeness = _teacher_cosine(unit_2NE, teacher_2NE)
    return Quality(
        metric="spearman",
        value=value,
        ci95=bootstrap.interval(statistic, rows),
        figures={
            "spearman": value,
            "pearson": pearson(cosine_N, targets_N),
            "fidelity": fidelity,
            "agreement": fidelity,
            "teacher_cosine": closeness,
            "uniformity": _uniformity(cosine_N),
        },
        per_class=[],
        row_score="agreement of ranks",
        scores_N=1 - np.abs(ranks(cosine_N) - ranks(targets_N)) / (rows - 1),
        right_N=None,
        statistic=statistic,
    )


def _unlabelled(unit_NE: Floats, teacher_NE: Floats, bootstrap: Bootstrap) -> Quality:
    rows = len(unit_NE)
    first_K, second_K = _sample_pairs(rows)
    cosine_K = (unit_NE[first_K] * unit_NE[second_K]).sum(axis=1)
    teacher_K = (teacher_NE[first_K] * teacher_NE[second_K]).sum(axis=1)
    varied(teacher_K, "the teacher finds all rows equally similar")
    statistic = spearman_of(cosine_K, teacher_K, pairs=(first_K, second_K))
    fidelity = value_of(statistic, rows)
    close_K = 1 - np.abs(cosine_K - teacher_K)
    of_K = np.concatenate([first_K, second_K])
    pairs_N = np.bincount(of_K, minlength=rows)
    sums_N = np.bincount(of_K, weights=np.concatenate([close_K, close_K]), minlength=rows)
    return Quality(
        metric="fidelity",
        value=fidelity,
        ci95=bootstrap.interval(statistic, rows),
        figures={
            "fidelity": fidelity,
            "agreement": fidelity,
            "teacher_cosine": _teacher_cosine(unit_NE, teacher_NE),
            "uniformity": _uniformity(cosine_K),
            "pairs": len(first_K),
        },
        per_class=[],
        row_score="closeness of cosines",
        scores_N=np.divide(sums_N, pairs_N, out=np.full(rows, np.nan), where=pairs_N > 0),
        right_N=None,
        statistic=statistic,
    )


def _sample_pairs(rows: int) -> tuple[Ints, Ints]:
    """All pairs i < j where they are few, else `_PAIRS` of them drawn without replacement."""
    total = rows * (rows - 1) // 2
    if total <= _PAIRS:
        first_K, second_K = np.triu_indices(rows, 1)
        return first_K, second_K
    number_K = np.sort(np.random.default_rng(_SEED).choice(total, size=_PAIRS, replace=False))
    # The pairs in order (0,1) (0,2) (1,2) (0,3) …: pair k has j the largest with j (j - 1) / 2 <= k.
    second_K = ((1 + np.sqrt(1 + 8 * number_K.astype(np.float64))) / 2).astype(np.int64)
    second_K -= second_K * (second_K - 1) // 2 > number_K  # the root was rounded up
    return number_K - second_K * (second_K - 1) // 2, second_K


def _unit(vectors: Any) -> Floats:
    found = finite(vectors)
    result: Floats = found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
    return result


def _pairs(vectors: Any, targets: Any, what: str) -> Floats:
    if len(vectors) == 2:
        first, second = vectors
        same_rows(first, targets, what)
        if np.shape(first) == np.shape(second) and np.ndim(first) == 2:
            return _unit(np.stack([first, second]))
    raise ValueError("pairs are two arrays of vectors, [rows, width] each")


def _pair_cosines(unit_2NE: Floats) -> Floats:
    result: Floats = (unit_2NE[0] * unit_2NE[1]).sum(axis=1)
    return result


def _teacher_cosine(unit: Floats, teacher: Floats) -> float | None:
    return float((unit * teacher).sum(axis=-1).mean()) if unit.shape == teacher.shape else None


def _uniformity(cosine_K: Floats) -> float:
    return float(np.log(np.exp(-4 * (1 - cosine_K)).mean()))  # |u - v|² = 2 - 2 cos
