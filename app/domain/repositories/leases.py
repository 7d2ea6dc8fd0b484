"""The worker's side of a job: claim, heartbeat, record, end. Every write carries the fence (job id, attempt).

Zero rows changed means fenced out: the lease ended and somebody else may own the job; the caller kills its child and
writes nothing more. A lease that lapsed (say, during a database outage) is renewed as long as `attempt` is unchanged
and nobody reconciled it, because then nobody else can have claimed it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.domain.db import now
from app.domain.models import Job, JobArtifact
from app.domain.repositories.events import Events, NewEvent, NewMetric, clock, storable
from app.domain.repositories.outbox import OutboxRepository
from app.domain.repositories.transitions import move
from app.domain.states import LEASED, Status

TRIAL = "retort.trial"
_RAW = {"synchronize_session": False}


@dataclass(frozen=True)
class Heartbeat:
    cancel: bool
    pause: bool


@dataclass(frozen=True)
class Batch:
    """What one attempt has to say since the last time. None leaves a column as it is."""

    events: Sequence[NewEvent] = ()
    metrics: Sequence[NewMetric] = ()
    progress: dict[str, Any] | None = None
    phase: str | None = None
    phases: list[dict[str, Any]] | None = None
    warnings: list[dict[str, Any]] | None = None
    helpers: int | None = None  # how many free slots may help with trials


@dataclass(frozen=True)
class Published:
    result: dict[str, Any]
    artifacts: Sequence[JobArtifact]
    usage: dict[str, Any] = field(default_factory=dict)
    message: str = "Succeeded."


def problem(code: str, message: str, *, retryable: bool = False, **more: Any) -> dict[str, Any]:
    """The `error` block of a failed job."""
    return {"code": code, "message": message, "param": None, "phase": None, "hint": None, "retryable": retryable, **more}


def _claimable(clock_: Any) -> Any:
    free = (Job.not_before.is_(None)) | (Job.not_before <= clock_)
    return (Job.status == Status.QUEUED) & free & (Job.attempt - Job.interruptions < Job.max_attempts)


class Leases:
    def __init__(self, session: Session) -> None:
        self.session = session

    def waiting(self) -> bool:
        """Whether a claim would find something: a read that blocks nobody."""
        return self.session.execute(select(Job.id).where(_claimable(now())).limit(1)).first() is not None

    def claim(self, owner: str, lease_seconds: float) -> Job | None:
        """Take the next queued job: attempt + 1, which from now on is the fence. SKIP LOCKED where there are row locks."""
        best = (
            select(Job.id).where(_claimable(now())).order_by(Job.priority.desc(), Job.id).limit(1).with_for_update(skip_locked=True)
        )
        at = clock(self.session)
        query = (
            update(Job)
            .where(Job.id == best.scalar_subquery(), Job.status == Status.QUEUED)
            .values(
                status=Status.RUNNING.value,
                status_reason=None,
                attempt=Job.attempt + 1,
                lease_owner=owner,
                lease_expires_at=at + lease_seconds,
                not_before=None,
                helpers_wanted=0,
                started_at=func.coalesce(Job.started_at, at),
                updated_at=at,
                last_seq=Job.last_seq + 2,
            )
            .returning(Job)
        )
        job = self.session.scalars(query.execution_options(**_RAW, populate_existing=True)).one_or_none()
        if job is not None:
            started = {"attempt": job.attempt, "worker": owner}
            events = [
                NewEvent("attempt", f"Attempt {job.attempt} starts.", started),
                NewEvent("status", "Running.", {"status": "running", "reason": None}),
            ]
            Events(self.session).insert(job.id, job.attempt, job.last_seq, events)
        return job

    def heartbeat(
        self, job_id: str, attempt: int, lease_seconds: float, progress: dict[str, Any] | None = None
    ) -> Heartbeat | None:
        """Renew the lease; None: fenced out."""
        at = clock(self.session)
        renewed = {"lease_expires_at": at + lease_seconds, "updated_at": at}
        query = self._fenced(job_id, attempt).values(**renewed).returning(Job.cancel_requested_at, Job.pause_requested_at)
        row = self.session.execute(query.execution_options(**_RAW)).one_or_none()
        return None if row is None else Heartbeat(row[0] is not None, row[1] is not None)

    def peek(self, job_id: str, attempt: int) -> Heartbeat | None:
        """What a heartbeat would answer, as a cheap read; None: fenced out."""
        query = select(Job.cancel_requested_at, Job.pause_requested_at)
        row = self.session.execute(query.where(Job.id == job_id, Job.attempt == attempt, Job.status.in_(LEASED))).one_or_none()
        return None if row is None else Heartbeat(row[0] is not None, row[1] is not None)

    def record(self, job_id: str, attempt: int, batch: Batch) -> bool:
        """Write a batch under the fence; False: fenced out, nothing written."""
        at = clock(self.session)
        values: dict[str, Any] = {"last_seq": Job.last_seq + len(batch.events), "updated_at": at}
        if batch.progress is not None:
            values["progress"] = storable({**batch.progress, "heartbeat_at": at})
        for name in ("phase", "phases", "warnings"):
            if (value := getattr(batch, name)) is not None:
                values[name] = storable(value)
        if batch.helpers is not None:
            values["helpers_wanted"] = batch.helpers
        query = self._fenced(job_id, attempt).values(**values).returning(Job.last_seq)
        last = self.session.execute(query.execution_options(**_RAW)).scalar_one_or_none()
        if last is None:
            return False
        events = Events(self.session)
        events.insert(job_id, attempt, last, batch.events)
        events.insert_metrics(job_id, attempt, batch.metrics)
        for _ in range(batch.helpers or 0):
            OutboxRepository(self.session).add(TRIAL, [job_id])
        return True

    def pin_inputs(self, job_id: str, attempt: int, inputs: dict[str, Any]) -> bool:
        """Keep what names were resolved to, for every later attempt."""
        query = self._fenced(job_id, attempt).values(inputs=inputs).returning(Job.id)
        return self.session.execute(query.execution_options(**_RAW)).first() is not None

    # -- how an attempt ends -----------------------------------------------------------------------------------------

    def lock(self, job_id: str, attempt: int) -> Job | None:
        """The job's row, held until the transaction ends; None: fenced out."""
        query = select(Job).where(Job.id == job_id, Job.attempt == attempt, Job.status.in_(LEASED)).with_for_update()
        return self.session.scalars(query.execution_options(populate_existing=True)).one_or_none()

    def succeed(self, job: Job, published: Published) -> Job:
        """Last step of publication; `job` was locked in this transaction."""
        for artifact in published.artifacts:
            self.session.add(artifact)
        values = {
            "result": storable(published.result),
            "usage": storable({**job.usage, **published.usage}),
            "progress": {**job.progress, "percent": 100.0, "eta_seconds": 0.0},
            "error": None,
        }
        return move(self.session, job, Status.SUCCEEDED, published.message, values=values)

    def fail(self, job_id: str, attempt: int, error: dict[str, Any], usage: dict[str, Any] | None = None) -> Job | None:
        job = self.lock(job_id, attempt)
        return None if job is None else self._end(job, error, usage or {})

    def requeue(
        self,
        job_id: str,
        attempt: int,
        error: dict[str, Any],
        *,
        reason: str,
        free: bool,
        delay: float = 0.0,
        usage: dict[str, Any] | None = None,
    ) -> Job | None:
        """Try again; `free` attempts are nobody's fault and not counted. With none left it fails with `error`."""
        job = self.lock(job_id, attempt)
        return None if job is None else self._again(job, error, reason=reason, free=free, delay=delay, usage=usage or {})

    def reconcile(self, limit: int = 100) -> list[Job]:
        """End or requeue jobs whose lease ran out. Safe to run anywhere and twice: the rows are locked."""
        query = select(Job).where(Job.status.in_(LEASED), Job.lease_expires_at < now()).order_by(Job.id).limit(limit)
        dead = self.session.scalars(query.with_for_update(skip_locked=True).execution_options(populate_existing=True)).all()
        moved = []
        for job in dead:
            error = problem(
                "worker_lost",
                f"The worker of attempt {job.attempt} stopped answering.",
                retryable=True,
                phase=job.phase,
                hint="See the job's events; resume continues from the last checkpoint.",
            )
            moved.append(self._again(job, error, reason="lease_expired", free=False, delay=0.0, usage={}))
        return moved

    def _again(self, job: Job, error: dict[str, Any], *, reason: str, free: bool, delay: float, usage: dict[str, Any]) -> Job:
        interruptions = job.interruptions + int(free)
        if job.status != Status.RUNNING or job.attempt - interruptions >= job.max_attempts:
            return self._end(job, error, usage)
        at = clock(self.session)
        values: dict[str, Any] = {"interruptions": interruptions, "not_before": at + delay if delay > 0 else None}
        values["usage"] = storable({**job.usage, **usage})
        lost = NewEvent("attempt", error["message"], {"attempt": job.attempt, "reason": reason, "error": error}, "warning")
        return move(self.session, job, Status.QUEUED, "Queued again.", reason=reason, before=[lost], values=values)

    def _end(self, job: Job, error: dict[str, Any], usage: dict[str, Any]) -> Job:
        """What a user asked for comes before how the child ended: cancelling → cancelled, pausing → paused."""
        values: dict[str, Any] = {"usage": storable({**job.usage, **usage})}
        match Status(job.status):
            case Status.CANCELLING:
                return move(self.session, job, Status.CANCELLED, "Cancelled.", reason="requested", values=values)
            case Status.PAUSING if error.get("retryable"):
                values["interruptions"] = job.interruptions + 1
                return move(self.session, job, Status.PAUSED, "Paused.", reason="requested", values=values)
            case _:
                values["error"] = storable(error)
                reason = str(error["code"])
                return move(self.session, job, Status.FAILED, str(error["message"]), reason=reason, values=values)

    def _fenced(self, job_id: str, attempt: int) -> Any:
        return update(Job).where(Job.id == job_id, Job.attempt == attempt, Job.status.in_(LEASED))
