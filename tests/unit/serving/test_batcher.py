"""The batcher cannot die and leaves nobody waiting."""

import asyncio
import ctypes
import random
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from app.domain.errors import DeadlineExceeded, InferenceFailed, Unavailable
from app.serving.batcher import Batcher
from app.serving.pending import Policy
from app.serving.work import Answer, Item, Result
from tests.unit.serving.fakes import FakeBackend


class Desk:
    """Collects what the batcher settles, as `Inference` does."""

    def __init__(self, backend: FakeBackend, policy: Policy, lanes: int = 1) -> None:
        self.results: dict[Item, Result] = {}
        self.batcher = Batcher(backend, policy, lanes, self.settle, asyncio.get_running_loop())

    def settle(self, results: list[tuple[Item, Result]]) -> None:
        for item, result in results:
            assert item not in self.results, "settled twice"
            self.results[item] = result

    def send(self, texts: list[str], seconds: float = 60.0) -> list[Item]:
        now = time.monotonic()
        items = [Item(text, "scores", now + seconds, now) for text in texts]
        self.batcher.submit(items)
        return items

    async def collect(self, items: list[Item], seconds: float = 30.0) -> list[Result]:
        until = time.monotonic() + seconds
        while any(item not in self.results for item in items):
            assert time.monotonic() < until, "rows were left without a result"
            await asyncio.sleep(0.002)
        return [self.results[item] for item in items]


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))  # type: ignore[arg-type]


def test_an_idle_model_takes_what_is_there_and_a_busy_one_fills_a_batch() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        desk = Desk(backend, Policy(8, 1000))
        backend.gate.clear()
        first = desk.send(["aa"])
        while not backend.batches:
            await asyncio.sleep(0.001)
        rest = [item for n in range(5) for item in desk.send([f"b{n}"])]
        await asyncio.sleep(0.05)
        backend.gate.set()
        await desk.collect(first + rest)
        assert backend.batches[0] == ["aa"]
        assert sorted(backend.batches[1]) == [f"b{n}" for n in range(5)]
        await asyncio.to_thread(desk.batcher.close)
        assert backend.closed

    run(scenario)


@pytest.mark.parametrize("fault", [ValueError("bad"), MemoryError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_only_the_culprit_of_a_failing_batch_fails(fault: BaseException) -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.boom = {"x3": fault, "x9": fault}
        backend.boom_prepare = {"x6": fault}
        desk = Desk(backend, Policy(16, 1000))
        results = await desk.collect(desk.send([f"x{n}" for n in range(12)]))
        failed = {n for n, result in enumerate(results) if isinstance(result, InferenceFailed)}
        assert failed == {3, 6, 9}
        assert all(isinstance(results[n], Answer) for n in set(range(12)) - failed)
        await asyncio.to_thread(desk.batcher.close)

    run(scenario)


def test_ten_thousand_faults_leave_every_row_with_a_result_and_the_batcher_alive() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        chance = random.Random(1)
        kinds = [ValueError("v"), RuntimeError("r"), MemoryError(), SystemExit(1), KeyboardInterrupt(), StopIteration()]
        texts = [f"{n:05d}" for n in range(20_000)]
        backend.boom = {text: chance.choice(kinds) for text in texts[::2]}
        desk = Desk(backend, Policy(16, 4096), lanes=2)
        items = [item for start in range(0, len(texts), 500) for item in desk.send(texts[start : start + 500])]
        results = await desk.collect(items, 100)
        assert sum(isinstance(r, InferenceFailed) for r in results) == 10_000
        assert all(isinstance(r, InferenceFailed) == (t in backend.boom) for t, r in zip(texts, results, strict=True))
        assert isinstance((await desk.collect(desk.send(["alive"])))[0], Answer)
        await asyncio.to_thread(desk.batcher.close)

    run(scenario)


def test_a_row_with_nan_fails_alone() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.nan = {"bad"}
        desk = Desk(backend, Policy(8, 1000))
        good, bad, fine = await desk.collect(desk.send(["abc", "bad", "def"]))
        assert isinstance(good, Answer)
        assert isinstance(fine, Answer)
        assert isinstance(bad, InferenceFailed)
        assert "NaN" in bad.message
        await asyncio.to_thread(desk.batcher.close)

    run(scenario)


def test_expired_and_abandoned_rows_never_reach_the_model() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        desk = Desk(backend, Policy(8, 1000))
        backend.gate.clear()
        running = desk.send(["running"])
        while not backend.batches:
            await asyncio.sleep(0.001)
        late = desk.send(["late"], seconds=0.01)
        gone = desk.send(["gone"])
        last = desk.send(["last"])
        gone[0].abandoned = True
        await asyncio.sleep(0.05)
        backend.gate.set()
        results = await desk.collect(running + late + last)
        assert isinstance(results[1], DeadlineExceeded)
        assert backend.batches == [["running"], ["last"]]
        assert gone[0] not in desk.results
        await asyncio.to_thread(desk.batcher.close)

    run(scenario)


def test_an_exception_thrown_into_the_threads_themselves_is_survived() -> None:
    """The worst case: asynchronous exceptions at any bytecode, in the tokeniser and in the lanes."""

    async def scenario() -> None:
        backend = FakeBackend(seconds=0.0005)
        desk = Desk(backend, Policy(4, 1000), lanes=2)
        stop = threading.Event()

        def disturb() -> None:
            while not stop.is_set():
                for thread in list(desk.batcher._threads):
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
                time.sleep(0.01)

        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            for n in range(40):
                desk.send([f"{n}-{k}" for k in range(5)])
                await asyncio.sleep(0.01)
        finally:
            stop.set()
            disturber.join()
        await asyncio.sleep(0.2)
        desk.send(["one to let the batcher notice a dead thread"])
        results = await desk.collect(desk.send([f"after-{n}" for n in range(20)]), 30)
        assert all(isinstance(result, Answer) for result in results)
        await asyncio.to_thread(desk.batcher.close)

    run(scenario)


def test_closing_finishes_what_runs_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        backend = FakeBackend(seconds=0.05)
        desk = Desk(backend, Policy(1, 1000))
        items = desk.send([f"t{n}" for n in range(6)])
        while not backend.batches:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(desk.batcher.close)
        results = await desk.collect(items)
        assert isinstance(results[0], Answer)
        assert isinstance(results[-1], Unavailable)
        with pytest.raises(Unavailable):
            desk.send(["too late"])

    run(scenario)


def test_wrong_shapes_fail_the_rows_not_the_thread() -> None:
    class Short(FakeBackend):
        def forward(self, rows):  # type: ignore[no-untyped-def]
            outputs = super().forward(rows)
            assert outputs.logits is not None
            return outputs._replace(logits=outputs.logits[:-1])

    async def scenario() -> None:
        desk = Desk(Short(), Policy(8, 1000))
        results = await desk.collect(desk.send(["a", "b", "c"]))
        assert all(isinstance(result, InferenceFailed) for result in results)
        await asyncio.to_thread(desk.batcher.close)

    run(scenario)
