"""Labelled words become entities, as conlleval counts them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.serving.entities import pack, read

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def packed(labels: list[int], scores: list[float], classes: int) -> tuple[bytes, str]:
    """Words `w0 w1 …`, each with its label at the given probability and the rest shared by the others."""
    text = " ".join(f"w{n}" for n in range(len(labels)))
    places, at = [], 0
    for n in range(len(labels)):
        places.append((n + 1, at, at + len(f"w{n}")))
        at += len(f"w{n}") + 1
    rest = (1 - np.array(scores, np.float32)) / np.float32(max(1, classes - 1))
    probabilities = np.repeat(rest[:, None], classes, axis=1)
    probabilities[np.arange(len(labels)), labels] = scores
    return pack(probabilities, np.array(places, np.int32).reshape(-1, 3)), text


def found(names: list[str], labels: tuple[str, ...] = LABELS) -> list[tuple[str, str]]:
    payload, text = packed([labels.index(name) for name in names], [0.9] * len(names), len(labels))
    return [(entity["label"], entity["text"]) for entity in read(payload, labels, text)]


def test_b_begins_i_goes_on_and_o_ends() -> None:
    assert found(["O", "B-PER", "I-PER", "O", "B-LOC"]) == [("PER", "w1 w2"), ("LOC", "w4")]
    assert found(["B-PER", "B-PER", "I-PER"]) == [("PER", "w0"), ("PER", "w1 w2")]
    assert found(["I-PER", "I-PER", "O", "I-PER"]) == [("PER", "w0 w1"), ("PER", "w3")]
    assert found(["B-PER", "I-LOC", "I-LOC"]) == [("PER", "w0"), ("LOC", "w1 w2")]
    assert found([]) == []


def test_labels_without_iob_stand_alone() -> None:
    assert found(["NOUN", "NOUN", "O", "VERB"], ("O", "NOUN", "VERB")) == [("NOUN", "w0"), ("NOUN", "w1"), ("VERB", "w3")]


def test_offsets_and_the_mean_probability() -> None:
    payload, text = packed([0, 1, 2], [0.9, 0.8, 0.6], 5)
    (entity,) = read(payload, LABELS, text)
    assert (entity["start"], entity["end"], entity["text"]) == (3, 8, "w1 w2")
    assert abs(entity["score"] - 0.7) < 1e-6


@given(st.lists(st.sampled_from(LABELS), max_size=12))
def test_as_conlleval(names: list[str]) -> None:
    """Its rules for where a chunk starts and ends, written anew: over borders between two words."""
    expected: list[tuple[str, str]] = []
    start = 0
    for n, name in enumerate(names):
        before, after = names[n - 1] if n else "O", names[n + 1] if n + 1 < len(names) else "O"
        if name != "O" and (name[0] == "B" or before == "O" or before[2:] != name[2:]):
            start = n
        if name != "O" and (after == "O" or after[0] == "B" or after[2:] != name[2:]):
            expected.append((name[2:], " ".join(f"w{i}" for i in range(start, n + 1))))
    assert found(names) == expected
