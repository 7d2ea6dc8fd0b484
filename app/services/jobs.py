"""Distillation jobs: checked whole before anything starts, created in one transaction, steered by the user."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.domain import catalog, ids
from app.domain.db import Session, Sessions, reading, transaction
from app.domain.errors import DomainError, InvalidRequest, NotFound, QuotaExceeded
from app.domain.models import File, Job, JobArtifact, JobEvent, JobMetric
from app.domain.repositories.events import Events
from app.domain.repositories.files import Files
from app.domain.repositories.jobs import Jobs
from app.domain.repositories.paging import Order
from app.domain.repositories.workers import Workers
from app.domain.spec import JobSpec, config_hash
from app.domain.states import Status
from app.domain.storage import BlobStore
from app.services import rowchecks, sources, specs, views
from app.services.estimate import Sizes, estimate

_ALIVE_SECONDS = 120.0


class Limits(sources.Places, Protocol):
    @property
    def max_queued_jobs(self) -> int: ...


@dataclass
class Plan:
    """What a request for a job comes to."""

    errors: list[DomainError] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    resolved: dict[str, Any] | None = None
    estimate: dict[str, Any] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    model_name: str = ""

    @property
    def config_hash(self) -> str | None:
        return config_hash(self.resolved) if self.resolved is not None else None


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
        plan = Plan()
        spec, plan.errors = specs.parse(body)
        if spec is None:
            return plan
        expanded = self._expand(spec, plan)
        plan.model_name = _model_name(spec, plan)
        with reading(self.sessions) as session:
            files = self._files(spec, session, plan)
            rows = rowchecks.check(files, spec.data)
            plan.errors += rows.errors
            plan.warnings += rows.warnings
            teacher = self._source("teacher", _wanted("teacher", spec.teacher.model_dump()), session, plan)
            student = None
            if spec.student.init == "pretrained":
                student = self._source("student", _wanted("student", spec.student.params), session, plan)
            self._check_models(spec, expanded, rows, teacher, student, plan)
            try:
                self._check_quota(Jobs(session, self.project_id))
            except QuotaExceeded as error:
                plan.errors.append(error)
            device = self._device(spec, session)
        if plan.errors or expanded is None or teacher is None:
            return plan
        plan.resolved = _pinned(expanded, teacher, student)
        sizes = Sizes(rows.usable["training"], rows.usable.get("validation"), rows.usable.get("test", 0), rows.characters)
        infos = teacher.info, student.info if student else None
        plan.estimate = estimate(expanded, sizes, *infos, device, self.blobs.free_bytes())
        if not plan.estimate["fits"]:
            message = "By the estimate the job needs more space than the disk has."
            plan.warnings.append({"code": "does_not_fit", "message": message, "param": None})
        described = {role: _described(file, rows.usable[role]) for role, file in files.items()}
        plan.inputs = {"files": described, "teacher": teacher.inputs, "student": student.inputs if student else None}
        return plan

    def _expand(self, spec: JobSpec, plan: Plan) -> JobSpec | None:
        try:
            return catalog.expand(spec)
        except DomainError as error:
            plan.errors.append(error)
            return None

    def _files(self, spec: JobSpec, session: Session, plan: Plan) -> dict[str, File]:
        found: dict[str, File] = {}
        files = Files(session, self.project_id)
        for role in rowchecks.ROLES:
            file_id = getattr(spec.data, f"{role}_file")
            if file_id is None:
                continue
            try:
                found[role] = files.get(file_id)
            except NotFound as error:
                error.param = f"data.{role}_file"
                plan.errors.append(error)
        return found

    def _source(self, role: str, wanted: sources.Wanted, session: Session, plan: Plan) -> sources.Found | None:
        if not wanted.model:
            return None  # the catalogue has said so
        try:
            return sources.find(wanted, session, self.project_id, self.blobs, self.limits)
        except DomainError as error:
            plan.errors.append(error)
            return None

    def _check_models(
        self,
        spec: JobSpec,
        expanded: JobSpec | None,
        rows: rowchecks.Rows,
        teacher: sources.Found | None,
        student: sources.Found | None,
        plan: Plan,
    ) -> None:
        for role, found in (("teacher", teacher), ("student", student)):
            if found is None:
                continue
            if found.info is None:
                message = f"The {role} is fetched from the hub and looked at when the job starts."
                plan.warnings.append({"code": "checked_later", "message": message, "param": f"{role}.model"})
                continue
            try:
                sources.fits_task(found.info, role, rows.labels, spec.teacher.finetune is not None)
                _check_length(spec, role, found)
                if role == "teacher" and expanded is not None:
                    catalog.check_student(expanded, found.info)
            except DomainError as error:
                plan.errors.append(error)

    def _device(self, spec: JobSpec, session: Session) -> str:
        if spec.compute.device != "auto":
            return spec.compute.device
        workers = Workers(session).alive(_ALIVE_SECONDS)
        return "cuda" if any(worker.device.startswith("cuda") for worker in workers) else "cpu"

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


def _wanted(role: str, block: dict[str, Any]) -> sources.Wanted:
    model, revision = block.get("model"), block.get("revision")
    return sources.Wanted(role, str(block.get("source") or "registry"), str(model or ""), str(revision) if revision else None)


def _model_name(spec: JobSpec, plan: Plan) -> str:
    """As asked for, else made of the job's name."""
    if spec.output.model_name is not None:
        return spec.output.model_name
    name = re.sub(r"[^a-z0-9._-]+", "-", spec.name.lower()).strip("-._")[:63]
    if not ids.MODEL_NAME.fullmatch(name):
        hint = "Set output.model_name: 1 to 63 of a-z, 0-9, '.', '_', '-'."
        plan.errors.append(InvalidRequest("No model name can be made of the job's name.", param="output.model_name", hint=hint))
    return name


def _check_length(spec: JobSpec, role: str, found: sources.Found) -> None:
    most = found.info.max_positions if found.info else None
    if most is not None and spec.data.max_length > most:
        raise InvalidRequest(
            f"data.max_length is {spec.data.max_length}; the {role} reads at most {most} tokens.",
            param="data.max_length",
            hint=f"Choose at most {most}; longer texts are cut.",
        )


def _pinned(expanded: JobSpec, teacher: sources.Found, student: sources.Found | None) -> dict[str, Any]:
    """The resolved spec, with registry models by version: posting it again means the same models."""
    resolved = copy.deepcopy(expanded.resolved())
    resolved["teacher"]["model"] = teacher.model
    if student is not None:
        resolved["student"]["model"] = student.model
    return resolved


def _described(file: File, rows: int) -> dict[str, Any]:
    return {"id": file.id, "format": file.format, "sha256": file.sha256, "rows": rows}


def _merged(base: Any, changes: Any) -> Any:
    """JSON Merge Patch, RFC 7386."""
    if not isinstance(changes, dict):
        return changes
    base = base if isinstance(base, dict) else {}
    merged = {key: value for key, value in base.items() if key not in changes}
    return merged | {key: _merged(base.get(key), value) for key, value in changes.items() if value is not None}
