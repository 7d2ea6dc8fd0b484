"""Jobs of one project: everything the control plane reads and asks for. What a worker does is in `leases`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, literal, or_, select, type_coerce, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.domain.errors import InvalidRequest, NotFound
from app.domain.models import Job, JobArtifact, ModelVersion
from app.domain.repositories.events import Events, NewEvent, clock, storable
from app.domain.repositories.outbox import OutboxRepository
from app.domain.repositories.transitions import WAKE, impossible, move
from app.domain.states import TERMINAL, Phase, Status

CANCEL_HINT = "retort.cancel_hint"


def fresh_phases() -> list[dict[str, Any]]:
    return [{"name": p.value, "status": "pending", "percent": 0.0, "started_at": None, "finished_at": None} for p in Phase]


def _refuse_unstorable(**values: Any) -> None:
    for param, value in values.items():
        if storable(value) != value:
            message = f"'{param}' holds a NUL character, an unpaired surrogate or a number that is not finite."
            raise InvalidRequest(message, param=param, hint="Remove it.")


class Jobs:
    def __init__(self, session: Session, project_id: str) -> None:
        self.session = session
        self.project_id = project_id

    def add(self, job: Job) -> None:
        """Insert it as `queued` with its first event and a wake-up hint, all in the caller's transaction."""
        _refuse_unstorable(name=job.name, metadata=job.meta, spec=job.submitted, resolved_spec=job.spec)
        at = clock(self.session)
        job.project_id = self.project_id
        job.status, job.status_reason, job.phase = Status.QUEUED.value, None, None
        job.phases, job.progress = fresh_phases(), {}
        job.attempt = job.interruptions = 0
        job.lease_owner = job.lease_expires_at = job.not_before = None
        job.cancel_requested_at = job.pause_requested_at = job.started_at = job.finished_at = None
        job.error = job.result = None
        job.usage = {}
        job.created_at = job.queued_at = job.updated_at = at
        job.last_seq = 1
        self.session.add(job)
        self.session.flush()
        Events(self.session).insert(job.id, 0, 1, [NewEvent("status", "Queued.", {"status": "queued", "reason": None})])
        OutboxRepository(self.session).add(WAKE)

    def get(self, job_id: str) -> Job | None:
        return self.session.scalars(self._mine().where(Job.id == storable(job_id))).one_or_none()

    def page(
        self,
        limit: int,
        after: str | None = None,
        before: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        *,
        status: str | None = None,
        phase: str | None = None,
        model: str | None = None,
        name: str | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[list[Job], bool]:
        """One page in the order of creation, and whether more follow. `before` gives the page that ends just before it."""
        query = self._mine()
        exact = ((Job.status, status), (Job.phase, phase), (Job.model_name, model), (Job.name, name))
        query = query.where(*(column == storable(value) for column, value in exact if value is not None))
        if created_after is not None:
            query = query.where(Job.created_at > created_after)
        if created_before is not None:
            query = query.where(Job.created_at < created_before)
        query = query.where(*(self._has_metadata(storable(k), storable(v)) for k, v in (metadata or {}).items()))
        for param, cursor in (("after", after), ("before", before)):
            if cursor is not None:
                self._known(cursor, param)
                forward = (order == "asc") == (param == "after")
                query = query.where(Job.id > cursor if forward else Job.id < cursor)
        backwards = before is not None and after is None
        ascending = (order == "asc") != backwards
        rows = [*self.session.scalars(query.order_by(Job.id.asc() if ascending else Job.id.desc()).limit(limit + 1))]
        page = rows[:limit]
        return (page[::-1] if backwards else page), len(rows) > limit

    def jobs_ahead(self, job: Job) -> int:
        """Queued jobs, of every project, that a worker will take before this one."""
        sooner = or_(Job.priority > job.priority, and_(Job.priority == job.priority, Job.id < job.id))
        count = select(func.count()).select_from(Job).where(Job.status == Status.QUEUED, sooner)
        return self.session.execute(count).scalar_one()

    def count(self, *statuses: Status) -> int:
        query = select(func.count()).select_from(Job).where(Job.project_id == self.project_id)
        return self.session.execute(query.where(Job.status.in_(statuses)) if statuses else query).scalar_one()

    def artifacts(self, job_id: str) -> Sequence[JobArtifact]:
        query = select(JobArtifact).join(Job, Job.id == JobArtifact.job_id)
        query = query.where(Job.id == job_id, Job.project_id == self.project_id)
        return self.session.scalars(query.order_by(JobArtifact.name)).all()

    # -- what a user may ask for -------------------------------------------------------------------------------------

    def request_cancel(self, job_id: str) -> Job:
        """Nobody runs it: cancelled at once. A worker does: `cancelling`, and the worker ends it."""
        job = self._locked(job_id)
        match Status(job.status):
            case Status.CANCELLED | Status.CANCELLING:
                return job
            case Status.RUNNING | Status.PAUSING:
                OutboxRepository(self.session).add(CANCEL_HINT, [job.id])
                asked = {"cancel_requested_at": clock(self.session)}
                return move(self.session, job, Status.CANCELLING, "Cancelling.", reason="requested", values=asked)
            case Status.VALIDATING | Status.QUEUED | Status.PAUSED:
                asked = {"cancel_requested_at": clock(self.session)}
                return move(self.session, job, Status.CANCELLED, "Cancelled.", reason="requested", values=asked)
            case Status.SUCCEEDED | Status.FAILED:
                raise impossible(job, "cancelled", "It has ended already; DELETE removes it.")

    def request_pause(self, job_id: str) -> Job:
        """Nobody runs it: paused at once. A worker does: `pausing` until its checkpoint is written."""
        job = self._locked(job_id)
        match Status(job.status):
            case Status.PAUSED | Status.PAUSING:
                return job
            case Status.RUNNING:
                OutboxRepository(self.session).add(CANCEL_HINT, [job.id])
                asked = {"pause_requested_at": clock(self.session)}
                return move(self.session, job, Status.PAUSING, "Pausing.", reason="requested", values=asked)
            case Status.QUEUED:
                return move(self.session, job, Status.PAUSED, "Paused.", reason="requested")
            case _:
                raise impossible(job, "paused", "Only queued and running jobs can be paused.")

    def resume(self, job_id: str) -> Job:
        """Back to the queue with a fresh set of attempts and a fresh time budget; checkpoints are kept."""
        job = self._locked(job_id)
        failed_for_good = job.status == Status.FAILED and not (job.error or {}).get("retryable")
        if job.status not in (Status.PAUSED, Status.FAILED) or failed_for_good:
            hint = "Only paused jobs, and failed ones whose error.retryable is true, can be resumed; clone the job instead."
            raise impossible(job, "queued", hint)
        usage = {k: v for k, v in job.usage.items() if k not in ("wall_seconds", "micro_batch_divisor")}
        values = {"error": None, "interruptions": job.attempt, "not_before": None, "usage": usage}
        return move(self.session, job, Status.QUEUED, "Queued again.", reason="resumed", values=values)

    def update(
        self,
        job_id: str,
        *,
        name: str | None = None,
        metadata: dict[str, str] | None = None,
        priority: int | None = None,
    ) -> Job:
        _refuse_unstorable(name=name, metadata=metadata)
        job = self._locked(job_id)
        given = {"name": name, "meta": metadata, "priority": priority}
        values: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if values:
            query = update(Job).where(Job.id == job.id).values(**values, updated_at=clock(self.session))
            self.session.execute(query.execution_options(synchronize_session=False))
            self.session.refresh(job)
        return job

    def delete(self, job_id: str) -> None:
        """Forget an ended job. Models it made stay (their provenance keeps its id); a worker sweeps its files."""
        job = self._locked(job_id)
        if Status(job.status) not in TERMINAL:
            raise impossible(job, "deleted", "Cancel it first, and wait until it has ended.")
        own = update(ModelVersion).where(ModelVersion.source_job_id == job.id)
        self.session.execute(own.values(source_job_id=None))
        self.session.execute(delete(Job).where(Job.id == job.id))
        self.session.expunge(job)

    def files_in_use(self, file_id: str) -> bool:
        """Whether a job that has not ended reads this file."""
        query = select(Job.inputs).where(Job.project_id == self.project_id, Job.status.not_in(TERMINAL))
        return any(
            isinstance(entry, dict) and entry.get("id") == file_id
            for inputs in self.session.scalars(query)
            for entry in inputs.get("files", {}).values()
        )

    # ----------------------------------------------------------------------------------------------------------------

    def _mine(self) -> Select[Job]:
        return select(Job).where(Job.project_id == self.project_id)

    def _locked(self, job_id: str) -> Job:
        query = self._mine().where(Job.id == storable(job_id)).with_for_update()
        job = self.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
        if job is None:
            raise NotFound("job", job_id)
        return job

    def _known(self, cursor: str, param: str) -> None:
        if self.get(cursor) is None:
            hint = "Use the first_id or last_id of a page that this list returned."
            raise InvalidRequest(f"'{cursor[:80]}' is not a job of this project.", param=param, hint=hint)

    def _has_metadata(self, key: str, value: str) -> ColumnElement[bool]:
        if self.session.get_bind().dialect.name == "postgresql":
            return type_coerce(Job.meta, JSONB).contains({key: value})
        # JSON paths cannot quote every key; json_each takes the key as a value.
        each = func.json_each(Job.meta).table_valued("key", "value")
        return exists(select(literal(1)).select_from(each).where(each.c.key == key, each.c.value == value))
