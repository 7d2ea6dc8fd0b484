"""The cache tier that replicas share: Redis, optional by construction.

All lookups of the moment travel in one MGET, all stores in one pipeline. While Redis is silent or wrong the circuit is
open: lookups are misses at once, and a background ping closes it again. No request ever waits longer than TIMEOUT for it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.serving import metrics

log = logging.getLogger(__name__)

Then = Callable[[list[bytes | None]], None]
PREFIX = b"retort:answer:1:"
TIMEOUT = 0.25
_TTL_SECONDS = 24 * 3600
_KEYS_AT_ONCE = 2048
_STORES_WAITING = 8192
_PING_FIRST, _PING_MOST = 0.25, 10.0


class SharedCache:
    def __init__(self, url: str) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=4,
            timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis(connection_pool=pool)
        self.up = False
        self._lookups: deque[tuple[Sequence[bytes], Then]] = deque()
        self._stores: deque[tuple[bytes, bytes]] = deque(maxlen=_STORES_WAITING)  # full: the oldest is forgotten
        self._look, self._store, self._down = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._down.set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for name, once in (("read", self._read_once), ("write", self._write_once), ("ping", self._ping_once)):
            self._tasks.append(asyncio.create_task(self._forever(once), name=f"shared-cache-{name}"))

    def lookup(self, keys: Sequence[bytes], then: Then) -> None:
        """Call `then` with one value or None per key: at once while Redis is down, else from the reader task."""
        if not self.up:
            then([None] * len(keys))
            return
        self._lookups.append((keys, then))
        self._look.set()

    def store(self, key: bytes, value: bytes) -> None:
        if self.up:
            self._stores.append((key, value))
            self._store.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.up = False
        self._miss(list(self._lookups))
        self._lookups.clear()
        with suppress(Exception):
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()

    async def _forever(self, once: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await once()
            except Exception as error:
                self._trip(error)

    async def _read_once(self) -> None:
        await self._look.wait()
        self._look.clear()
        while self._lookups:
            batch: list[tuple[Sequence[bytes], Then]] = []
            keys: list[bytes] = []
            while self._lookups and (not batch or len(keys) + len(self._lookups[0][0]) <= _KEYS_AT_ONCE):
                batch.append(self._lookups.popleft())
                keys += [PREFIX + key for key in batch[-1][0]]
            try:
                if not self.up:
                    raise ConnectionError("the circuit is open")
                async with asyncio.timeout(TIMEOUT):
                    values: list[Any] = await self._redis.mget(keys)
                if len(values) != len(keys):
                    raise ValueError(f"{len(keys)} keys gave {len(values)} values")
            except BaseException as error:
                self._miss(batch)
                if not isinstance(error, Exception):
                    raise
                self._trip(error)
                continue
            start = 0
            for wanted, then in batch:
                _tell(then, values[start : start + len(wanted)])
                start += len(wanted)

    def _miss(self, batch: list[tuple[Sequence[bytes], Then]]) -> None:
        for keys, then in batch:
            _tell(then, [None] * len(keys))

    async def _write_once(self) -> None:
        await self._store.wait()
        self._store.clear()
        while self._stores and self.up:
            pipe = self._redis.pipeline(transaction=False)
            for _ in range(min(len(self._stores), 512)):
                key, value = self._stores.popleft()
                pipe.set(PREFIX + key, value, ex=_TTL_SECONDS)
            async with asyncio.timeout(4 * TIMEOUT):
                # A single refused SET (memory full, a key of another type) is not a reason to stop reading.
                await pipe.execute(raise_on_error=False)

    async def _ping_once(self) -> None:
        await self._down.wait()
        pause = _PING_FIRST
        while not self.up:
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._redis.ping()
            except Exception:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PING_MOST)
            else:
                self.up = True
                self._down.clear()
                metrics.SHARED_UP.set(1)

    def _trip(self, error: BaseException) -> None:
        if self.up:
            log.warning("The shared answer cache is out of reach (%r); serving without it", error)
        self.up = False
        self._stores.clear()
        metrics.SHARED_UP.set(0)
        self._down.set()


def _tell(then: Then, values: list[bytes | None]) -> None:
    try:
        then(values)
    except Exception:
        log.exception("A cache lookup's continuation failed")
