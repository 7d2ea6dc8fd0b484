"""Answers on the event loop: shared work, vanished callers, deadlines, and a cache that never decides what is right."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.domain.errors import DeadlineExceeded, InferenceFailed, Overloaded
from app.serving.admission import Limits
from app.serving.backends.base import BackendEntry, ModelCard
from app.serving.batcher import Batcher
from app.serving.cache import LocalCache, pack
from app.serving.inference import CallerGone, Inference
from app.serving.pending import Policy
from app.serving.pool import Served
from app.serving.warmup import Measured
from tests.unit.serving.fakes import FakeBackend

LIMITS = Limits(queue_rows=50)


class Shared:
    """A second tier in memory that answers a moment later, as Redis does."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.delay = 0.0

    def lookup(self, keys: list[bytes], then: Callable[[list[bytes | None]], None]) -> None:
        asyncio.get_running_loop().call_later(self.delay, lambda: then([self.values.get(key) for key in keys]))

    def store(self, key: bytes, value: bytes) -> None:
        self.values[key] = value


class Rig:
    def __init__(self, policy: Policy = Policy(8, 1000), shared: bool = True) -> None:
        self.backend, self.shared, self.local = FakeBackend(), Shared(), LocalCache(2**20)
        self.inference = Inference(LIMITS, self.local, self.shared if shared else None)  # type: ignore[arg-type]
        self.batcher = Batcher(self.backend, policy, 1, self.inference.settle, asyncio.get_running_loop())
        card = ModelCard(format=1, kind="student", labels=("a", "b"), embedding_dim=2)
        self.model = Served("d" * 64, card, BackendEntry(backend="x", file="y"), Measured(policy, 0, ()), self.batcher, 1, 0.0)

    async def ask(self, *texts: str, cached: bool = True, seconds: float = 20, project: str = "p", **more: Any) -> list[bytes]:
        found = await self.inference.answer(self.model, project, "scores", list(texts), cached=cached, seconds=seconds, **more)
        return [answer.payload for answer in found[0]]

    async def until_running(self, count: int = 1) -> None:
        until = time.monotonic() + 10
        while len(self.backend.batches) < count:
            assert time.monotonic() < until
            await asyncio.sleep(0.001)

    @property
    def ran(self) -> list[str]:
        return [text for batch in self.backend.batches for text in batch]

    def clean(self) -> None:
        assert self.inference.under_way == 0
        assert self.batcher.backlog == 0


def run(test: Callable[[Rig], Awaitable[None]], **options: Any) -> None:
    async def scenario() -> None:
        rig = Rig(**options)
        try:
            await test(rig)
        finally:
            rig.backend.gate.set()
            await asyncio.to_thread(rig.batcher.close)
        rig.clean()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_text_is_computed_once_for_everybody_who_asks_at_the_same_time() -> None:
    async def test(rig: Rig) -> None:
        rig.backend.gate.clear()
        asked = [asyncio.create_task(rig.ask("same", "same", f"own{n}")) for n in range(10)]
        await rig.until_running()
        await asyncio.sleep(0.02)
        rig.backend.gate.set()
        answers = await asyncio.gather(*asked)
        assert len({row for answer in answers for row in answer[:2]}) == 1
        assert rig.ran.count("same") == 1
        assert len(rig.ran) == 11
        await rig.ask("same")
        assert len(rig.ran) == 11  # from the local cache

    run(test)


def test_another_project_and_cache_off_compute_again() -> None:
    async def test(rig: Rig) -> None:
        await rig.ask("t")
        await rig.ask("t", project="q")
        await rig.ask("t", cached=False)
        await rig.ask("u", cached=False)
        await rig.ask("u")
        assert rig.ran == ["t", "t", "t", "u", "u"]

    run(test)


def test_the_first_caller_may_leave_without_harm_to_those_who_joined() -> None:
    async def test(rig: Rig) -> None:
        rig.backend.gate.clear()
        blocker = asyncio.create_task(rig.ask("blocker"))
        await rig.until_running()
        first = asyncio.create_task(rig.ask("t", "only mine"))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(rig.ask("t"))
        await asyncio.sleep(0.02)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        rig.backend.gate.set()
        assert await second
        await blocker
        assert "t" in rig.ran
        assert "only mine" not in rig.ran

    run(test)


def test_a_caller_who_hangs_up_leaves_nothing_behind() -> None:
    async def test(rig: Rig) -> None:
        rig.backend.gate.clear()
        blocker = asyncio.create_task(rig.ask("blocker"))
        await rig.until_running()

        def watch(future: "asyncio.Future[None]") -> "asyncio.Task[None]":
            async def hang_up() -> None:
                await asyncio.sleep(0.02)
                future.cancel()

            return asyncio.create_task(hang_up())

        with pytest.raises(CallerGone):
            await rig.ask("dropped", watch=watch)
        assert rig.batcher.backlog == 1  # the blocker
        rig.backend.gate.set()
        await blocker
        assert "dropped" not in rig.ran

    run(test)


def test_leaving_during_the_shared_lookup_drops_the_rows() -> None:
    async def test(rig: Rig) -> None:
        rig.shared.delay = 0.05
        leaving = asyncio.create_task(rig.ask("t"))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        again = asyncio.create_task(rig.ask("t"))  # must not join the abandoned row
        assert await again
        assert rig.ran == ["t"]

    run(test)


def test_a_deadline_ends_the_wait_and_drops_the_row() -> None:
    async def test(rig: Rig) -> None:
        rig.backend.gate.clear()
        blocker = asyncio.create_task(rig.ask("blocker"))
        await rig.until_running()
        with pytest.raises(DeadlineExceeded) as caught:
            await rig.ask("late", seconds=0.05)
        assert caught.value.status == 503
        assert caught.value.retry_after
        rig.backend.gate.set()
        await blocker
        assert "late" not in rig.ran

    run(test)


def test_a_failing_text_fails_its_request_and_names_its_place_but_nobody_elses() -> None:
    async def test(rig: Rig) -> None:
        rig.backend.boom = {"bad": ValueError("no")}
        results = await asyncio.gather(rig.ask("x", "bad"), rig.ask("y"), rig.ask("bad"), return_exceptions=True)
        assert isinstance(results[0], InferenceFailed)
        assert results[0].param == "input[1]"
        assert isinstance(results[1], list)
        assert isinstance(results[2], InferenceFailed)
        assert results[2].param == "input"
        rig.backend.boom = {}
        assert await rig.ask("bad")  # a failure is never cached

    run(test)


def test_the_shared_tier_answers_what_it_has_and_its_lies_are_misses() -> None:
    async def test(rig: Rig) -> None:
        truth = await rig.ask("t", "u", "v")
        stored = dict(rig.shared.values)
        rig.inference._local = LocalCache(2**20)
        keys = list(stored)
        rig.shared.values = {keys[0]: stored[keys[0]], keys[1]: stored[keys[0]], keys[2]: stored[keys[2]][:-1]}
        assert await rig.ask("t", "u", "v") == truth
        assert len(rig.ran) == 5  # the foreign and the short value were computed again
        assert rig.shared.values == stored  # and healed
        answer = (await rig.inference.answer(rig.model, "p", "scores", ["t"], cached=True, seconds=5))[0][0]
        assert pack(keys[0], answer) == stored[keys[0]]

    run(test)


def test_a_full_queue_refuses_before_anything_is_registered() -> None:
    async def test(rig: Rig) -> None:
        rig.backend.gate.clear()
        first = asyncio.create_task(rig.ask(*(f"a{n}" for n in range(40))))
        await rig.until_running()
        with pytest.raises(Overloaded):
            await rig.ask(*(f"b{n}" for n in range(11)))
        assert rig.batcher.backlog == 40
        rig.backend.gate.set()
        await first

    run(test)


def test_a_long_list_does_not_block_the_single_text_behind_it() -> None:
    async def test(rig: Rig) -> None:
        rig.backend.seconds = 0.01
        rig.batcher.seconds_per_row = 0.01
        long = asyncio.create_task(rig.ask(*(f"long{n}" for n in range(40)), cached=False))
        await rig.until_running(3)
        await rig.ask("short", cached=False)
        assert not long.done()
        assert rig.ran.index("short") < 15
        await long

    run(test, policy=Policy(1, 1000))


def test_five_hundred_callers_who_come_and_go_leave_no_garbage() -> None:
    async def test(rig: Rig) -> None:
        rig.backend.seconds = 0.002
        tasks = []
        for n in range(500):
            tasks.append(asyncio.create_task(rig.ask(f"t{n % 37}", cached=n % 3 > 0)))
            if n % 2:
                asyncio.get_running_loop().call_later(0.001 * (n % 7), tasks[-1].cancel)
            if n % 10 == 0:
                await asyncio.sleep(0.003)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(result) for result in results}
        assert kinds <= {list, asyncio.CancelledError, Overloaded}
        assert list in kinds
        rig.clean()

    run(test)
