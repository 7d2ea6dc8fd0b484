"""Model reference → version, through the registry, remembered for one second: a moved alias is seen within that time."""

import asyncio
import json
import logging
import time
from dataclasses import dataclass

from app.domain import ids
from app.domain.db import Sessions, reading
from app.domain.errors import DomainError, NotFound, UnsupportedMethod
from app.domain.repositories.registry import Registry

log = logging.getLogger(__name__)

TTL_SECONDS = 1.0
_STALE_SECONDS = 300.0  # while the database is out of reach, what was known is still served
_MOST = 4096


@dataclass(frozen=True)
class Resolved:
    """What one request is answered by, from start to end."""

    name: str
    version: int
    digest: str
    kind: str
    task: str | None
    created_at: float

    @property
    def id(self) -> str:
        return f"{self.name}:{self.version}"

    def servable(self) -> "Resolved":
        if self.kind != "student":
            named = json.dumps({"source": "registry", "model": self.id})
            raise UnsupportedMethod(
                f"'{self.id}' is a {self.kind}, not a servable student.",
                param="model",
                hint=f"Name it in a job, POST /v1/distillation/jobs, as its teacher or the model of an augmentation: {named}.",
            )
        return self


class Resolver:
    def __init__(self, sessions: Sessions, ttl: float = TTL_SECONDS) -> None:
        self._sessions, self._ttl = sessions, ttl
        self._known: dict[tuple[str, str], tuple[float, Resolved]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[Resolved]] = {}

    async def resolve(self, project: str, ref: str) -> Resolved:
        key = (project, ref)
        known = self._known.get(key)
        if known is not None and time.monotonic() - known[0] < self._ttl:
            return known[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda done: (self._asking.pop(key, None), done.cancelled() or done.exception()))
        try:
            return await asyncio.shield(task)
        except DomainError:
            raise
        except Exception:
            if known is None or time.monotonic() - known[0] > _STALE_SECONDS:
                raise
            log.warning("The registry is out of reach; %s is answered by what was known", ref)
            return known[1]

    async def _ask(self, key: tuple[str, str]) -> Resolved:
        asked = time.monotonic()  # before the read: the age of an entry is never understated
        try:
            found = await asyncio.to_thread(self._read, *key)
        except DomainError:
            self._known.pop(key, None)
            raise
        while len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)))
        self._known.pop(key, None)
        self._known[key] = (asked, found)
        return found

    def _read(self, project: str, ref: str) -> Resolved:
        if not ids.MODEL_REF.fullmatch(ref):
            raise NotFound(
                "model", ref, param="model", hint="A model is named 'name', 'name:3' (version) or 'name@alias'; see GET /v1/models."
            )
        with reading(self._sessions) as session:
            model, version = Registry(session, project).resolve(ref)
            return Resolved(model.name, version.version, version.digest, version.kind, version.task, version.created_at)
