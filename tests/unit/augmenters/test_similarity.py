"""The index finds exactly what comparing every text with every other finds."""

import random
from functools import cache

import pytest

from worker.writing.similarity import Seen, Texts, normalised

WORDS = ["where", "is", "my", "card", "lost", "stolen", "i", "want", "to", "know", "the", "balance", "of", "a", "late", "parcel"]


@cache
def grams(text: str) -> frozenset[str]:
    text = normalised(text)
    return frozenset({text[i : i + 3] for i in range(len(text) - 2)} or {text})


def jaccard(a: str, b: str) -> float:
    """By hand: sets of three characters."""
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def made(n: int, seed: int) -> list[str]:
    """Texts of which many are changed copies of others."""
    chance, found = random.Random(seed), []
    for _ in range(n):
        words = chance.choice(found).split() if found and chance.random() < 0.7 else chance.choices(WORDS, k=chance.randint(1, 12))
        words[chance.randrange(len(words))] = chance.choice([*WORDS, "new", "x"])
        found.append(" ".join(words))
    return found


@pytest.mark.parametrize("limit", [0.3, 0.5, 0.7, 0.85, 0.9, 1.0])
@pytest.mark.parametrize("lowest", [None, 0.3])
def test_near_is_what_comparing_everything_finds(limit: float, lowest: float | None) -> None:
    texts = made(240, seed=1)
    known, asked = texts[:120], texts[110:]
    index = Texts(known[:80], limit if lowest is None else lowest)
    for text in known[80:]:
        index.add(text)
    numbers = {text: index.add(text) for text in known}
    found = 0
    for text in asked:
        expected = {n for other, n in numbers.items() if other == text or jaccard(text, other) > limit}
        assert set(index.near(text, limit)) == expected, text
        found += len(expected)
    assert found >= 10


def test_case_width_and_spaces_are_no_difference() -> None:
    index = Texts(["Where is  my Card?"], 1.0)
    assert index.near("where is my ｃａｒｄ?", 1.0) == [0]
    assert index.near("where is my card", 1.0) == []
    assert index.add("WHERE IS MY CARD?") == 0


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "银行卡", "🙂"])
def test_short_texts_have_a_similarity_too(text: str) -> None:
    assert Texts([text], 0.5).near(text, 0.5) == [0]
    assert Texts(["something else"], 0.5).near(text, 0.5) == []


def test_a_pair_is_near_when_both_of_its_texts_are() -> None:
    long = "a long first text that is the same in every pair of this job"
    rows = [(long, "a man sleeps"), (long, "a dog runs in the park"), ("another text altogether", "nobody is here")]
    seen = Seen(rows, 0.8)
    assert seen.near((long, "a man sleeps"), 0.8)
    assert not seen.near((long, "a cat runs in the rain"), 0.8)
    assert not seen.near((long, "nobody is here"), 0.8)  # each text is known, the pair is not
    seen.add((long, "a cat runs in the rain"))
    assert seen.near((long + ".", "a cat runs in the rain!"), 0.8)


def test_one_text_shared_by_all_pairs_costs_no_comparison_of_all_rows() -> None:
    seen = Seen([("the same question for every row", f"answer number {n}") for n in range(2000)], 0.9)
    assert seen.near(("the same question for every row", "answer number 7"), 0.9)
    assert not seen.near(("the same question for every row", "quite another"), 0.9)
    assert [len(side._sets) for side in seen._sides] == [1, 2000]
