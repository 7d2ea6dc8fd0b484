"""The batcher of one model: event loop → tokeniser thread → lanes (one forward thread per core) → event loop.

A lane that is idle takes what is there at once; while all are busy the queue fills by itself, and that is the batch.
Nothing a backend raises can leave a request waiting: a failing batch is halved until the culprit stands alone, and
whatever escapes a thread's loop fails the rows that thread held, and the loop goes on.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable

from app.domain.errors import DeadlineExceeded, InferenceFailed, Unavailable
from app.serving import metrics
from app.serving.backends.base import Backend
from app.serving.decode import answers
from app.serving.pending import Pending, Policy
from app.serving.work import Item, Result, failure

log = logging.getLogger(__name__)

_TOKENISE_AT_ONCE = 256
_SMOOTHING = 0.05  # of the measured seconds per row


class Batcher:
    def __init__(
        self,
        backend: Backend,
        policy: Policy,
        lanes: int,
        settle: Callable[[list[tuple[Item, Result]]], None],
        loop: asyncio.AbstractEventLoop,
        name: str = "model",
    ) -> None:
        self._backend, self._settle, self._loop, self._name = backend, settle, loop, name
        self.policy = policy
        self.seconds_per_row = policy.seconds_per_row
        self.lanes = lanes
        self.backlog = 0  # rows not settled yet; counted on the event loop
        self._incoming: queue.SimpleQueue[list[Item] | None] = queue.SimpleQueue()
        self._pending = Pending(policy)
        self._ready = threading.Condition()
        self._closed = False
        self._held: list[list[Item]] = [[] for _ in range(lanes + 1)]  # what each thread works on; the last is the tokeniser
        self._threads = [self._spawn(n) for n in range(lanes + 1)]

    # --- on the event loop ------------------------------------------------------------------------------------------

    def submit(self, items: list[Item]) -> None:
        """Hand rows over; each of them will be settled exactly once."""
        if self._closed:
            raise Unavailable("The model is being unloaded.", retry_after=1)
        for n, thread in enumerate(self._threads):
            if not thread.is_alive():  # only an exception thrown into the thread from outside can do this
                self._send([(item, InferenceFailed("The thread that ran this text has died.")) for item in self._held[n]])
                self._held[n] = []
                self._threads[n] = self._spawn(n)
        self._incoming.put(items)

    def expected_wait(self, rows: int = 0) -> float:
        """Seconds until `rows` more rows would be answered."""
        return (self.backlog + rows) * self.seconds_per_row / self.lanes

    def close(self, timeout: float = 10.0) -> None:
        """Finish the batches that run, refuse the rest, give the model's memory back. Blocks; call it in a thread."""
        self._closed = True
        self._incoming.put(None)
        with self._ready:
            self._ready.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        left = self._pending.clear()
        while not self._incoming.empty():
            left += self._incoming.get_nowait() or []
        self._send([(item, Unavailable("The model was unloaded.", retry_after=1)) for item in left])
        if not any(thread.is_alive() for thread in self._threads):  # a stuck forward still uses the model
            self._backend.close()

    # --- threads ----------------------------------------------------------------------------------------------------

    def _spawn(self, n: int) -> threading.Thread:
        once = self._tokenise_once if n == self.lanes else self._forward_once
        thread = threading.Thread(target=self._supervise, args=(n, once), name=f"{self._name}-{n}", daemon=True)
        thread.start()
        return thread

    def _supervise(self, n: int, once: Callable[[int], bool]) -> None:
        while True:
            try:
                if not once(n):
                    return
            except BaseException as error:  # even SystemExit from a backend must not end the thread
                log.exception("%s: thread %d failed outside a batch", self._name, n)
                held, self._held[n] = self._held[n], []
                self._send([(item, failure(error)) for item in held])

    def _tokenise_once(self, n: int) -> bool:
        held = self._held[n]
        last = False
        while not last and (not held or (len(held) < _TOKENISE_AT_ONCE and not self._incoming.empty())):
            more = self._incoming.get()
            last = more is None
            held += more or []
        live = [item for item in held if not item.abandoned]
        ready, failed = self._tokenise(live)
        with self._ready:
            for item in ready:
                self._pending.add(item)
            self._ready.notify(len(ready))
        self._held[n] = []
        self._send(failed)
        return not last

    def _tokenise(self, items: list[Item]) -> tuple[list[Item], list[tuple[Item, Result]]]:
        if not items:
            return [], []
        try:
            prepared = self._backend.prepare([item.text for item in items])
            if len(prepared) != len(items):
                raise ValueError(f"{len(items)} texts gave {len(prepared)} rows")
        except BaseException as error:
            if len(items) == 1:
                return [], [(items[0], failure(error))]
            middle = len(items) // 2
            (good, bad), (more, worse) = self._tokenise(items[:middle]), self._tokenise(items[middle:])
            return good + more, bad + worse
        for item, tokens in zip(items, prepared, strict=True):
            item.row = tokens
            item.text = ""
        return items, []

    def _forward_once(self, n: int) -> bool:
        with self._ready:
            while not len(self._pending):
                if self._closed:
                    return False
                self._ready.wait()
            if self._closed:
                return False
            batch, expired = self._pending.take(time.monotonic())
            self._held[n] = batch + expired
        if expired:
            metrics.DROPPED.inc(len(expired))
            late = "This text waited longer than the request's deadline."
            self._send([(i, DeadlineExceeded(late, hint="Send fewer texts at once, or retry.", retry_after=1)) for i in expired])
        if batch:
            started = time.perf_counter()
            results = self._forward(batch)
            self._measure(batch, time.perf_counter() - started)
            self._send(results)
        self._held[n] = []
        return True

    def _forward(self, items: list[Item]) -> list[tuple[Item, Result]]:
        """One forward; on any failure two halves, so that only the culprit fails."""
        try:
            outputs = self._backend.forward([item.row for item in items])
            return list(zip(items, answers(items, outputs), strict=True))
        except BaseException as error:
            if len(items) == 1:
                return [(items[0], failure(error))]
            log.warning("%s: a batch of %d rows failed (%r); it is halved", self._name, len(items), error)
            metrics.BISECTED.inc()
            middle = len(items) // 2
            return self._forward(items[:middle]) + self._forward(items[middle:])

    def _measure(self, batch: list[Item], seconds: float) -> None:
        self.seconds_per_row += _SMOOTHING * (seconds / len(batch) - self.seconds_per_row)
        longest, used = max(len(item.row.ids) for item in batch), sum(len(item.row.ids) for item in batch)
        metrics.FORWARD_SECONDS.observe(seconds)
        metrics.BATCH_ROWS.observe(len(batch))
        metrics.TOKENS.inc(used)
        metrics.PADDING.inc(longest * len(batch) - used)

    def _send(self, results: list[tuple[Item, Result]]) -> None:
        if results:
            try:
                self._loop.call_soon_threadsafe(self._settle, results)
            except RuntimeError:  # the event loop is closed: nobody is left to tell
                log.warning("%s: %d results came after the end", self._name, len(results))
