"""The one place that changes a job's status: compare-and-set on (id, attempt, status), with its events in the same transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.domain.errors import InvalidStateTransition
from app.domain.models import Job
from app.domain.repositories.events import Events, NewEvent, clock
from app.domain.repositories.outbox import OutboxRepository
from app.domain.states import LEASED, TERMINAL, Status, can_go

WAKE = "retort.wake"


def impossible(job: Job, target: str, hint: str | None = None) -> InvalidStateTransition:
    return InvalidStateTransition(f"Job '{job.id}' is {job.status}; it cannot become {target}.", hint=hint)


def move(
    session: Session,
    job: Job,
    target: Status,
    message: str,
    *,
    reason: str | None = None,
    before: Sequence[NewEvent] = (),
    values: dict[str, Any] | None = None,
) -> Job:
    """Move a job whose row the caller holds (FOR UPDATE, or SQLite's write lock) and log it.

    Events: those of `before`, then `status`, then `end` when the target is terminal. Becoming queued adds a wake-up hint.
    """
    if not can_go(Status(job.status), target):
        raise impossible(job, target)
    at = clock(session)
    data: dict[str, Any] = {"status": target.value, "reason": reason}
    events = [*before, NewEvent("status", message, data)]
    change: dict[str, Any] = {"status": target.value, "status_reason": reason, "updated_at": at}
    if target not in LEASED:
        change |= {"lease_owner": None, "lease_expires_at": None}
    if target in TERMINAL:
        change["finished_at"] = at
        error = (values or {}).get("error")
        events.append(NewEvent("end", message, data | ({"error": error} if error else {}), "error" if error else "info"))
    elif target is Status.QUEUED:
        change |= {"queued_at": at, "finished_at": None, "cancel_requested_at": None, "pause_requested_at": None}
    change |= values or {}
    query = (
        update(Job)
        .where(Job.id == job.id, Job.attempt == job.attempt, Job.status == job.status)
        .values(**change, last_seq=Job.last_seq + len(events))
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    moved = session.scalars(query).one_or_none()
    if moved is None:
        raise impossible(job, target, "It changed in the same moment; read it again.")
    Events(session).insert(moved.id, moved.attempt, moved.last_seq, events)
    if target is Status.QUEUED:
        OutboxRepository(session).add(WAKE)
    return moved
