"""Puts right what a lost worker left behind. Safe to run anywhere, any number of times; in health it does nothing."""

import contextlib
import logging
import shutil
import time
from pathlib import Path

from app.domain.db import Sessions, reading, transaction
from app.domain.repositories.imports import ImportLeases
from app.domain.repositories.leases import Leases
from app.domain.repositories.outbox import OutboxRepository
from app.domain.repositories.references import References
from app.domain.repositories.workers import Workers
from app.domain.storage import BlobStore

log = logging.getLogger(__name__)

_HINTS_KEPT_SECONDS = 3600.0
_WORKERS_KEPT_SECONDS = 86400.0


def reconcile(sessions: Sessions) -> int:
    """Jobs and imports whose lease ran out go back to the queue, or end. Returns how many."""
    with transaction(sessions) as session:
        jobs = Leases(session).reconcile()
        imports = ImportLeases(session).reconcile()
        OutboxRepository(session).sweep(_HINTS_KEPT_SECONDS)
        Workers(session).sweep(_WORKERS_KEPT_SECONDS)
    for job in jobs:
        log.warning("reconcile: job %s lost the worker of attempt %d, now %s", job.id, job.attempt, job.status)
    for import_id in imports:
        log.warning("reconcile: import %s lost its worker", import_id)
    return len(jobs) + len(imports)


def sweep(sessions: Sessions, blobs: BlobStore, after_seconds: float) -> list[str]:
    """Remove work folders of jobs that ended long ago or are deleted, their reports, artifacts that nothing names, staging."""
    removed = [*_sweep_jobs(sessions, blobs, after_seconds), *_sweep_artifacts(sessions, blobs, after_seconds)]
    for path in _old(blobs.root / "tmp", after_seconds):
        _remove(path)
        removed.append(f"tmp/{path.name}")
    if removed:
        log.info("sweep: removed %s", ", ".join(removed))
    return removed


def _sweep_jobs(sessions: Sessions, blobs: BlobStore, after_seconds: float) -> list[str]:
    removed = []
    with reading(sessions) as session:
        references = References(session)
        doomed = [(f"runs/{p.name}", p) for p in _old(blobs.root / "runs", 0.0) if references.run_is_over(p.name, after_seconds)]
        reports = _old(blobs.root / "reports", after_seconds)
        doomed += [(f"reports/{p.name}", p) for p in reports if not references.job_exists(p.name)]
    for name, path in doomed:
        _remove(path)
        removed.append(name)
    return removed


def _sweep_artifacts(sessions: Sessions, blobs: BlobStore, after_seconds: float) -> list[str]:
    """Moved aside, looked at once more, then removed: a version published meanwhile gets its artifact back."""
    removed = []
    for path in _old(blobs.root / "artifacts", after_seconds):
        with reading(sessions) as session:
            if References(session).artifact_is_used(path.name):
                continue
        aside = blobs.root / "tmp" / f"swept-{path.name}"
        path.rename(aside)
        with reading(sessions) as session:
            used = References(session).artifact_is_used(path.name)
        if used and not path.exists():
            aside.rename(path)
            continue
        _remove(aside)
        removed.append(f"artifacts/{path.name}")
    return removed


def _old(folder: Path, seconds: float) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= seconds:
                found.append(path)
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
