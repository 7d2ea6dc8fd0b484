"""From texts to answers: local cache, work already under way for the same text, shared cache, then the batcher.

Everything here runs on the event loop, so no state needs a lock. A request may vanish at any await: its rows are dropped
before the forward unless another request shares them, and no row depends on the request that asked for it first.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from app.domain.errors import DeadlineExceeded, DomainError, InternalError
from app.serving import metrics
from app.serving.admission import Limits, admit
from app.serving.backends.base import Text
from app.serving.batcher import Batcher
from app.serving.cache import LocalCache, key_of, pack, unpack
from app.serving.pool import Served
from app.serving.shared_cache import SharedCache
from app.serving.work import Answer, Item, Kind, Result, Ticket, fresh


class CallerGone(Exception):
    """The client closed its connection; nobody reads the answer."""


class Inference:
    def __init__(self, limits: Limits, local: LocalCache, shared: SharedCache | None) -> None:
        self._limits, self._local, self._shared = limits, local, shared
        self._flights: dict[bytes, Item] = {}

    async def answer(
        self,
        model: Served,
        project: str,
        kind: Kind,
        texts: Sequence[Text],
        *,
        cached: bool,
        seconds: float,
        place: Callable[[int], str] | None = None,
        watch: Callable[[asyncio.Future[None]], asyncio.Task[None]] | None = None,
    ) -> tuple[list[Answer], int]:
        """One answer per text, and how many of them this process knew. `watch` starts a task that cancels the future it is
        given when the caller is gone; `place` is what the request calls its text number n, where that is not `input[n]`."""
        ticket = Ticket(asyncio.get_running_loop(), len(texts), place)
        keys = self._from_local(model, project, kind, texts, ticket) if cached else {}
        hits = len(texts) - ticket.missing
        if ticket.missing:
            watcher: asyncio.Task[None] | None = None
            try:
                self._start(model, kind, texts, keys, ticket, seconds)
                if ticket.missing:
                    watcher = watch(ticket.future) if watch else None
                    async with asyncio.timeout(seconds):
                        await ticket.future
            except TimeoutError as error:
                late = f"No answer within the deadline of {seconds:g} s."
                raise DeadlineExceeded(late, hint="Send fewer texts at once, or retry.", retry_after=1) from error
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if ticket.future.cancelled() and not (task and task.cancelling()):
                    raise CallerGone from None
                raise
            finally:
                if watcher:
                    watcher.cancel()
                self._leave(ticket)
        answers = [answer for answer in ticket.answers if answer is not None]
        if len(answers) != len(texts):
            raise InternalError("Some texts were left without an answer.")
        return answers, hits

    def _from_local(self, model: Served, project: str, kind: Kind, texts: Sequence[Text], ticket: Ticket) -> dict[int, bytes]:
        """Fill what this process knows; the keys of the rest by index."""
        options = f"{kind}/{model.entry.backend}/{model.entry.file}"
        keys: dict[int, bytes] = {}
        for n, text in enumerate(texts):
            key = key_of(project, model.digest, options, text)
            answer = self._local.get(key)
            if answer is None:
                keys[n] = key
            else:
                ticket.fill(n, answer)
                metrics.SAVED_SECONDS.inc(model.batcher.seconds_per_row)
        if len(keys) < len(texts):
            metrics.CACHE.labels("local").inc(len(texts) - len(keys))
        return keys

    def _start(
        self, model: Served, kind: Kind, texts: Sequence[Text], keys: dict[int, bytes], ticket: Ticket, seconds: float
    ) -> None:
        """Join work under way where the text is the same, create rows for the rest, and send them on their way."""
        batcher = model.batcher
        unknown = {key for key in keys.values() if self._flight(key) is None}
        admit(batcher, len(unknown) if keys else len(texts), seconds, self._limits)
        now = time.monotonic()
        new: list[Item] = []
        for n, text in enumerate(texts):
            if ticket.answers[n] is not None:
                continue
            key = keys.get(n)
            item = self._flight(key) if key else None
            if item is None:
                # A long list counts as if its rows came one by one, as fast as they are computed: others get in between.
                order = now + len(new) * batcher.seconds_per_row / batcher.lanes
                item = Item(text, kind, now + seconds, order, key)
                item.home = batcher
                new.append(item)
                if key:
                    self._flights[key] = item
            else:
                item.deadline = max(item.deadline, now + seconds)
                metrics.CACHE.labels("joined").inc()
            item.wait(ticket, n)
        if not new:
            return
        batcher.backlog += len(new)
        metrics.QUEUED.inc(len(new))
        if keys and self._shared is not None:
            self._shared.lookup(
                [item.key or b"" for item in new], partial(self._looked_up, batcher, model.payload_bytes(kind), new)
            )
        else:
            self._submit(batcher, new)

    def _flight(self, key: bytes) -> Item | None:
        item = self._flights.get(key)
        return None if item is None or item.abandoned else item

    def _looked_up(self, batcher: Batcher, length: int | None, items: list[Item], values: list[bytes | None]) -> None:
        rest: list[Item] = []
        for item, value in zip(items, values, strict=True):
            if item.settled or item.key is None:
                continue
            answer = unpack(item.key, value, length)
            if answer is None:
                if value is not None:
                    metrics.SHARED_BAD.inc()
                rest.append(item)
                continue
            metrics.CACHE.labels("shared").inc()
            metrics.SAVED_SECONDS.inc(batcher.seconds_per_row)
            self._local.put(item.key, answer)
            self._settle_one(item, answer)
        metrics.CACHE.labels("miss").inc(len(rest))
        self._submit(batcher, rest)

    def _submit(self, batcher: Batcher, items: list[Item]) -> None:
        if items:
            try:
                batcher.submit(items)
            except DomainError as error:
                self.settle([(item, error) for item in items])

    def settle(self, results: list[tuple[Item, Result]]) -> None:
        """The batcher's way back to the event loop."""
        for item, result in results:
            if item.settled:
                continue
            if item.key is not None and isinstance(result, Answer):
                self._local.put(item.key, result)
                if self._shared is not None:
                    self._shared.store(item.key, pack(item.key, result))
            self._settle_one(item, result)
        metrics.CACHE_BYTES.set(self._local.size)

    def _settle_one(self, item: Item, result: Result) -> None:
        waiters = item.waiters
        self._forget(item)
        for ticket, index in waiters:
            if isinstance(result, Answer):
                ticket.fill(index, result)
            else:
                error = fresh(result)  # several requests may share this row; each names its own place
                error.param = error.param or ticket.place(index)
                ticket.fail(error)

    def _leave(self, ticket: Ticket) -> None:
        for item in ticket.items:
            if not item.settled:
                item.leave(ticket)
                if item.abandoned:
                    metrics.ABANDONED.inc()
                    self._forget(item)

    def _forget(self, item: Item) -> None:
        item.settled = item.abandoned = True
        item.waiters = []
        if item.home is not None:
            item.home.backlog -= 1
            item.home = None
        metrics.QUEUED.dec()
        if item.key is not None and self._flights.get(item.key) is item:
            del self._flights[item.key]

    @property
    def under_way(self) -> int:
        """Texts that several requests may join; 0 when idle."""
        return len(self._flights)
