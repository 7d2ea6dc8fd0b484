"""Every figure against SciPy, scikit-learn or the definition written out in loops. No figure is checked against itself."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from app import quality
from app.quality.embedding import _sample_pairs
from app.quality.masked_lm import score

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_single_label(rng: np.random.Generator) -> None:
    targets, logits = rng.integers(0, 5, 400), rng.normal(size=(400, 5)).astype(np.float32)
    logits[np.arange(400), targets] += 1.5
    teacher = logits + rng.normal(size=logits.shape)
    found = quality.evaluate("single_label", logits, targets, teacher, NAMES)
    predicted = logits.argmax(1)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    assert found.value == metrics.accuracy_score(targets, predicted)
    assert found.figures["macro_f1"] == pytest.approx(metrics.f1_score(targets, predicted, average="macro"))
    assert found.figures["nll"] == pytest.approx(metrics.log_loss(targets, p))
    assert found.figures["agreement"] == (predicted == teacher.argmax(1)).mean()
    assert found.figures["ece"] == pytest.approx(_ece(p.max(1), predicted == targets))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(targets, predicted)
    for c, row in enumerate(found.per_class):
        assert row["label"] == NAMES[c]
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx([precision[c], recall[c], f1[c]])
        assert (row["support"], row["predicted"]) == (support[c], (predicted == c).sum())


def test_multi_label(rng: np.random.Generator) -> None:
    targets = (rng.random((300, 5)) < [0.5, 0.3, 0.1, 0.05, 0.02]).astype(int)
    logits = np.round(2 * targets - 1 + 1.5 * rng.normal(size=targets.shape), 1)  # rounded: equal scores occur
    teacher = logits + rng.normal(size=logits.shape)
    found = quality.evaluate("multi_label", logits, targets, teacher, NAMES)
    predicted = (1 / (1 + np.exp(-logits)) > 0.5).astype(int)
    p = 1 / (1 + np.exp(-logits))
    assert found.value == pytest.approx(metrics.f1_score(targets, predicted, average="micro"))
    assert found.figures["macro_f1"] == pytest.approx(metrics.f1_score(targets, predicted, average="macro"))
    assert found.figures["subset_accuracy"] == metrics.accuracy_score(targets, predicted)
    expected = metrics.average_precision_score(targets, logits, average=None)
    assert [c["average_precision"] for c in found.per_class] == pytest.approx(list(expected))
    assert found.figures["mean_average_precision"] == pytest.approx(expected.mean())
    assert found.figures["nll"] == pytest.approx(np.mean([metrics.log_loss(targets[:, c], p[:, c]) for c in range(5)]))
    assert found.figures["agreement"] == ((logits > 0) == (teacher > 0)).mean()
    sure = np.maximum(p, 1 - p).ravel()
    assert found.figures["ece"] == pytest.approx(_ece(sure, (predicted == targets).ravel()))
    both = targets.sum(1) + predicted.sum(1)
    rows = [metrics.f1_score(t, g) if n else 1.0 for t, g, n in zip(targets, predicted, both, strict=True)]
    assert found.scores_N == pytest.approx(rows)


def test_a_label_that_never_occurs_has_no_average_precision(rng: np.random.Generator) -> None:
    targets = np.array([[1, 0], [1, 0], [0, 0]])
    found = quality.evaluate("multi_label", np.array([[1.0, -1], [-1, -1], [-1, -1]]), targets, None, ["x", "never"])
    assert found.per_class[1]["average_precision"] is None
    assert found.figures["macro_f1"] == found.value == pytest.approx(2 / 3)


def test_regression_with_ties(rng: np.random.Generator) -> None:
    targets = np.round(rng.normal(size=200), 1)
    answers = np.round(targets + rng.normal(size=200), 1)
    teacher = np.round(answers + rng.normal(size=200), 1)
    found = quality.evaluate("regression", answers[:, None], targets, teacher)
    assert found.value == pytest.approx(stats.spearmanr(answers, targets).statistic)
    assert found.figures["pearson"] == pytest.approx(stats.pearsonr(answers, targets).statistic)
    assert found.figures["mse"] == pytest.approx(metrics.mean_squared_error(targets, answers))
    assert found.figures["mae"] == pytest.approx(metrics.mean_absolute_error(targets, answers))
    assert found.figures["agreement"] == pytest.approx(stats.spearmanr(answers, teacher).statistic)


def test_embedding_of_pairs(rng: np.random.Generator) -> None:
    vectors, gold = rng.normal(size=(150, 2, 8)), np.round(rng.random(150), 1)
    vectors[:, 1] += 3 * gold[:, None] * vectors[:, 0]
    teacher = vectors + 0.5 * rng.normal(size=vectors.shape)
    cosines, teachers = _cosines(vectors), _cosines(teacher)
    found = quality.evaluate("embedding", _both(vectors), gold, _both(teacher))
    assert found.metric == "spearman"
    assert found.value == pytest.approx(stats.spearmanr(cosines, gold).statistic)
    assert found.figures["pearson"] == pytest.approx(stats.pearsonr(cosines, gold).statistic)
    assert found.figures["fidelity"] == pytest.approx(stats.spearmanr(cosines, teachers).statistic)
    close = [_cosine(u, v) for u, v in zip(vectors.reshape(-1, 8), teacher.reshape(-1, 8), strict=True)]
    assert found.figures["teacher_cosine"] == pytest.approx(np.mean(close))
    apart = np.abs(stats.rankdata(cosines) - stats.rankdata(gold)) / 149
    assert found.scores_N == pytest.approx(1 - apart)


def test_embedding_without_labels_is_held_against_the_teacher_over_all_pairs(rng: np.random.Generator) -> None:
    teacher = rng.normal(size=(40, 12))
    vectors = teacher[:, :6] + 0.5 * rng.normal(size=(40, 6))
    found = quality.evaluate("embedding", vectors, None, teacher)
    pairs = [(i, j) for i in range(40) for j in range(i + 1, 40)]
    own = np.array([_cosine(vectors[i], vectors[j]) for i, j in pairs])
    theirs = np.array([_cosine(teacher[i], teacher[j]) for i, j in pairs])
    assert found.metric == "fidelity"
    assert found.value == pytest.approx(stats.spearmanr(own, theirs).statistic)
    assert found.figures["teacher_cosine"] is None  # the widths differ
    assert found.figures["pairs"] == len(pairs)
    apart = [np.linalg.norm(vectors[i] / np.linalg.norm(vectors[i]) - vectors[j] / np.linalg.norm(vectors[j])) for i, j in pairs]
    assert found.figures["uniformity"] == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(apart) ** 2))))
    of_first = [n for n, pair in enumerate(pairs) if 0 in pair]
    assert found.scores_N[0] == pytest.approx(np.mean(1 - np.abs(own - theirs)[of_first]))


def test_many_rows_are_sampled_in_distinct_pairs(rng: np.random.Generator) -> None:
    first, second = _sample_pairs(3000)
    assert len(first) == len(set(zip(first.tolist(), second.tolist(), strict=True))) == 5000
    assert (first >= 0).all()
    assert (first < second).all()
    assert (second < 3000).all()
    assert np.mean(np.concatenate([first, second])) == pytest.approx(1500, abs=50)  # no corner is preferred
    whole = _sample_pairs(101)
    assert len(set(zip(whole[0].tolist(), whole[1].tolist(), strict=True))) == 5000 < 101 * 50


def test_ranking(rng: np.random.Generator) -> None:
    grades = [rng.integers(0, 4, n) * (rng.random(n) < 0.4) for n in rng.integers(3, 40, 60)]
    scores = [g + 1.5 * rng.normal(size=len(g)) for g in grades]
    teacher = [np.round(s + rng.normal(size=len(s)), 1) for s in scores]
    found = quality.evaluate("ranking", scores, grades, teacher)
    kept = [n for n, g in enumerate(grades) if g.any()]
    assert len(kept) < 60, "the case of a group without a relevant document must occur"
    gain, reciprocal, precision, at_10 = [], [], [], []
    for n in kept:
        order = sorted(range(len(grades[n])), key=lambda d: -scores[n][d])
        relevant = grades[n] > 0
        gain.append(metrics.ndcg_score([grades[n]], [scores[n]], k=10))
        first = next(place for place, d in enumerate(order, 1) if relevant[d])
        reciprocal.append(1 / first if first <= 10 else 0)
        precision.append(metrics.average_precision_score(relevant, scores[n]))
        at_10.append(sum(relevant[d] for d in order[:10]) / relevant.sum())
    assert found.value == pytest.approx(np.mean(gain))
    assert found.figures["mrr_at_10"] == pytest.approx(np.mean(reciprocal))
    assert found.figures["map"] == pytest.approx(np.mean(precision))
    assert found.figures["recall_at_10"] == pytest.approx(np.mean(at_10))
    assert found.figures["groups"] == len(kept)
    taus = [stats.kendalltau(s, t).statistic for s, t in zip(scores, teacher, strict=True)]
    assert found.figures["rank_fidelity"] == pytest.approx(np.nanmean(taus))
    alone = quality.evaluate("ranking", scores, None, teacher)
    assert (alone.metric, alone.value) == ("rank_fidelity", pytest.approx(np.nanmean(taus)))


def test_masked_lm(rng: np.random.Generator) -> None:
    tokens = rng.integers(0, 30, 40)
    logits = rng.normal(size=(40, 30)) + 2 * np.eye(30)[tokens]
    teacher = logits + rng.normal(size=logits.shape)
    found = quality.evaluate("masked_lm", score(logits, tokens), None, score(teacher, tokens))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = metrics.log_loss(tokens, p, labels=range(30))
    assert 0.2 < found.value == metrics.accuracy_score(tokens, logits.argmax(1)) < 1
    assert found.figures["nll"] == pytest.approx(loss)
    assert found.figures["pseudo_perplexity"] == pytest.approx(np.exp(loss))
    assert found.figures["agreement"] == (logits.argmax(1) == teacher.argmax(1)).mean()
    without_guesses = quality.evaluate("masked_lm", score(logits, tokens)[:, :2], None, score(teacher, tokens)[:, :2])
    assert without_guesses.figures == {**found.figures, "agreement": None}


def _ece(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    error = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def _cosine(u: np.ndarray, v: np.ndarray) -> float:
    return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))


def _both(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return pairs[:, 0], pairs[:, 1]


def _cosines(pairs: np.ndarray) -> np.ndarray:
    return np.array([_cosine(u, v) for u, v in pairs])
