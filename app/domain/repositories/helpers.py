"""A worker with a free slot offers help to a running search. Who trains which trial is settled in the job's work folder.

`jobs.helpers_wanted` only says how many may come: it is set under the fence by the attempt that searches (`Leases.record`),
falls by one with everybody who comes, and means nothing once the job is not `running`.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.domain.models import Job
from app.domain.repositories.events import Events, NewEvent, clock
from app.domain.states import Status

_WANTED: tuple[Any, ...] = (Job.status == Status.RUNNING, Job.helpers_wanted > 0)


class Helpers:
    def __init__(self, session: Session) -> None:
        self.session = session

    def wanted(self, but: Collection[str] = ()) -> bool:
        """Whether `join` would find something: a read that blocks nobody."""
        return self.session.execute(select(Job.id).where(*_WANTED, Job.id.not_in(but)).limit(1)).first() is not None

    def join(self, worker: str, but: Collection[str] = ()) -> Job | None:
        """Take one of the places of the search that matters most, none of the jobs in `but`; its events tell."""
        open_ = select(Job.id).where(*_WANTED, Job.id.not_in(but))
        best = open_.order_by(Job.priority.desc(), Job.id).limit(1).with_for_update(skip_locked=True)
        query = (
            update(Job)
            .where(Job.id == best.scalar_subquery(), *_WANTED)
            .values(helpers_wanted=Job.helpers_wanted - 1, last_seq=Job.last_seq + 1, updated_at=clock(self.session))
            .returning(Job)
            .execution_options(synchronize_session=False, populate_existing=True)
        )
        job: Job | None = self.session.scalars(query).one_or_none()
        if job is not None:
            joined = NewEvent("log", f"Worker {worker} helps with the trials.", {"worker": worker})
            Events(self.session).insert(job.id, job.attempt, job.last_seq, [joined])
        return job

    def leave(self, job_id: str, attempt: int) -> None:
        """Give the place back: somebody else may do better. If nothing is left to train, who takes it finds that out."""
        running = (Job.id == job_id, Job.attempt == attempt, Job.status == Status.RUNNING)
        query = update(Job).where(*running).values(helpers_wanted=Job.helpers_wanted + 1)
        self.session.execute(query.execution_options(synchronize_session=False))
