"""Whether a row says nearly what an earlier one said: an exact index of character trigrams, in close to linear time.

J(a, b) = |A ∩ B| / |A ∪ B|, the Jaccard similarity of the sets of trigrams of two normalised texts, in [0, 1].

Two texts with J ≥ t share one of the first |A| − ⌈t |A|⌉ + 1 trigrams of A when all sets are sorted by one order; rare ones
first, so that few texts have to be looked at. Nothing is missed and nothing is estimated, unlike MinHash.
Source: prefix filtering, Bayardo et al. 2007, "Scaling Up All Pairs Similarity Search", section 4; PPJoin, Xiao et al. 2008.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product

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
        self._begins_with: dict[int, list[int]] = {}  # trigram → texts that have it among their first
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
        for gram in found[: _prefix(len(found), self._lowest)]:
            self._begins_with.setdefault(gram, []).append(number)
        return number

    def near(self, text: str, limit: float) -> list[int]:
        """Numbers of the texts that are the same, or whose similarity is above `limit`; not below `lowest`."""
        text = normalised(text)
        found = self._numbers(text)
        own, candidates = set(found), set[int]()
        for gram in found[: _prefix(len(found), limit)]:
            candidates.update(self._begins_with.get(gram, ()))
        same = self._ids.get(text)
        return sorted(n for n in candidates if n == same or _jaccard(own, self._sets[n], limit) > limit)

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


def _jaccard(one: set[int], other: frozenset[int], limit: float) -> float:
    small, large = sorted((len(one), len(other)))
    if small < limit * large - _ROUNDING:
        return 0.0  # cannot be above it
    shared = len(one & other)
    return shared / (small + large - shared)
