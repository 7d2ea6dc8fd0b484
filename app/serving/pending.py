"""The waiting rows of one model: oldest first decides the length, its nearest neighbours in length fill the batch."""

import heapq
from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import count

from app.serving.work import Item


@dataclass(frozen=True)
class Policy:
    """How rows become batches; measured at warm-up (`warmup.py`)."""

    max_rows: int
    token_budget: int  # rows × longest row
    padding: float = 0.25  # largest share of a batch's tokens that padding may take
    seconds_per_row: float = 0.01


class Pending:
    """Not thread-safe: the batcher's lock is held around every call."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._oldest: list[tuple[float, int, Item]] = []  # heap by virtual arrival; rows taken by length stay as husks
        self._by_length: list[tuple[int, int, Item]] = []  # sorted
        self._sequence = count()
        self._numbers: dict[Item, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, item: Item) -> None:
        number = next(self._sequence)
        self._numbers[item] = number
        item.queued = True
        heapq.heappush(self._oldest, (item.order, number, item))
        if self.policy.max_rows > 1:
            insort(self._by_length, (len(item.row.ids), number, item))

    def take(self, now: float) -> tuple[list[Item], list[Item]]:
        """(batch, expired): the next rows to run and those found too late. Abandoned rows vanish without a word."""
        expired: list[Item] = []
        while self._oldest:
            _, _, item = heapq.heappop(self._oldest)
            if not item.queued:
                continue
            if item.abandoned or item.deadline <= now:
                self._remove(item)
                if not item.abandoned:
                    expired.append(item)
                continue
            return self._around(item, now, expired), expired
        return [], expired

    def clear(self) -> list[Item]:
        items = list(self._numbers)
        for item in items:
            item.queued = False
        self._numbers.clear()
        self._by_length.clear()
        self._oldest.clear()
        return items

    def _around(self, item: Item, now: float, expired: list[Item]) -> list[Item]:
        """Grow outwards from `item` in length order, the nearer side first, while budget and padding allow."""
        if self.policy.max_rows == 1 or len(self._by_length) == 1:
            self._remove(item)
            return [item]
        lengths = self._by_length
        low = bisect_left(lengths, (len(item.row.ids), self._numbers[item]))
        high = low + 1
        batch, tokens, own = [item], len(item.row.ids), len(item.row.ids)
        longest = own
        while len(batch) < self.policy.max_rows:
            left = own - lengths[low - 1][0] if low > 0 else None
            right = lengths[high][0] - own if high < len(lengths) else None
            if left is None and right is None:
                break
            go_left = right is None or (left is not None and left <= right)
            candidate = lengths[low - 1][2] if go_left else lengths[high][2]
            if candidate.abandoned or candidate.deadline <= now:
                if not candidate.abandoned:
                    expired.append(candidate)
            else:
                wide = max(longest, len(candidate.row.ids))
                area = wide * (len(batch) + 1)
                if area > self.policy.token_budget or area - tokens - len(candidate.row.ids) > self.policy.padding * area:
                    break
                batch.append(candidate)
                longest, tokens = wide, tokens + len(candidate.row.ids)
            low, high = (low - 1, high) if go_left else (low, high + 1)
        for _, _, taken in lengths[low:high]:
            taken.queued = False
            self._numbers.pop(taken, None)
        del lengths[low:high]
        return batch

    def _remove(self, item: Item) -> None:
        item.queued = False
        number = self._numbers.pop(item)
        if self._by_length:
            at = bisect_left(self._by_length, (len(item.row.ids), number))
            del self._by_length[at]
