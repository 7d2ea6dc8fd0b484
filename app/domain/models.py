"""The tables. Times are float Unix seconds by the database's clock (`db.now`); constraints make wrong states unwritable."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
NAMES = {  # so that a migration can name what it changes, on both databases
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "%(constraint_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {dict[str, Any]: Json, list[Any]: Json, float: Double, str: Text}


class Project(Base):
    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    created_at: Mapped[float]


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    prefix: Mapped[str] = mapped_column(String(16))  # shown in lists; the key itself is never stored
    digest: Mapped[str] = mapped_column(String(64), unique=True)  # HMAC-SHA-256 under the server's pepper
    scopes: Mapped[list[Any]]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    last_used_at: Mapped[float | None]


class File(Base):
    __tablename__ = "files"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    format: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))  # uploaded | processed | error
    report: Mapped[dict[str, Any]]  # the validation report and column profile, datasets.DatasetReport
    created_at: Mapped[float]
    __table_args__ = (CheckConstraint("status IN ('uploaded','processed','error')", name="ck_files_status"),)


class Job(Base):
    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_by: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(128))
    model_name: Mapped[str] = mapped_column(String(64))
    meta: Mapped[dict[str, Any]]
    submitted: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]  # resolved
    config_hash: Mapped[str] = mapped_column(String(80))
    inputs: Mapped[dict[str, Any]]  # {"files": {id: {sha256, rows}}, "teacher": {source, ref, revision, digest}, "student": …}
    estimate: Mapped[dict[str, Any]]
    warnings: Mapped[list[Any]]
    status: Mapped[str] = mapped_column(String(16))
    status_reason: Mapped[str | None]
    phase: Mapped[str | None] = mapped_column(String(16))
    phases: Mapped[list[Any]]
    progress: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(Integer)
    attempt: Mapped[int] = mapped_column(Integer)  # the fencing token: rises at every claim
    interruptions: Mapped[int] = mapped_column(Integer)  # attempts that were nobody's fault (deploys, pauses)
    max_attempts: Mapped[int] = mapped_column(Integer)
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[float | None]
    not_before: Mapped[float | None]
    cancel_requested_at: Mapped[float | None]
    pause_requested_at: Mapped[float | None]
    last_seq: Mapped[int] = mapped_column(Integer)  # of its events
    helpers_wanted: Mapped[int] = mapped_column(Integer, default=0)  # free slots that may train trials of this attempt
    error: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    usage: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    queued_at: Mapped[float | None]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    updated_at: Mapped[float]
    __table_args__ = (
        CheckConstraint(
            "status IN ('validating','queued','running','pausing','paused','cancelling','succeeded','failed','cancelled')",
            name="ck_jobs_status",
        ),
        CheckConstraint("(status IN ('running','pausing','cancelling')) = (lease_owner IS NOT NULL)", name="ck_jobs_lease"),
        CheckConstraint("(status IN ('succeeded','failed','cancelled')) = (finished_at IS NOT NULL)", name="ck_jobs_finished"),
        Index("ix_jobs_claim", "status", "priority", "id"),
        Index("ix_jobs_project_id_id", "project_id", "id"),
    )


class JobEvent(Base):
    __tablename__ = "job_events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)  # 1, 2, 3 … without holes
    id: Mapped[str] = mapped_column(String(40), unique=True)
    attempt: Mapped[int] = mapped_column(Integer)
    type: Mapped[str] = mapped_column(String(16))
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class JobMetric(Base):
    """One row per logged step: values {train_loss, learning_rate, grad_norm, temperature, …}."""

    __tablename__ = "job_metrics"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(String(64), primary_key=True)  # training stage, or "teacher" / "baseline"
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer)
    values: Mapped[dict[str, Any]]


class JobArtifact(Base):
    """Files a succeeded job offers for download (report, plots, the student's files)."""

    __tablename__ = "job_artifacts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))  # report | model
    blob: Mapped[str]  # key in the blob store, made by us, never from a request
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]


class Model(Base):
    __tablename__ = "models"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(64))
    description: Mapped[str]
    last_version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[float]
    updated_at: Mapped[float]
    __table_args__ = (UniqueConstraint("project_id", "name", name="uq_models_project_name"),)


class ModelVersion(Base):
    __tablename__ = "model_versions"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    version: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(24))  # student (servable) | checkpoint (imported, a teacher)
    task: Mapped[str | None] = mapped_column(String(32))
    digest: Mapped[str] = mapped_column(String(64), index=True)  # of the artifact's manifest: the model's identity
    manifest: Mapped[dict[str, Any]]
    bytes: Mapped[int] = mapped_column(BigInteger)
    params: Mapped[int | None] = mapped_column(BigInteger)
    source_job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    base_model: Mapped[str | None]
    quality: Mapped[dict[str, Any]]
    provenance: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    __table_args__ = (UniqueConstraint("model_id", "version", name="uq_model_versions_model_version"),)


class Alias(Base):
    __tablename__ = "aliases"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[float]


class Import(Base):
    """A model on its way into the registry (hub or an operator's folder)."""

    __tablename__ = "imports"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(16))
    model: Mapped[str]
    revision: Mapped[str | None]
    status: Mapped[str] = mapped_column(String(16))  # pending | running | succeeded | failed
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[float | None]
    error: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[float]
    finished_at: Mapped[float | None]
    __table_args__ = (CheckConstraint("status IN ('pending','running','succeeded','failed')", name="ck_imports_status"),)


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    method: Mapped[str] = mapped_column(String(8), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None] = mapped_column(Integer)  # None: still running
    response: Mapped[dict[str, Any] | None]
    location: Mapped[str | None]
    created_at: Mapped[float]


class Outbox(Base):
    """Hints to send after the commit: {"task": celery task name, "args": [ids]}."""

    __tablename__ = "outbox"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    args: Mapped[list[Any]]
    created_at: Mapped[float]
    sent_at: Mapped[float | None] = mapped_column(Double, index=True)
    tries: Mapped[int] = mapped_column(Integer)


class Worker(Base):
    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    hostname: Mapped[str] = mapped_column(String(255))
    slots: Mapped[int] = mapped_column(Integer)
    busy: Mapped[int] = mapped_column(Integer)
    device: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[float]
    seen_at: Mapped[float]
    stopping: Mapped[bool] = mapped_column(Boolean)
