"""The data plane of one process: its parts, made once, started and stopped together."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.domain.db import Sessions
from app.domain.errors import DomainError, Unavailable
from app.domain.storage import BlobStore
from app.serving import cpu, heads, metrics
from app.serving.admission import Limits
from app.serving.cache import LocalCache
from app.serving.inference import Inference
from app.serving.pool import ModelPool, Served
from app.serving.resolver import Resolver
from app.serving.shared_cache import SharedCache
from app.settings import Settings

log = logging.getLogger(__name__)

_PROBE_SECONDS = 5.0
_PROBE_KEPT_SECONDS = 2.0


@dataclass
class Plane:
    limits: Limits
    resolver: Resolver
    pool: ModelPool
    inference: Inference
    shared: SharedCache
    _probed: dict[str, float] = field(default_factory=dict)

    @classmethod
    def build(cls, settings: Settings, sessions: Sessions, blobs: BlobStore) -> "Plane":
        limits = Limits(
            max_items=settings.serve_max_items,
            max_characters=settings.serve_max_characters,
            max_body_bytes=settings.max_body_bytes,
            queue_rows=settings.serve_queue_rows,
            deadline_seconds=settings.serve_deadline_seconds,
        )
        shared = SharedCache(settings.redis_url)
        inference = Inference(limits, LocalCache(settings.serve_cache_bytes), shared)
        lanes = settings.serve_threads or cpu.cores()
        pool = ModelPool(blobs, inference.settle, memory_bytes=settings.serve_memory_bytes, lanes=lanes)
        return cls(limits, Resolver(sessions), pool, inference, shared)

    def start(self) -> None:
        self.shared.start()

    async def close(self) -> None:
        await self.pool.close()
        await self.shared.close()

    async def probe(self) -> dict[str, str]:
        """A real forward through each loaded model; {digest: what is wrong}, empty when all answer."""
        loaded = self.pool.all()
        found = await asyncio.gather(*(self._probe_one(served) for served in loaded))
        return {served.digest: said for served, said in zip(loaded, found, strict=True) if said}

    async def _probe_one(self, served: Served) -> str:
        if time.monotonic() - self._probed.get(served.digest, -_PROBE_KEPT_SECONDS) < _PROBE_KEPT_SECONDS:
            return ""
        try:
            kind, text = heads.probe(served.card, "ready?")
            await self.inference.answer(served, "", kind, [text], cached=False, seconds=_PROBE_SECONDS)
        except DomainError as error:
            # A full queue answers others; only a forward that fails or does not come back makes a process unready.
            return "" if isinstance(error, Unavailable) and error.code == "overloaded" else error.message
        self._probed = {digest: at for digest, at in self._probed.items() if self.pool.peek(digest)} | {
            served.digest: time.monotonic()
        }
        return ""

    @contextmanager
    def observed(self, operation: str) -> Iterator[None]:
        """Count and time one request; what it raises passes through."""
        started = time.perf_counter()
        status = "200"
        try:
            yield
        except DomainError as error:
            status = str(error.status)
            raise
        except BaseException:
            status = "500"
            raise
        finally:
            metrics.REQUESTS.labels(operation, status).inc()
            metrics.LATENCY.labels(operation).observe(time.perf_counter() - started)
