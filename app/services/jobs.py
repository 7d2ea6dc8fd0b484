"""Distillation jobs: checked whole before anything starts, created in one transaction, steered by the user."""

from collections.abc import Sequence
from typing import Any

from app.domain import ids
from app.domain.db import Session, Sessions, reading, transaction
from app.domain.errors import NotFound, QuotaExceeded
from app.domain.models import Job, JobArtifact, JobEvent, JobMetric
from app.domain.repositories.events import Events
from app.domain.repositories.files import Files
from app.domain.repositories.jobs import Jobs
from app.domain.repositories.paging import Order
from app.domain.spec import config_hash
from app.domain.states import Status
from app.domain.storage import BlobStore
from app.services import specs, views
from app.services.plans import Limits, Plan, Planner


class JobService:
    def __init__(self, sessions: Sessions, blobs: BlobStore, limits: Limits, project_id: str, key_id: str) -> None:
        self.sessions, self.blobs, self.limits = sessions, blobs, limits
        self.project_id, self.key_id = project_id, key_id

    # -- making one --------------------------------------------------------------------------------------------------

    def validate(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of POST /v1/distillation/validate; nothing is started."""
        plan = self._plan(body)
        return {
            "object": "distillation.validation",
            "valid": not plan.errors,
            "errors": [specs.as_json(error) for error in plan.errors],
            "warnings": plan.warnings,
            "estimate": plan.estimate,
            "resolved_spec": plan.resolved,
            "alignment": plan.alignment if plan.resolved is not None else None,
            "config_hash": plan.config_hash,
        }

    def prepare(self, body: dict[str, Any], parent_job_id: str | None = None) -> Job:
        """A job that can run, not yet stored. Raises the first fault, with all of them in its details."""
        plan = self._plan(body)
        specs.raise_first(plan.errors)
        assert plan.resolved is not None
        if parent_job_id is not None:
            plan.inputs["parent_job_id"] = parent_job_id
        return Job(
            id=ids.new_id(ids.JOB),
            created_by=self.key_id,
            name=plan.resolved["name"],
            model_name=plan.model_name,
            meta=plan.resolved["metadata"],
            submitted=body,
            spec=plan.resolved,
            config_hash=config_hash(plan.resolved),
            inputs=plan.inputs,
            estimate=plan.estimate or {},
            warnings=plan.warnings,
            priority=plan.resolved["compute"]["priority"],
            max_attempts=plan.resolved["compute"]["max_attempts"],
        )

    def insert(self, session: Session, job: Job) -> dict[str, Any]:
        """In the caller's transaction: job, first event and wake-up hint. Returns the job object."""
        jobs = Jobs(session, self.project_id)
        self._check_quota(jobs)
        for entry in job.inputs["files"].values():
            Files(session, self.project_id).get(entry["id"])  # it may have been deleted since it was checked
        jobs.add(job)
        return views.job_object(job, jobs.jobs_ahead(job))

    def clone_of(self, job_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        """The body of a new job: what was submitted for the old one, with `changes` laid over it (null removes a field)."""
        specs.refuse_unstorable(changes)
        body: dict[str, Any] = _merged(self._get(job_id).submitted, changes)
        return body

    def _check_quota(self, jobs: Jobs) -> None:
        if (queued := jobs.count(Status.QUEUED)) >= self.limits.max_queued_jobs:
            hint = "Wait until some have run, or cancel some."
            raise QuotaExceeded(f"This project has {queued:,} queued jobs already.", hint=hint)

    def _plan(self, body: dict[str, Any]) -> Plan:
        plan = Planner(self.sessions, self.blobs, self.limits, self.project_id).plan(body)
        if plan.errors:
            return plan
        with reading(self.sessions) as session:
            try:
                self._check_quota(Jobs(session, self.project_id))
            except QuotaExceeded as error:
                return Plan(errors=[error])
        return plan

    # -- looking, and steering ---------------------------------------------------------------------------------------

    def show(self, job_id: str) -> dict[str, Any]:
        with reading(self.sessions) as session:
            return self._shown(session, _found(Jobs(session, self.project_id), job_id))

    def page(
        self, limit: int, after: str | None, before: str | None, order: Order, **filters: Any
    ) -> tuple[list[dict[str, Any]], bool]:
        """`filters`: those of `Jobs.page`."""
        with reading(self.sessions) as session:
            jobs, more = Jobs(session, self.project_id).page(limit, after, before, order, **filters)
            return [self._shown(session, job) for job in jobs], more

    def spec(self, job_id: str) -> dict[str, Any]:
        job = self._get(job_id)
        return {
            "object": "distillation.spec",
            "job_id": job.id,
            "submitted": job.submitted,
            "resolved": job.spec,
            "alignment": job.inputs.get("alignment"),
            "config_hash": job.config_hash,
        }

    def cancel(self, job_id: str) -> dict[str, Any]:
        with transaction(self.sessions) as session:
            return self._shown(session, Jobs(session, self.project_id).request_cancel(job_id))

    def pause(self, job_id: str) -> dict[str, Any]:
        with transaction(self.sessions) as session:
            return self._shown(session, Jobs(session, self.project_id).request_pause(job_id))

    def resume(self, job_id: str) -> dict[str, Any]:
        with transaction(self.sessions) as session:
            return self._shown(session, Jobs(session, self.project_id).resume(job_id))

    def update(self, job_id: str, name: str | None, metadata: dict[str, str] | None, priority: int | None) -> dict[str, Any]:
        specs.refuse_unstorable({"name": name, "metadata": metadata})
        with transaction(self.sessions) as session:
            job = Jobs(session, self.project_id).update(job_id, name=name, metadata=metadata, priority=priority)
            return self._shown(session, job)

    def delete(self, job_id: str) -> None:
        with transaction(self.sessions) as session:
            Jobs(session, self.project_id).delete(job_id)

    def events(
        self, job_id: str, after_seq: int = 0, limit: int = 100, types: Sequence[str] | None = None, order: Order = "asc"
    ) -> list[JobEvent]:
        with reading(self.sessions) as session:
            job = _found(Jobs(session, self.project_id), job_id)
            return Events(session).list(job.id, after_seq, limit, types, order)

    def metrics(self, job_id: str, stage: str | None = None, limit: int = 10_000) -> Sequence[JobMetric]:
        with reading(self.sessions) as session:
            job = _found(Jobs(session, self.project_id), job_id)
            return Events(session).metrics(job.id, stage, limit)

    def artifacts(self, job_id: str) -> Sequence[JobArtifact]:
        with reading(self.sessions) as session:
            jobs = Jobs(session, self.project_id)
            return jobs.artifacts(_found(jobs, job_id).id)

    def artifact(self, job_id: str, name: str) -> JobArtifact:
        found = next((artifact for artifact in self.artifacts(job_id) if artifact.name == name), None)
        if found is None:
            hint = f"GET {views.JOBS}/{job_id}/artifacts lists them; a job has them once it has succeeded."
            raise NotFound("artifact", name, hint=hint)
        return found

    def _get(self, job_id: str) -> Job:
        with reading(self.sessions) as session:
            return _found(Jobs(session, self.project_id), job_id)

    def _shown(self, session: Session, job: Job) -> dict[str, Any]:
        ahead = Jobs(session, self.project_id).jobs_ahead(job) if job.status == Status.QUEUED else None
        return views.job_object(job, ahead)


def _found(jobs: Jobs, job_id: str) -> Job:
    job = jobs.get(job_id)
    if job is None:
        raise NotFound("job", job_id)
    return job


def _merged(base: Any, changes: Any) -> Any:
    """JSON Merge Patch, RFC 7386."""
    if not isinstance(changes, dict):
        return changes
    base = base if isinstance(base, dict) else {}
    merged = {key: value for key, value in base.items() if key not in changes}
    return merged | {key: _merged(base.get(key), value) for key, value in changes.items() if value is not None}
