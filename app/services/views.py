"""What clients see of a stored object: the JSON shapes of the API."""

from collections.abc import Sequence
from typing import Any

from app.domain.models import (
    Alias,
    ApiKey,
    File,
    Import,
    Job,
    JobArtifact,
    JobEvent,
    JobMetric,
    Model,
    ModelVersion,
    Project,
    Worker,
)
from app.domain.states import TERMINAL, Status

JOBS = "/v1/distillation/jobs"
MODELS = "/v1/registry/models"


def at(seconds: float | None) -> int | None:
    """Unix seconds."""
    return None if seconds is None else int(seconds)


def listed(data: Sequence[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": [*data], "first_id": first, "last_id": last, "has_more": has_more}


def deleted(kind: str, ident: str) -> dict[str, Any]:
    return {"id": ident, "object": kind, "deleted": True}


def file_object(file: File) -> dict[str, Any]:
    said = {
        "id": file.id,
        "object": "file",
        "filename": file.filename,
        "bytes": file.bytes,
        "purpose": file.purpose,
        "status": file.status,
        "format": file.format,
        "sha256": file.sha256,
        "created_at": at(file.created_at),
    }
    if file.status == "error":
        bad, rows = file.report.get("invalid_rows", 0), file.report.get("rows", 0)
        said["status_details"] = f"{bad:,} of {rows:,} rows are not valid; /v1/files/{file.id}/validation names them."
    return said


def validation_object(file: File) -> dict[str, Any]:
    return {"object": "file.validation", "file_id": file.id, **file.report}


def job_object(job: Job, ahead: int | None = None) -> dict[str, Any]:
    """`ahead`: jobs that will be taken before this one, for a queued job."""
    spec = {k: v for k, v in job.spec.items() if k not in ("name", "metadata")}
    return {
        "id": job.id,
        "object": "distillation.job",
        "project_id": job.project_id,
        "created_by": job.created_by,
        "name": job.name,
        "metadata": job.meta,
        "status": job.status,
        "is_terminal": Status(job.status) in TERMINAL,
        "status_reason": job.status_reason or _waiting(job, ahead),
        "phase": job.phase,
        "phases": job.phases,
        "queue": _queue(job, ahead),
        "progress": job.progress,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        "error": job.error,
        "warnings": job.warnings,
        "estimate": job.estimate,
        "usage": job.usage,
        "result": job.result,
        "model_name": job.model_name,
        **spec,
        "provenance": _provenance(job),
        "created_at": at(job.created_at),
        "queued_at": at(job.queued_at),
        "started_at": at(job.started_at),
        "finished_at": at(job.finished_at),
        "updated_at": at(job.updated_at),
        "links": _links(job),
    }


def _waiting(job: Job, ahead: int | None) -> str | None:
    if job.status != Status.QUEUED:
        return None
    return f"Waiting for a worker; {ahead} jobs ahead." if ahead else "Waiting for a worker."


def _queue(job: Job, ahead: int | None) -> dict[str, Any] | None:
    if job.status != Status.QUEUED or ahead is None:
        return None
    return {"position": ahead + 1, "jobs_ahead": ahead, "waiting_for": "worker", "not_before": at(job.not_before)}


def _provenance(job: Job) -> dict[str, Any]:
    files = job.inputs.get("files", {})
    return {
        "config_hash": job.config_hash,
        "dataset": {role: _dataset(entry) for role, entry in files.items()},
        "teacher": job.inputs.get("teacher"),
        "student": job.inputs.get("student"),
        "seed": job.spec.get("seed"),
        "deterministic": job.spec.get("deterministic"),
        "parent_job_id": job.inputs.get("parent_job_id"),
    }


def _dataset(entry: dict[str, Any]) -> dict[str, Any]:
    return {"file_id": entry.get("id"), "sha256": entry.get("sha256"), "rows": entry.get("rows")}


def _links(job: Job) -> dict[str, str]:
    own = f"{JOBS}/{job.id}"
    links = {name: f"{own}/{name}" for name in ("spec", "events", "metrics", "artifacts", "report")}
    links |= {"self": own, "stream": f"{own}/events/stream"}
    if job.result and ":" in str(job.result.get("model")):
        name, version = str(job.result["model"]).rsplit(":", 1)
        links["model"] = f"{MODELS}/{name}/versions/{version}"
    return links


def event_object(event: JobEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "distillation.job.event",
        "seq": event.seq,
        "attempt": event.attempt,
        "type": event.type,
        "level": event.level,
        "message": event.message,
        "data": event.data,
        "created_at": at(event.created_at),
    }


def metric_object(metric: JobMetric) -> dict[str, Any]:
    return {"stage": metric.stage, "step": metric.step, "attempt": metric.attempt, "values": metric.values}


def artifact_object(artifact: JobArtifact) -> dict[str, Any]:
    return {
        "object": "artifact",
        "name": artifact.name,
        "kind": artifact.kind,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "created_at": at(artifact.created_at),
        "url": f"{JOBS}/{artifact.job_id}/artifacts/{artifact.name}",
    }


def model_object(model: Model, aliases: Sequence[Alias]) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "registry.model",
        "name": model.name,
        "description": model.description,
        "last_version": model.last_version,
        "aliases": {alias.name: alias.version for alias in aliases},
        "created_at": at(model.created_at),
        "updated_at": at(model.updated_at),
    }


def version_object(name: str, version: ModelVersion, aliases: Sequence[str]) -> dict[str, Any]:
    return {
        "id": version.id,
        "object": "model.version",
        "name": name,
        "version": version.version,
        "ref": f"{name}:{version.version}",
        "kind": version.kind,
        "task": version.task,
        "digest": version.digest,
        "bytes": version.bytes,
        "params": version.params,
        "aliases": [*aliases],
        "source_job_id": version.source_job_id,
        "base_model": version.base_model,
        "quality": version.quality,
        "provenance": version.provenance,
        "created_at": at(version.created_at),
    }


def alias_object(name: str, alias: Alias) -> dict[str, Any]:
    return {
        "object": "registry.alias",
        "name": alias.name,
        "model": name,
        "version": alias.version,
        "ref": f"{name}@{alias.name}",
        "updated_at": at(alias.updated_at),
    }


def import_object(row: Import) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "registry.import",
        "name": row.name,
        "source": row.source,
        "model": row.model,
        "revision": row.revision,
        "status": row.status,
        "error": row.error,
        "result": row.result,
        "created_at": at(row.created_at),
        "finished_at": at(row.finished_at),
    }


def key_object(key: ApiKey, secret: str | None = None) -> dict[str, Any]:
    """`secret`: the key itself, in the answer that makes it and never again."""
    shown = {
        "id": key.id,
        "object": "api_key",
        "name": key.name,
        "prefix": key.prefix,
        "project_id": key.project_id,
        "scopes": key.scopes,
        "created_at": at(key.created_at),
        "expires_at": at(key.expires_at),
        "revoked_at": at(key.revoked_at),
        "last_used_at": at(key.last_used_at),
    }
    return {**shown, "key": secret} if secret is not None else shown


def project_object(project: Project) -> dict[str, Any]:
    return {"id": project.id, "object": "project", "name": project.name, "created_at": at(project.created_at)}


def worker_object(worker: Worker) -> dict[str, Any]:
    return {
        "id": worker.id,
        "object": "worker",
        "hostname": worker.hostname,
        "device": worker.device,
        "slots": worker.slots,
        "busy": worker.busy,
        "stopping": worker.stopping,
        "started_at": at(worker.started_at),
        "seen_at": at(worker.seen_at),
    }
