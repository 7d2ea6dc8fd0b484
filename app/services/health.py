"""Whether this process can do its work, and the figures of the whole installation that Prometheus asks for."""

from prometheus_client import Gauge

from app.domain.db import Sessions, reading
from app.domain.repositories.overview import Overview
from app.domain.states import Status
from app.domain.storage import BlobStore

JOBS = Gauge("retort_jobs", "Jobs by status, over all projects.", ["status"])
WORKERS = Gauge("retort_workers", "Worker processes seen lately.")
SLOTS = Gauge("retort_worker_slots", "Slots of those workers.", ["state"])
FREE = Gauge("retort_storage_free_bytes", "Free bytes where the blob store is.")


def check(sessions: Sessions, blobs: BlobStore) -> dict[str, str]:
    """{what: "ok" or the kind of failure}; no addresses, no messages: anybody may read it."""
    checks = {"database": "ok", "storage": "ok"}
    try:
        with reading(sessions) as session:
            Overview(session).answers()
    except Exception as error:
        checks["database"] = type(error).__name__
    try:
        FREE.set(blobs.free_bytes())
    except OSError as error:
        checks["storage"] = type(error).__name__
    return checks


def observe(sessions: Sessions, seen_within: float) -> None:
    with reading(sessions) as session:
        overview = Overview(session)
        jobs, workers = overview.jobs_by_status(), overview.workers(seen_within)
    for status in Status:
        JOBS.labels(status.value).set(jobs.get(status.value, 0))
    WORKERS.set(len(workers))
    SLOTS.labels("busy").set(sum(w.busy for w in workers))
    SLOTS.labels("free").set(sum(w.slots - w.busy for w in workers))
