"""Runs a creating request once, however often it is sent: the work and its remembered answer are one transaction."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from app.domain.db import Sessions, reading, transaction
from app.domain.repositories.idempotency import Answer, Idempotency


@dataclass(frozen=True)
class Once:
    """What makes two requests the same one."""

    method: str
    path: str
    key: str
    body_sha256: str


@dataclass(frozen=True)
class Outcome:
    answer: Answer
    replayed: bool = False


class Replayed(Exception):
    """Ends the transaction of a second request: nothing of it stays."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("replayed")
        self.outcome = Outcome(answer, replayed=True)


@dataclass(frozen=True)
class Runner:
    """`once` is None for a request without an Idempotency-Key."""

    sessions: Sessions
    project_id: str
    once: Once | None = None

    def earlier(self) -> Outcome | None:
        """What was answered before: asked first, because what was valid then need not be valid now."""
        if (once := self.once) is None:
            return None
        with reading(self.sessions) as session:
            found = Idempotency(session, self.project_id).find(once.method, once.path, once.key, once.body_sha256)
        return Outcome(found, replayed=True) if found else None

    def run(self, act: Callable[[Any], Answer], *, hide: tuple[str, ...] = ()) -> Outcome:
        """`act(session)` makes the object. `hide`: fields that are not stored, such as a new key; a replay has null there."""
        with transaction(self.sessions) as session:
            if (once := self.once) is None:
                return Outcome(act(session))
            ledger = Idempotency(session, self.project_id)
            if (found := ledger.begin(once.method, once.path, once.key, once.body_sha256)) is not None:
                return Outcome(found, replayed=True)
            answer = act(session)
            kept = replace(answer, body={**answer.body, **dict.fromkeys(hide)})
            ledger.finish(once.method, once.path, once.key, kept)
            return Outcome(answer)

    def remember(self, show: Callable[[Any], Answer]) -> Callable[[Any, Any], None]:
        """For a service that runs the transaction itself: `record(session, object)`, which raises Replayed for a second request."""

        def record(session: Any, made: Any) -> None:
            if (once := self.once) is None:
                return
            ledger = Idempotency(session, self.project_id)
            if (found := ledger.begin(once.method, once.path, once.key, once.body_sha256)) is not None:
                raise Replayed(found)
            ledger.finish(once.method, once.path, once.key, show(made))

        return record
