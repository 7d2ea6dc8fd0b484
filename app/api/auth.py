"""Who is calling: `Authorization: Bearer rt_…` to a project and its scopes. Both planes use it.

A key that was good is remembered for a few seconds, so that the hot path of inference asks no database; a revoked key
opens nothing after that time.
"""

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from app.api import limits
from app.domain.db import Sessions, transaction
from app.domain.errors import MissingAPIKey, MissingScope
from app.domain.repositories.keys import Keys
from app.services import keys

log = logging.getLogger(__name__)

REMEMBERED_SECONDS = 5.0
NOTED_SECONDS = 60.0
_MOST = 10_000


@dataclass(frozen=True)
class Caller:
    project_id: str
    key_id: str
    scopes: frozenset[str]

    @property
    def identity(self) -> keys.Identity:
        return keys.Identity(self.key_id, self.project_id, self.scopes)

    def may(self, scope: str) -> bool:
        return self.identity.may(scope)


class Doorman:
    """Keys to callers, over one database. One per application, made at its first request."""

    def __init__(self, sessions: Sessions, pepper: bytes) -> None:
        self._sessions, self.pepper = sessions, pepper
        self._known: dict[bytes, tuple[float, Caller]] = {}
        self._lock = threading.Lock()
        self._noted: dict[str, float] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def admit(self, key: str) -> Caller:
        name = hashlib.sha256(key.encode("utf-8", "replace")).digest()  # no key is kept in memory as it is
        known = self._known.get(name)
        if known is not None and time.monotonic() - known[0] < REMEMBERED_SECONDS:
            return known[1]
        asked = time.monotonic()  # before the read: the age of an entry is never understated
        identity = await asyncio.to_thread(keys.authenticate, self._sessions, self.pepper, key)
        found = Caller(identity.project_id, identity.key_id, identity.scopes)
        with self._lock:
            while len(self._known) >= _MOST:
                self._known.pop(next(iter(self._known)))
            self._known[name] = (asked, found)
        self._note(found.key_id, asked)
        return found

    def _note(self, key_id: str, at: float) -> None:
        """Its last use, now and then, beside the request: no answer waits for this write."""
        if at - self._noted.get(key_id, -NOTED_SECONDS) < NOTED_SECONDS:
            return
        self._noted = {k: t for k, t in self._noted.items() if at - t < NOTED_SECONDS} | {key_id: at}
        task = asyncio.create_task(asyncio.to_thread(_write_use, self._sessions, key_id))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    def forget(self, key_id: str) -> None:
        """Revoked here: closed at once in this process."""
        with self._lock:
            self._known = {name: entry for name, entry in self._known.items() if entry[1].key_id != key_id}


def _write_use(sessions: Sessions, key_id: str) -> None:
    try:
        with transaction(sessions) as session:
            Keys(session).used(key_id)
    except Exception as error:
        log.warning("The last use of %s is not noted (%s)", key_id, type(error).__name__)


def doorman(request: Request) -> Doorman:
    state = request.app.state
    found: Doorman | None = getattr(state, "doorman", None)
    if found is None:
        found = state.doorman = Doorman(state.sessions, keys.load_pepper(state.settings))
    return found


def caller(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, when its key has `scope`. Rate limits are counted here, inference's own limits aside."""

    async def admitted(request: Request) -> Caller:
        who = await doorman(request).admit(_bearer(request.headers.get("authorization")))
        if scope != "inference":
            limits.count(request, who.key_id)
        if not who.may(scope):
            have = ", ".join(sorted(who.scopes))
            raise MissingScope(
                f"This needs the scope '{scope}'; the key has: {have}.", hint="An admin makes keys with POST /v1/api_keys."
            )
        return who

    admitted.scope = scope  # type: ignore[attr-defined]
    return admitted


async def readmit(request: Request) -> Caller:
    """Ask again, for answers that take long: raises when the key was revoked meanwhile."""
    return await doorman(request).admit(_bearer(request.headers.get("authorization")))


def _bearer(header: str | None) -> str:
    kind, _, key = (header or "").strip().partition(" ")
    if kind.lower() != "bearer" or not key.strip():
        raise MissingAPIKey("Send 'Authorization: Bearer rt_…'.", hint="`retort keys create` makes a key.")
    return key.strip()


def scheme() -> dict[str, Any]:
    """For /openapi.json."""
    return {"type": "http", "scheme": "bearer", "description": "An API key: `Authorization: Bearer rt_…`."}
