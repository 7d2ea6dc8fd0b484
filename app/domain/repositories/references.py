"""Which stored things a row still names: what the sweep asks before it removes anything."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.models import Job, JobArtifact, ModelVersion
from app.domain.repositories.events import clock
from app.domain.states import TERMINAL


class References:
    def __init__(self, session: Session) -> None:
        self.session = session

    def job_exists(self, job_id: str) -> bool:
        return self.session.execute(select(Job.id).where(Job.id == job_id)).first() is not None

    def run_is_over(self, job_id: str, since_seconds: float) -> bool:
        """The job ended longer ago than that (failed ones may be resumed, which wants their checkpoints), or is deleted."""
        row = self.session.execute(select(Job.status, Job.finished_at).where(Job.id == job_id)).first()
        if row is None:
            return True
        return row[0] in TERMINAL and row[1] is not None and row[1] <= clock(self.session) - since_seconds

    def artifact_is_used(self, digest: str) -> bool:
        """A model version, a file offered for download, or a job that has not ended names it."""
        version = select(ModelVersion.id).where(ModelVersion.digest == digest).limit(1)
        offered = select(JobArtifact.job_id).where(JobArtifact.blob.startswith(f"artifacts/{digest}/", autoescape=True)).limit(1)
        if any(self.session.execute(query).first() for query in (version, offered)):
            return True
        waiting = self.session.scalars(select(Job.inputs).where(Job.status.not_in(TERMINAL)))
        return any((source or {}).get("digest") == digest for inputs in waiting for source in _sources(inputs))


def _sources(inputs: dict[str, Any]) -> list[dict[str, Any] | None]:
    """Where the models of a job come from."""
    alone = [inputs.get(role) for role in ("teacher", "student")]
    return [*alone, *(inputs.get("ensemble") or []), *(inputs.get("augmenters") or [])]
