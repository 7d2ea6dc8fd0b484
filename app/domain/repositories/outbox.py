"""Hints written in the caller's transaction and sent to Redis after its commit, at least once."""

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.domain import ids
from app.domain.models import Outbox
from app.domain.repositories.events import clock


class OutboxRepository:
    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, task: str, args: Sequence[str] = ()) -> None:
        row = Outbox(id=ids.new_id(ids.OUTBOX), task=task, args=[*args], created_at=clock(self.session), sent_at=None, tries=0)
        self.session.add(row)

    def unsent(self, limit: int = 100) -> Sequence[Outbox]:
        return self.session.scalars(select(Outbox).where(Outbox.sent_at.is_(None)).order_by(Outbox.id).limit(limit)).all()

    def mark_sent(self, ids: Sequence[str]) -> None:
        query = update(Outbox).where(Outbox.id.in_(ids), Outbox.sent_at.is_(None))
        self.session.execute(query.values(sent_at=clock(self.session), tries=Outbox.tries + 1))

    def sweep(self, older_than: float) -> int:
        """Forget hints sent more than `older_than` seconds ago."""
        gone = delete(Outbox).where(Outbox.sent_at < clock(self.session) - older_than).returning(Outbox.id)
        return len(self.session.scalars(gone).all())
