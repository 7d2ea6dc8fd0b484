"""Checks on the example data set in examples/support_intents."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[2] / "examples" / "support_intents"
SPLITS = ("train", "test")
MAX_SIMILARITY = 0.6


def _load(split: str) -> list[dict[str, str]]:
    text = (DATA / f"{split}.jsonl").read_bytes().decode("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, str]]]:
    return {split: [row for row in _load(split) if "label" in row] for split in SPLITS}


@pytest.fixture(scope="module")
def unlabelled() -> list[dict[str, str]]:
    return [row for row in _load("train") if "label" not in row]


def _folded(text: str) -> str:
    """Text without case, punctuation and extra space."""
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"['\u2019]", "", text.casefold())))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", text.lower()))


def _char_4grams(text: str) -> set[str]:
    text = text.lower()
    return {text[i : i + 4] for i in range(max(1, len(text) - 3))}


def _jaccard(left: list[set[str]], right: list[set[str]]) -> np.ndarray:
    """Jaccard similarity of every set in ``left`` with every set in ``right``."""
    index = {token: i for i, token in enumerate(sorted(set().union(*left, *right)))}

    def matrix(sets: list[set[str]]) -> np.ndarray:
        out = np.zeros((len(sets), len(index)), dtype=np.float32)
        for row, tokens in enumerate(sets):
            out[row, [index[token] for token in tokens]] = 1.0
        return out

    a, b = matrix(left), matrix(right)
    both = a @ b.T
    return both / (a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - both)


def test_counts(rows):
    assert sum(len(part) for part in rows.values()) >= 1500
    assert len(rows["test"]) >= 400
    labels = {split: Counter(row["label"] for row in part) for split, part in rows.items()}
    assert len(labels["train"]) >= 12
    assert set(labels["train"]) == set(labels["test"])
    assert min((labels["train"] + labels["test"]).values()) >= 125


@pytest.mark.parametrize("split", SPLITS)
def test_format(rows, split):
    for row in rows[split]:
        assert set(row) == {"text", "label"}
        assert isinstance(row["text"], str)
        assert isinstance(row["label"], str)
        assert row["text"] == row["text"].strip()
        assert _folded(row["text"])
        assert "\n" not in row["text"]
        assert len(row["text"].split()) <= 35
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row["label"])


def test_unlabelled_count_and_format(unlabelled):
    assert len(unlabelled) >= 1500
    for row in unlabelled:
        assert set(row) == {"text"}
        assert isinstance(row["text"], str)
        assert row["text"] == row["text"].strip()
        assert _folded(row["text"])
        assert "\n" not in row["text"]
        assert len(row["text"].split()) <= 35


def test_no_duplicates(rows, unlabelled):
    seen = Counter(_folded(row["text"]) for part in (*rows.values(), unlabelled) for row in part)
    assert [text for text, count in seen.items() if count > 1] == []


@pytest.mark.parametrize("other", ["train", "unlabelled"])
@pytest.mark.parametrize("tokens", [_words, _char_4grams], ids=["words", "char_4grams"])
def test_no_near_duplicates_of_test_messages(rows, unlabelled, tokens, other):
    test_texts = [row["text"] for row in rows["test"]]
    other_texts = [row["text"] for row in {**rows, "unlabelled": unlabelled}[other]]
    test_sets, other_sets = [tokens(text) for text in test_texts], [tokens(text) for text in other_texts]
    assert all(test_sets)
    assert all(other_sets)
    similarity = _jaccard(test_sets, other_sets)
    offenders = [(test_texts[i], other_texts[j], float(similarity[i, j])) for i, j in np.argwhere(similarity >= MAX_SIMILARITY)]
    assert offenders == []


def test_readme_states_the_counts(rows, unlabelled):
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    stated = {label: (int(train), int(test)) for label, train, test in re.findall(r"\| `(\w+)` \|.*\| (\d+) \| (\d+) \|", readme)}
    labels = {split: Counter(row["label"] for row in part) for split, part in rows.items()}
    assert stated == {name: (n, labels["test"][name]) for name, n in labels["train"].items()}
    assert f"{len(unlabelled):,} messages without a label" in readme
