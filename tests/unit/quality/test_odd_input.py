"""What is refused, and what a collapsed or silent model gets."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import quality
from app.quality import by_length
from app.quality.masked_lm import score

ROOT = Path(__file__).parents[3]
GOOD: dict[quality.Problem, tuple[Any, Any]] = {
    "single_label": (np.eye(3), np.array([0, 1, 1])),
    "multi_label": (2 * np.eye(3) - 1, np.eye(3)),
    "regression": (np.array([1.0, 2, 4]), np.array([1.0, 3, 2])),
    "tokens": ([np.eye(3)[[0, 1]], np.eye(3)[[2]], np.eye(3)[[1]]], [[0, 1], [2], [-100]]),
    "embedding": (tuple(np.random.default_rng(0).normal(size=(2, 3, 4))), np.array([0.1, 0.9, 0.5])),
    "ranking": ([np.array([0.3, 0.1]), np.array([0.5]), np.array([2.0, 1])], [[1, 0], [2], [0, 1]]),
    "masked_lm": (score(np.eye(3), [0, 2, 1]), None),
}


@pytest.mark.parametrize("problem", quality.PROBLEMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_refused(problem: quality.Problem, bad: float) -> None:
    outputs, targets = GOOD[problem]
    spoilt = [np.array(row, dtype=float, ndmin=1) for row in outputs]
    spoilt[1].reshape(-1)[0] = bad
    outputs = tuple(spoilt) if problem == "embedding" else spoilt
    with pytest.raises(ValueError, match="NaN or Inf"):
        quality.evaluate(problem, outputs, targets)


@pytest.mark.parametrize("problem", quality.PROBLEMS)
def test_no_rows_are_refused(problem: quality.Problem) -> None:
    with pytest.raises(ValueError, match="no labelled rows"):
        quality.evaluate(problem, ([], []) if problem == "embedding" else [], [])


@pytest.mark.parametrize("problem", quality.PROBLEMS)
def test_rows_that_do_not_belong_together_are_refused(problem: quality.Problem) -> None:
    outputs, targets = GOOD[problem]
    fewer = tuple(part[:2] for part in outputs) if problem == "embedding" else outputs[:2]
    if problem != "masked_lm":
        with pytest.raises(ValueError, match="3 rows of answers, but 2 of labels"):
            quality.evaluate(problem, outputs, targets[:2])
        with pytest.raises(ValueError, match="2 rows of answers, but 3 of"):
            quality.evaluate(problem, fewer, targets)
    with pytest.raises(ValueError, match="rows of answers, but"):
        quality.evaluate(problem, outputs, targets, fewer)


@pytest.mark.parametrize("problem", quality.PROBLEMS)
def test_every_quality_is_json_with_the_keys_that_all_share(problem: quality.Problem) -> None:
    outputs, targets = GOOD[problem]
    shown = quality.evaluate(problem, outputs, targets, outputs).to_json()
    json.dumps(shown, allow_nan=False)
    assert list(shown)[:4] == ["metric", "value", "ci95", "rows"]
    assert shown[shown["metric"]] == shown["value"]
    assert shown[f"{shown['metric']}_ci95"] == shown["ci95"]
    assert shown["agreement"] == pytest.approx(1.0)
    assert {"per_class", "rows"} <= shown.keys()


@pytest.mark.parametrize(
    ("problem", "outputs", "targets", "said"),
    [
        ("single_label", np.eye(3), [0, 1, 3], "outside the model's 3 classes"),
        ("single_label", np.eye(3), [0, -1, 2], "outside the model's 3 classes"),
        ("single_label", np.zeros(3), [0, 0, 0], r"\[rows, classes\]"),
        ("multi_label", np.eye(3), np.zeros((3, 3)), "no row has any label"),
        ("multi_label", np.eye(3), np.ones((3, 2)), "shape"),
        ("regression", [1.0, 2, 3], [5.0, 5, 5], "all targets are the same"),
        ("regression", [2.0], [5.0], "not defined"),
        ("regression", [1.0, 2], [np.nan, 1.0], "targets hold NaN"),
        ("tokens", [np.eye(3)], [[-100, -100, -100]], "no labelled tokens"),
        ("tokens", [np.eye(3)], [[0, 1]], "row 1 has 3 answers for 2 tokens"),
        ("tokens", [np.eye(3)], [[0, 1, 7]], "outside"),
        ("embedding", np.ones((3, 4)), [1.0, 2, 3], "two arrays"),
        ("embedding", (np.ones((3, 4)), np.ones((3, 5))), [1.0, 2, 3], "two arrays"),
        ("embedding", (np.eye(3), np.eye(3)), [1.0, 1, 1], "similarities are the same"),
        ("embedding", (np.eye(3), np.eye(3)), [1.0, 1], "3 rows of answers, but 2"),
        ("ranking", [[1.0, 2]], [[0, 0]], "no group has a relevant"),
        ("ranking", [[1.0, 2]], [[0, 1, 0]], "2 scores for 3 documents"),
        ("ranking", [[1.0, 2]], [[-1, 1]], "below 0"),
        ("tokens", np.eye(3), [[0, 1], [2, 2]], "3 answers for 4 tokens"),
        ("masked_lm", np.zeros((0, 3)), None, "no position"),
        ("masked_lm", np.zeros((4, 5)), None, r"\[positions, 2 or 3\]"),
    ],
)
def test_what_cannot_be_measured_says_why(problem: quality.Problem, outputs: Any, targets: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        quality.evaluate(problem, outputs, targets)


def test_entities_must_occur() -> None:
    with pytest.raises(ValueError, match="no entity"):
        quality.evaluate("tokens", [np.eye(3)], [[0, 0, 0]], None, ["O", "B-X", "I-X"])


def test_labels_must_be_as_many_as_classes() -> None:
    with pytest.raises(ValueError, match="3 classes are answered, but 2 labels"):
        quality.evaluate("single_label", np.eye(3), [0, 1, 2], None, ["a", "b"])


def test_vectors_and_scores_need_something_to_be_held_against() -> None:
    for problem in ("embedding", "ranking"):
        with pytest.raises(ValueError, match="or a teacher"):
            quality.evaluate(problem, [[1.0, 2.0], [2.0, 1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no labelled rows"):
        quality.evaluate("single_label", np.eye(3))
    with pytest.raises(ValueError, match="no labelled rows"):
        quality.compare("embedding", np.eye(3), np.eye(3), None)


def test_a_ranker_that_cannot_tell_documents_apart_gains_nothing_from_their_order() -> None:
    first, last = [[1.0] * 4], [[1, 0, 0, 0]]
    found = quality.evaluate("ranking", first, last, [[4.0, 3, 2, 1]])
    assert found.value == pytest.approx(1 / np.log2(5))  # as if the relevant document came fourth
    assert found.figures["mrr_at_10"] == found.figures["map"] == 0.25
    assert found.figures["rank_fidelity"] == 0.0
    assert found.value == quality.evaluate("ranking", first, [[0, 0, 0, 1]]).value


def test_a_teacher_without_an_opinion_gives_no_agreement() -> None:
    assert quality.evaluate("regression", [1.0, 2, 3], [1.0, 2, 4], [7.0, 7, 7]).figures["agreement"] is None
    found = quality.evaluate("ranking", [[1.0, 2]], [[0, 1]], [[3.0, 3]])
    assert found.figures["rank_fidelity"] is None
    with pytest.raises(ValueError, match="no group in any order"):
        quality.evaluate("ranking", [[1.0, 2]], None, [[3.0, 3]])


def test_huge_losses_stay_json() -> None:
    found = quality.evaluate("masked_lm", score([[0.0, 5000.0]], [0]))
    assert found.figures["nll"] == 5000
    json.dumps(found.to_json(), allow_nan=False)


def test_a_row_without_a_masked_token_scores_nothing() -> None:
    assert score(np.zeros((0, 7)), []).shape == (0, 3)
    with pytest.raises(ValueError, match="2 answers for 1 masked"):
        score(np.zeros((2, 7)), [3])


def test_a_model_that_says_the_same_of_everything_correlates_with_nothing() -> None:
    found = quality.evaluate("regression", [2.0, 2, 2], [5.0, 6, 7], [1.0, 2, 3])
    assert (found.value, found.ci95, found.figures["agreement"]) == (0.0, (0.0, 0.0), 0.0)
    collapsed = np.ones((5, 4))
    teacher = np.random.default_rng(0).normal(size=(5, 4))
    found = quality.evaluate("embedding", collapsed, None, teacher)
    assert (found.value, found.figures["uniformity"]) == (0.0, pytest.approx(0.0))
    with pytest.raises(ValueError, match="teacher finds all rows equally similar"):
        quality.evaluate("embedding", teacher, None, collapsed)


def test_length_buckets_hold_every_scored_row_once() -> None:
    lengths = np.array([3, 3, 3, 3, 9, 9, 12, 20, 40, 2])
    scores = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1, np.nan])
    buckets = by_length(lengths, scores)
    assert sum(b["rows"] for b in buckets) == 9
    assert [b["tokens"][1] for b in buckets] == sorted({b["tokens"][1] for b in buckets})
    assert buckets[0] == {"tokens": [1, 3], "rows": 4, "score": 0.75}
    assert sum(b["rows"] * b["score"] for b in buckets) == pytest.approx(6)


def test_nothing_but_numpy_is_loaded() -> None:
    code = """
import sys, app.quality
third = {n.split(".")[0] for n in sys.modules} & {"torch", "scipy", "sklearn", "pydantic", "sqlalchemy", "transformers"}
assert "numpy" in sys.modules and not third, third
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
