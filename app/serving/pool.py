"""The models in memory: loaded by artifact digest, verified against their manifest, warmed, evicted when room is needed."""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.domain import manifest
from app.domain.errors import ArtifactCorrupt, DoesNotFit, DomainError, ModelLoading, Overloaded, Unavailable, UnsupportedMethod
from app.domain.storage import BlobStore
from app.serving import metrics
from app.serving.backends.base import Backend, BackendEntry, ModelCard, backend_class
from app.serving.batcher import Batcher
from app.serving.warmup import Measured, measure
from app.serving.work import Item, Kind, Result, fresh

_FAILURE_SECONDS = 5.0  # a broken artifact is not read again for every request
# Memory charged per byte of file. Measured at MiniLM's size: 61 MiB in INT8 (64 charged), 143 MiB in float32 (193 charged).
_WEIGHTS_FACTOR, _TOKENIZER_FACTOR, _RUNTIME_BYTES = 2.0, 12, 16 * 2**20

Settle = Callable[[list[tuple[Item, Result]]], None]


@dataclass
class Served:
    """One model, ready to answer."""

    digest: str
    card: ModelCard
    entry: BackendEntry
    measured: Measured
    batcher: Batcher
    bytes: int
    load_seconds: float
    last_used: float = field(default_factory=time.monotonic)

    def payload_bytes(self, kind: Kind) -> int | None:
        """Of one answer; None where a text decides."""
        if kind == "words":
            return None
        return 4 * ((self.card.vector_width if kind == "embedding" else self.card.logits_width) or 0)


@dataclass(frozen=True)
class _Opened:
    backend: Backend
    card: ModelCard
    entry: BackendEntry
    measured: Measured


class ModelPool:
    """Used from one event loop; only the loading itself runs in threads."""

    def __init__(self, blobs: BlobStore, settle: Settle, *, memory_bytes: int, lanes: int) -> None:
        self._blobs, self._settle, self._memory, self._lanes = blobs, settle, memory_bytes, lanes
        self._models: OrderedDict[str, Served] = OrderedDict()  # least recently used first
        self._loading: dict[str, asyncio.Task[Served]] = {}
        self._reserved: dict[str, int] = {}
        self._failed: dict[str, tuple[float, DomainError]] = {}
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="model-load")

    async def get(self, digest: str, wait_seconds: float) -> Served:
        """The loaded model; loads it when needed, all callers sharing one load. ModelLoading when that takes too long."""
        served = self._models.get(digest)
        if served is not None:
            served.last_used = time.monotonic()
            self._models.move_to_end(digest)
            return served
        failed = self._failed.get(digest)
        if failed is not None:
            if failed[0] > time.monotonic():
                raise fresh(failed[1])
            del self._failed[digest]
        task = self._loading.get(digest)
        if task is None:
            task = self._loading[digest] = asyncio.create_task(self._load(digest))
            task.add_done_callback(lambda done: self._loaded(digest, done))
        await asyncio.wait({task}, timeout=wait_seconds)
        if not task.done():
            raise ModelLoading("The model is still being loaded.", hint="Retry after the stated seconds.", retry_after=2)
        return task.result()

    def peek(self, digest: str) -> Served | None:
        return self._models.get(digest)

    def state(self, digest: str) -> str:
        return "ready" if digest in self._models else "loading" if digest in self._loading else "unloaded"

    def all(self) -> list[Served]:
        return list(self._models.values())

    @property
    def used_bytes(self) -> int:
        return sum(served.bytes for served in self._models.values()) + sum(self._reserved.values())

    async def unload(self, digest: str, drain_seconds: float = 30.0) -> bool:
        """Take no new work, finish what is queued, free the memory. False when it was not loaded."""
        served = self._models.pop(digest, None)
        if served is None:
            return False
        self._report()
        until = time.monotonic() + drain_seconds
        while served.batcher.backlog and time.monotonic() < until:
            await asyncio.sleep(0.01)
        await self._in_thread(served.batcher.close)
        return True

    async def close(self) -> None:
        for task in list(self._loading.values()):
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        models, self._models = list(self._models.values()), OrderedDict()
        for served in models:
            await self._in_thread(served.batcher.close)
        self._report()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _load(self, digest: str) -> Served:
        started = time.perf_counter()
        folder = self._blobs.artifact(digest)
        card, entry, needed = await self._in_thread(_plan, folder, digest)
        await self._make_room(needed)
        self._reserved[digest] = needed
        try:
            opened: _Opened = await self._in_thread(_open, folder, digest, card, entry)
        finally:
            del self._reserved[digest]
        policy = opened.measured.policy
        batcher = Batcher(opened.backend, policy, self._lanes, self._settle, asyncio.get_running_loop(), f"serve-{digest[:8]}")
        served = Served(digest, opened.card, opened.entry, opened.measured, batcher, needed, time.perf_counter() - started)
        self._models[digest] = served
        metrics.TOKEN_BUDGET.labels(digest[:12]).set(policy.token_budget)
        metrics.MAX_ROWS.labels(digest[:12]).set(policy.max_rows)
        self._report()
        return served

    def _loaded(self, digest: str, task: asyncio.Task[Served]) -> None:
        self._loading.pop(digest, None)
        error = None if task.cancelled() else task.exception()
        metrics.LOADS.labels("ok" if error is None else "error").inc()
        if isinstance(error, DomainError) and not error.retryable:
            self._failed[digest] = (time.monotonic() + _FAILURE_SECONDS, error)
            while len(self._failed) > 256:
                del self._failed[next(iter(self._failed))]

    async def _make_room(self, needed: int) -> None:
        if needed > self._memory:
            raise DoesNotFit(
                f"The model needs about {needed >> 20} MiB, this process may use {self._memory >> 20} MiB.",
                hint="The operator can raise RETORT_SERVE_MEMORY_BYTES.",
            )
        while self.used_bytes + needed > self._memory:
            idle = next((digest for digest, served in self._models.items() if served.batcher.backlog == 0), None)
            if idle is None:
                raise Overloaded("All memory is taken by models that are answering now.", retry_after=2)
            served = self._models.pop(idle)
            metrics.EVICTIONS.inc()
            await self._in_thread(served.batcher.close)
        self._report()

    def _report(self) -> None:
        metrics.MODELS.set(len(self._models))
        metrics.MODEL_BYTES.set(self.used_bytes)

    async def _in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


def _plan(folder: Path, digest: str) -> tuple[ModelCard, BackendEntry, int]:
    """Check the artifact, choose what to open, and say what it will take in memory."""
    files = manifest.verify(folder, digest)["files"]
    try:
        if "retort.json" not in files:
            raise ValueError("there is no such file")
        card = ModelCard.model_validate(json.loads((folder / "retort.json").read_text()))
    except (ValueError, ValidationError) as error:
        raise ArtifactCorrupt(f"retort.json of {digest[:12]} cannot be used: {str(error)[:300]}") from error
    if card.kind != "student" or not card.backends:
        raise UnsupportedMethod(
            f"This version is a {card.kind}, not a servable student.",
            param="model",
            hint="Distil a student from it (POST /v1/distillation/jobs) and call that.",
        )
    refused: list[str] = []
    for entry in card.backends:
        if entry.file not in files or "tokenizer.json" not in files:
            raise ArtifactCorrupt(f"{digest[:12]} lacks {entry.file if entry.file not in files else 'tokenizer.json'}.")
        try:
            backend = backend_class(entry.backend)
        except (LookupError, ImportError) as error:
            refused.append(str(error))
            continue
        if Path(entry.file).suffix not in backend.formats:
            raise ArtifactCorrupt(f"{digest[:12]}: {entry.backend} does not open {Path(entry.file).suffix} files.")
        weights = sum(f["bytes"] for name, f in files.items() if name.startswith(entry.file))  # with external data beside it
        needed = int(_WEIGHTS_FACTOR * weights + _TOKENIZER_FACTOR * files["tokenizer.json"]["bytes"]) + _RUNTIME_BYTES
        return card, entry, needed
    raise Unavailable(f"No runtime here can open this model: {'; '.join(refused)}")


def _open(folder: Path, digest: str, card: ModelCard, entry: BackendEntry) -> _Opened:
    """One thread per forward: parallelism comes from the lanes, whose barriers cannot spin."""
    backend: Backend | None = None
    try:
        backend = backend_class(entry.backend).load(folder, entry, card, threads=1)
        return _Opened(backend, card, entry, measure(backend, card))
    except MemoryError as error:
        raise Overloaded("There is not enough memory to load the model now.", retry_after=10) from error
    except Exception as error:
        if backend is not None:
            with suppress(Exception):
                backend.close()
        said = str(error).replace(str(folder), "artifact")[:300]
        raise ArtifactCorrupt(f"{entry.file} of {digest[:12]} cannot be served: {type(error).__name__}: {said}") from error
