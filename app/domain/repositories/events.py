"""Job events and metrics: an append-only log whose `seq` runs 1, 2, 3 … per job, without holes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Insert, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.domain import ids
from app.domain.db import now
from app.domain.models import Job, JobEvent, JobMetric

MESSAGE_CHARACTERS = 4000


@dataclass(frozen=True)
class NewEvent:
    type: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    level: str = "info"


@dataclass(frozen=True)
class NewMetric:
    stage: str
    step: int
    values: dict[str, Any]


def clock(session: Session) -> float:
    """The database's time, in Unix seconds."""
    return float(session.execute(select(now())).scalar_one())


def storable(value: Any) -> Any:
    """JSON that both databases accept: no NaN or infinity, no NUL, no lone surrogates."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {storable(str(k)): storable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [storable(v) for v in value]
    return value


class Events:
    """Tenant checks are the caller's: `Jobs.get` first."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def append(self, job: Job, type: str, message: str, data: dict[str, Any] | None = None, level: str = "info") -> int:
        """Number and insert one event in the caller's transaction; the row lock of the bump keeps `seq` without holes."""
        bump = update(Job).where(Job.id == job.id).values(last_seq=Job.last_seq + 1).returning(Job.last_seq)
        last = self.session.execute(bump.execution_options(synchronize_session=False)).scalar_one()
        self.insert(job.id, job.attempt, last, [NewEvent(type, message, data or {}, level)])
        self.session.expire(job, ["last_seq"])
        return int(last)

    def insert(self, job_id: str, attempt: int, last_seq: int, events: Sequence[NewEvent]) -> None:
        """Insert events whose numbers, ending at `last_seq`, the caller has already reserved on the job's row."""
        if not events:
            return
        at = clock(self.session)
        first = last_seq - len(events) + 1
        rows = [
            {
                "job_id": job_id,
                "seq": first + n,
                "id": ids.new_id(ids.EVENT),
                "attempt": attempt,
                "type": event.type,
                "level": event.level,
                "message": storable(event.message)[:MESSAGE_CHARACTERS],
                "data": storable(event.data),
                "created_at": at,
            }
            for n, event in enumerate(events)
        ]
        self.session.execute(insert(JobEvent), rows)

    def insert_metrics(self, job_id: str, attempt: int, metrics: Sequence[NewMetric]) -> None:
        """A step that a later attempt does again replaces the earlier row."""
        latest = {(m.stage, m.step): m for m in metrics}
        rows = [
            {"job_id": job_id, "stage": m.stage[:64], "step": m.step, "attempt": attempt, "values": storable(m.values)}
            for m in latest.values()
        ]
        if rows:
            self.session.execute(self._upsert_metrics(), rows)

    def _upsert_metrics(self) -> Insert:
        keys = ["job_id", "stage", "step"]
        if self.session.get_bind().dialect.name == "postgresql":
            new = postgresql.insert(JobMetric)
            return new.on_conflict_do_update(
                index_elements=keys, set_={"attempt": new.excluded.attempt, "values": new.excluded["values"]}
            )
        old = sqlite.insert(JobMetric)
        return old.on_conflict_do_update(
            index_elements=keys, set_={"attempt": old.excluded.attempt, "values": old.excluded["values"]}
        )

    def list(
        self,
        job_id: str,
        after_seq: int = 0,
        limit: int = 100,
        types: Sequence[str] | None = None,
        order: Literal["asc", "desc"] = "asc",
    ) -> list[JobEvent]:
        """Events with seq > `after_seq` (asc), or the newest ones, those below `after_seq` when it is given (desc)."""
        query = select(JobEvent).where(JobEvent.job_id == job_id)
        if order == "asc":
            query = query.where(JobEvent.seq > after_seq).order_by(JobEvent.seq)
        else:
            query = query.order_by(JobEvent.seq.desc())
            if after_seq > 0:
                query = query.where(JobEvent.seq < after_seq)
        if types:
            query = query.where(JobEvent.type.in_(types))
        return [*self.session.scalars(query.limit(limit))]

    def metrics(self, job_id: str, stage: str | None = None, limit: int = 10_000) -> Sequence[JobMetric]:
        """Rows in order of stage and step; the newest `limit` of them when there are more."""
        query = select(JobMetric).where(JobMetric.job_id == job_id)
        if stage is not None:
            query = query.where(JobMetric.stage == stage)
        rows = self.session.scalars(query.order_by(JobMetric.step.desc()).limit(limit)).all()
        return sorted(rows, key=lambda m: (m.stage, m.step))
