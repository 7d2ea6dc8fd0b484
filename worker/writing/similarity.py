"""Whether a row says nearly what an earlier one said: an exact index of character trigrams, in close to linear time.

J(a, b) = |A ∩ B| / |A ∪ B|, the Jaccard similarity of the sets of trigrams of two normalised texts, in [0, 1].

Two texts with J ≥ t have sizes with t |A| ≤ |B| ≤ |A| / t, share t / (1 + t) (|A| + |B|) trigrams, and, when all sets are sorted
by one order, share one of the first |A| − ⌈t |A|⌉ + 1 of A. At the first one that they share, enough of both must be left.
Rare trigrams come first, so few texts are left to compare. Nothing is missed and nothing is estimated, unlike MinHash.
Source: prefix filtering, Bayardo et al. 2007, "Scaling Up All Pairs Similarity Search", section 4; positional filtering, Xiao
et al. 2008, "Efficient Similarity Joins for Near Duplicate Detection" (PPJoin), section 4.
"""

import math
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

GRAM = 3
_ROUNDING = 1e-9


def normalised(text: str) -> str:
    """Without differences of case, width and spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def grams(text: str) -> set[str]:
    """Of a normalised text; the whole of a shorter one."""
    return {text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1))}


class Texts:
    """Distinct texts, numbered as they come. `lowest` is the smallest similarity that will be asked for."""

    def __init__(self, known: Iterable[str], lowest: float) -> None:
        self._lowest = lowest
        self._ids: dict[str, int] = {}
        self._sets: list[frozenset[int]] = []
        self._begins_with: dict[
            int, array[int]
        ] = {}  # trigram → (text, its size, trigrams left from here) of those that begin with it
        texts = [normalised(text) for text in known]
        counts = Counter(gram for text in dict.fromkeys(texts) for gram in grams(text))
        self._order = {gram: n for n, (gram, _) in enumerate(sorted(counts.items(), key=lambda item: (item[1], item[0])))}
        self._unseen = 0
        for text in texts:
            self.add(text)

    def add(self, text: str) -> int:
        """Its number: that of an earlier text that is the same."""
        text = normalised(text)
        if text in self._ids:
            return self._ids[text]
        number = self._ids[text] = len(self._sets)
        found = self._numbers(text)
        self._sets.append(frozenset(found))
        for place, gram in enumerate(found[: _prefix(len(found), self._lowest)]):
            self._begins_with.setdefault(gram, array("i")).extend((number, len(found), len(found) - place))
        return number

    def near(self, text: str, limit: float) -> list[int]:
        """Numbers of the texts that are the same, or whose similarity is above `limit`; not below `lowest`."""
        text = normalised(text)
        found = self._numbers(text)
        size, own, same = len(found), set(found), self._ids.get(text)
        candidates = {same} if same is not None else set()
        for place, gram in enumerate(found[: _prefix(size, limit)]):
            if gram in self._begins_with:
                candidates.update(_possible(self._begins_with[gram], size, size - place, limit))
        return sorted(n for n in candidates if n == same or _jaccard(own, self._sets[n]) > limit)

    def _numbers(self, text: str) -> list[int]:
        """Its trigrams by their place in the order; new ones come before all others, for they are rarest."""
        numbers = []
        for gram in sorted(grams(text)):
            if gram not in self._order:
                self._unseen -= 1
                self._order[gram] = self._unseen
            numbers.append(self._order[gram])
        return sorted(numbers)


class Seen:
    """Rows of one text, or of two: a row is near another when each of its texts is near the other's."""

    def __init__(self, rows: Sequence[tuple[str, ...]], lowest: float) -> None:
        width = max((len(row) for row in rows), default=1)
        self._sides = [Texts([row[side] for row in rows if side < len(row)], lowest) for side in range(width)]
        self._rows: set[tuple[int, ...]] = set()
        for row in rows:
            self.add(row)

    def add(self, row: tuple[str, ...]) -> None:
        self._rows.add(tuple(side.add(text) for side, text in zip(self._sides, row, strict=False)))

    def near(self, row: tuple[str, ...], limit: float) -> bool:
        return any(
            pair in self._rows for pair in product(*(side.near(t, limit) for side, t in zip(self._sides, row, strict=False)))
        )


def _prefix(size: int, limit: float) -> int:
    return size - math.ceil(limit * size - _ROUNDING) + 1


def _possible(entries: "array[int]", size: int, left: int, limit: float) -> list[int]:
    """Of the texts that share a trigram, after which `left` of `size` are left here, those that can still be similar enough."""
    texts, sizes, lefts = np.frombuffer(entries, dtype=np.intc).reshape(-1, 3).T
    needed = limit / (1 + limit) * (size + sizes) - _ROUNDING
    fits = (np.minimum(lefts, left) >= needed) & (np.minimum(sizes, size) >= limit * np.maximum(sizes, size) - _ROUNDING)
    found: list[int] = texts[fits].tolist()
    return found


def _jaccard(one: set[int], other: frozenset[int]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
