"""Answers to creating requests, kept for a day under the client's Idempotency-Key.

`begin` and `finish` belong into the transaction that makes the object: either both are there or neither, and a second
request with the same key waits for the first one's commit and then gets its answer.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.domain.errors import IdempotencyInProgress, IdempotencyKeyReused
from app.domain.models import IdempotencyKey
from app.domain.repositories.events import clock, storable

KEPT_SECONDS = 86400.0


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]
    location: str | None


class Idempotency:
    def __init__(self, session: Session, project_id: str) -> None:
        self.session = session
        self.project_id = project_id

    def find(self, method: str, path: str, key: str, body_sha256: str) -> Answer | None:
        """The answer given before. Raises when the key was used with another body."""
        row = self.session.scalars(select(IdempotencyKey).where(*self._is(method, path, key))).one_or_none()
        if row is None or row.created_at < clock(self.session) - KEPT_SECONDS:
            return None
        if row.body_sha256 != body_sha256:
            raise IdempotencyKeyReused(
                "This Idempotency-Key was used with another body.",
                hint="Use a new key for a new request; keys are kept for 24 hours.",
            )
        if row.status is None:
            raise IdempotencyInProgress("The first request with this Idempotency-Key is still running.", retry_after=1)
        return Answer(row.status, row.response or {}, row.location)

    def begin(self, method: str, path: str, key: str, body_sha256: str) -> Answer | None:
        """None: this request is the first, and its transaction now holds the key. Else the first one's answer."""
        at = clock(self.session)
        old = delete(IdempotencyKey).where(
            IdempotencyKey.project_id == self.project_id, IdempotencyKey.created_at < at - KEPT_SECONDS
        )
        self.session.execute(old.execution_options(synchronize_session=False))
        insert = (postgresql if self.session.get_bind().dialect.name == "postgresql" else sqlite).insert(IdempotencyKey)
        row = insert.values(
            project_id=self.project_id, method=method, path=path, key=storable(key), body_sha256=body_sha256, created_at=at
        )
        mine = self.session.execute(row.on_conflict_do_nothing().returning(IdempotencyKey.key)).first()
        return None if mine else self.find(method, path, key, body_sha256)

    def finish(self, method: str, path: str, key: str, answer: Answer) -> None:
        query = update(IdempotencyKey).where(*self._is(method, path, key))
        query = query.values(status=answer.status, response=storable(answer.body), location=answer.location)
        self.session.execute(query.execution_options(synchronize_session=False))

    def _is(self, method: str, path: str, key: str) -> tuple[Any, ...]:
        table = IdempotencyKey
        return table.project_id == self.project_id, table.method == method, table.path == path, table.key == storable(key)
