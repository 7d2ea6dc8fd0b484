"""Entities and their F1 against the rules of the CoNLL evaluation script, written out label by label."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import quality
from app.quality.spans import Scheme, decode

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
Entity = tuple[str, int, int]


def _chunk_ends(before: str, now: str) -> bool:
    """conlleval's endOfChunk for B, I and O."""
    (tag, _, kind), (next_tag, _, next_kind) = before.partition("-"), now.partition("-")
    if tag == "O":
        return False
    return next_tag in ("B", "O") or kind != next_kind


def _chunk_starts(before: str, now: str) -> bool:
    """conlleval's startOfChunk for B, I and O."""
    (tag, _, kind), (next_tag, _, next_kind) = before.partition("-"), now.partition("-")
    if next_tag == "O":
        return False
    return next_tag == "B" or tag == "O" or kind != next_kind


def _entities(labels: list[str]) -> set[Entity]:
    found, start, before = set(), 0, "O"
    for n, now in enumerate([*labels, "O"]):
        if _chunk_ends(before, now):
            found.add((before[2:], start, n - 1))
        if _chunk_starts(before, now):
            start = n
        before = now
    return found


rows = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=8), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(rows)
def test_decoding(classes: list[list[int]]) -> None:
    row = np.repeat(np.arange(len(classes)), [len(c) for c in classes])
    start = np.concatenate([[0], np.cumsum([len(c) for c in classes])])
    scheme = Scheme.of(LABELS)
    spans = decode(np.concatenate(classes).astype(np.int64), row, scheme)
    found = {
        (int(row[a]), scheme.types[t], int(a - start[row[a]]), int(b - start[row[b]]))
        for a, b, t in zip(spans.first_M, spans.last_M, spans.type_M, strict=True)
    }
    assert found == {(n, *e) for n, c in enumerate(classes) for e in _entities([LABELS[k] for k in c])}


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(0, 2**32 - 1))
def test_f1_precision_recall_and_types(wanted: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = [[1, 2, 0], *wanted]  # at least one entity
    predicted = [[k if rng.random() < 0.7 else int(rng.integers(0, 5)) for k in row] for row in wanted]
    found = quality.evaluate("tokens", [np.eye(5)[row] for row in predicted], wanted, None, LABELS)
    truth = {(n, *e) for n, row in enumerate(wanted) for e in _entities([LABELS[k] for k in row])}
    guess = {(n, *e) for n, row in enumerate(predicted) for e in _entities([LABELS[k] for k in row])}
    hit = len(truth & guess)
    assert found.metric == "entity_f1"
    assert found.value == pytest.approx(2 * hit / (len(truth) + len(guess)))
    assert found.figures["entity_recall"] == pytest.approx(hit / len(truth))
    assert found.figures["entity_precision"] == pytest.approx(hit / len(guess) if guess else 0)
    for row in found.per_class:
        mine, theirs = ({e for e in side if e[1] == row["label"]} for side in (truth, guess))
        assert (row["support"], row["predicted"]) == (len(mine), len(theirs))
        assert row["f1"] == pytest.approx(2 * len(mine & theirs) / (len(mine) + len(theirs)) if mine or theirs else 0)
    flat = [(w, p) for ws, ps in zip(wanted, predicted, strict=True) for w, p in zip(ws, ps, strict=True)]
    assert found.figures["token_accuracy"] == pytest.approx(np.mean([w == p for w, p in flat]))
    assert [bool(r) for r in found.right_N] == [w == p for w, p in zip(wanted, predicted, strict=True)]  # type: ignore[arg-type]


def test_tokens_without_a_label_are_left_out_and_padding_makes_no_difference() -> None:
    """-100 stands on special tokens and on the second pieces of words: entities go on across them."""
    ragged = [[-100, 1, -100, 2, 0, -100], [-100, 3, -100]]
    answers = [np.eye(5)[[4, 1, 3, 2, 0, 1]], np.eye(5)[[2, 3, 0]]]
    found = quality.evaluate("tokens", answers, ragged, None, LABELS)
    assert (found.value, found.figures["tokens"], found.figures["entities"]) == (1.0, 4, 2)
    padded = np.full((2, 6), -100)
    logits = np.full((2, 6, 5), 7.0)
    for n, row in enumerate(ragged):
        padded[n, : len(row)], logits[n, : len(row)] = row, answers[n]
    assert quality.evaluate("tokens", logits, padded, None, LABELS).to_json() == found.to_json()
    in_a_line = np.concatenate(answers)
    assert quality.evaluate("tokens", in_a_line, ragged, None, LABELS).to_json() == found.to_json()


def test_labels_without_a_prefix_are_scored_by_token() -> None:
    found = quality.evaluate("tokens", [np.eye(3)[[0, 1, 1]], np.eye(3)[[2]]], [[0, 1, 2], [2]], None, ["NOUN", "VERB", "X"])
    assert (found.metric, found.value) == ("token_accuracy", 0.75)
    assert [c["label"] for c in found.per_class] == ["NOUN", "VERB", "X"]
    assert found.figures["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_agreement_is_over_labelled_tokens() -> None:
    wanted = [[-100, 1, 2, 0]]
    found = quality.evaluate("tokens", [np.eye(5)[[0, 1, 2, 0]]], wanted, [np.eye(5)[[4, 1, 2, 3]]], LABELS)
    assert found.figures["agreement"] == pytest.approx(2 / 3)
