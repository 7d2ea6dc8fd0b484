"""From a finished work folder to a model version: check, store, and one transaction under the fence.

Before that commit nobody can see anything of it (artifacts without a row are swept); after it everything is there.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from app.domain import manifest
from app.domain.db import Sessions, transaction
from app.domain.errors import ArtifactCorrupt
from app.domain.models import Job, JobArtifact
from app.domain.repositories.events import clock, storable
from app.domain.repositories.leases import Leases, Published
from app.domain.repositories.registry import Registry
from app.domain.storage import BlobStore, safe_join
from worker.failpoints import Failpoint, hit
from worker.run.protocol import DoneEvent

log = logging.getLogger(__name__)


class Publisher:
    def __init__(self, sessions: Sessions, blobs: BlobStore, fault: str = "") -> None:
        self.sessions, self.blobs, self.fault = sessions, blobs, fault

    def publish(self, job: Job, workdir: Path, done: DoneEvent, usage: dict[str, Any]) -> Job | None:
        """The succeeded job, or None when fenced out. Repeating it (after a lost connection) is safe."""
        package = safe_join(workdir, done.model_dir)
        described = manifest.verify(package, done.digest)
        hit(self.fault, Failpoint.VERIFIED)
        digest = self.blobs.put_artifact(package)
        reports = self._store_reports(job, workdir, done.reports)
        hit(self.fault, Failpoint.STORED)
        files = [
            JobArtifact(name=f"model/{n}", kind="model", blob=f"artifacts/{digest}/{n}", bytes=f["bytes"], sha256=f["sha256"])
            for n, f in described["files"].items()
        ]
        with transaction(self.sessions) as session:
            leases = Leases(session)
            locked = leases.lock(job.id, job.attempt)
            if locked is None:
                return None
            result = self._register(Registry(session, locked.project_id), locked, digest, described, done)
            at = clock(session)
            for artifact in (artifacts := [*reports, *files]):
                artifact.job_id, artifact.created_at = job.id, at
            published = Published(result, artifacts, {**done.usage, **usage}, f"Succeeded: {result['model']}.")
            succeeded = leases.succeed(locked, published)
            hit(self.fault, Failpoint.BEFORE_COMMIT)
        hit(self.fault, Failpoint.PUBLISHED)
        log.info("job %s published %s (%s)", job.id, result["model"], digest[:12])
        return succeeded

    def _register(self, registry: Registry, job: Job, digest: str, described: dict[str, Any], done: DoneEvent) -> dict[str, Any]:
        teacher = job.inputs.get("teacher") or {}
        version = registry.add_version(
            job.model_name,
            kind="student",
            task=job.spec.get("task"),
            digest=digest,
            manifest={k: described[k] for k in ("format", "digest", "files")},
            bytes=sum(f["bytes"] for f in described["files"].values()),
            params=done.params,
            source_job_id=job.id,
            base_model=teacher.get("ref") or teacher.get("model"),
            quality=storable(done.summary),
            provenance=storable({**done.provenance, "job_id": job.id, "config_hash": job.config_hash}),
        )
        alias = job.spec.get("output", {}).get("alias")
        if alias is not None:
            registry.set_alias(job.model_name, alias, version.version)
        return {"model": f"{job.model_name}:{version.version}", "alias": alias, "report": done.summary}

    def _store_reports(self, job: Job, workdir: Path, names: list[str]) -> list[JobArtifact]:
        key = f"reports/{job.id}/a{job.attempt}"
        folder = self.blobs.path(key)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stored = []
        for name in names:
            source = safe_join(workdir, name)
            if source.is_symlink() or not source.is_file():
                raise ArtifactCorrupt(f"The report '{name}' is missing.")
            target = folder / source.name
            shutil.copyfile(source, target)
            with target.open("rb") as f:
                os.fsync(f.fileno())
            stored.append(
                JobArtifact(
                    name=source.name,
                    kind="report",
                    blob=f"{key}/{source.name}",
                    bytes=target.stat().st_size,
                    sha256=manifest.sha256_file(target),
                )
            )
        return stored
