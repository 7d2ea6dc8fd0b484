"""Which rows share a forward."""

import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from app.serving.backends.base import Tokens
from app.serving.pending import Pending, Policy
from app.serving.work import Item

FAR = 1e12


def item(length: int, order: float, deadline: float = FAR) -> Item:
    made = Item("", "scores", deadline, order)
    made.row = Tokens([0] * length, False)
    return made


def fill(policy: Policy, lengths: list[int]) -> Pending:
    pending = Pending(policy)
    for n, length in enumerate(lengths):
        pending.add(item(length, n))
    return pending


def test_the_oldest_row_is_always_in_the_next_batch_with_its_nearest_lengths() -> None:
    pending = fill(Policy(4, 1000), [50, 8, 200, 52, 9, 48, 49])
    batch, _ = pending.take(0)
    assert sorted(len(i.row.ids) for i in batch) == [48, 49, 50, 52]
    batch, _ = pending.take(0)
    assert sorted(len(i.row.ids) for i in batch) == [8, 9]


def test_a_batch_keeps_the_token_budget_and_little_padding() -> None:
    pending = fill(Policy(64, 100), [10] * 30)
    assert len(pending.take(0)[0]) == 10
    pending = fill(Policy(64, 10_000, padding=0.25), [100, 10, 10, 10])
    assert [len(i.row.ids) for i in pending.take(0)[0]] == [100]


def test_a_row_longer_than_the_budget_still_runs_alone() -> None:
    pending = fill(Policy(64, 100), [500, 500])
    assert len(pending.take(0)[0]) == 1
    assert len(pending.take(0)[0]) == 1
    assert len(pending) == 0


def test_late_rows_come_back_as_expired_and_abandoned_rows_vanish() -> None:
    pending = Pending(Policy(8, 1000))
    late, gone, good = item(5, 0, deadline=1.0), item(5, 1), item(5, 2)
    for i in (late, gone, good):
        pending.add(i)
    gone.abandoned = True
    batch, expired = pending.take(now=2.0)
    assert (batch, expired) == ([good], [late])
    assert len(pending) == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 128), min_size=1, max_size=60), st.integers(1, 16), st.integers(8, 600), st.integers(0, 2**32))
def test_every_row_comes_out_exactly_once(lengths: list[int], rows: int, budget: int, seed: int) -> None:
    chance = random.Random(seed)
    policy = Policy(rows, budget)
    pending = Pending(policy)
    items = [item(length, chance.random()) for length in lengths]
    seen: list[Item] = []
    waiting = list(items)
    inside: list[Item] = []
    while waiting or inside:
        for _ in range(min(len(waiting), chance.randint(0, 8))):
            inside.append(waiting.pop())
            pending.add(inside[-1])
        batch, expired = pending.take(0)
        assert not expired
        if not batch:
            continue
        assert min(inside, key=lambda i: i.order) in batch
        longest = max(len(i.row.ids) for i in batch)
        assert len(batch) <= rows
        assert len(batch) == 1 or longest * len(batch) <= budget
        assert longest * len(batch) - sum(len(i.row.ids) for i in batch) <= policy.padding * longest * len(batch)
        seen += batch
        inside = [i for i in inside if i not in batch]
        assert len(pending) == len(inside)
    assert sorted(map(id, seen)) == sorted(map(id, items))


def test_taking_from_a_full_queue_is_cheap() -> None:
    chance = random.Random(0)
    pending = fill(Policy(32, 2048), [chance.randint(4, 256) for _ in range(4096)])
    started = time.perf_counter()
    takes = 0
    while len(pending):
        pending.take(0)
        takes += 1
    assert (time.perf_counter() - started) / takes < 0.002
