"""The whole installation at a glance, over all projects: for the operator, never for a tenant."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.domain.db import now
from app.domain.models import Job, Project, Worker
from app.domain.repositories.events import clock
from app.domain.repositories.workers import Workers
from app.domain.states import Status


class Overview:
    def __init__(self, session: Session) -> None:
        self.session = session

    def answers(self) -> bool:
        """Whether the database answers and has our tables."""
        return self.session.execute(select(Project.id).limit(1)).first() is not None

    def jobs_by_status(self) -> dict[str, int]:
        rows = self.session.execute(select(Job.status, func.count()).group_by(Job.status))
        return {str(status): int(count) for status, count in rows}

    def oldest_wait(self) -> float:
        """Seconds that the longest-waiting queued job has waited."""
        query = select(func.coalesce(func.max(now() - Job.queued_at), 0.0)).where(Job.status == Status.QUEUED)
        return max(0.0, float(self.session.execute(query).scalar_one()))

    def workers(self, within_seconds: float) -> Sequence[Worker]:
        return Workers(self.session).alive(within_seconds)

    def time(self) -> float:
        return clock(self.session)
