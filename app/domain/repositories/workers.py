"""Who works here: one row per worker process, renewed with its heartbeat."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.domain.models import Worker
from app.domain.repositories.events import clock


class Workers:
    def __init__(self, session: Session) -> None:
        self.session = session

    def seen(self, worker_id: str, *, hostname: str, slots: int, busy: int, device: str, stopping: bool = False) -> None:
        at = clock(self.session)
        row = self.session.get(Worker, worker_id)
        if row is None:
            row = Worker(id=worker_id, started_at=at)
            self.session.add(row)
        row.hostname, row.slots, row.busy, row.device = hostname[:255], slots, busy, device[:32]
        row.seen_at, row.stopping = at, stopping

    def gone(self, worker_id: str) -> None:
        self.session.execute(delete(Worker).where(Worker.id == worker_id))

    def alive(self, within_seconds: float) -> Sequence[Worker]:
        """Those seen lately, oldest first."""
        query = select(Worker).where(Worker.seen_at >= clock(self.session) - within_seconds)
        return self.session.scalars(query.order_by(Worker.started_at)).all()

    def sweep(self, older_than: float) -> int:
        query = delete(Worker).where(Worker.seen_at < clock(self.session) - older_than).returning(Worker.id)
        return len(self.session.scalars(query).all())
