"""/v1/system: the installation, its workers and its queue, for the operator."""

from importlib import metadata
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from app.api import examples
from app.api.auth import Caller, caller
from app.api.deps import Blobs, Config, Store
from app.domain.db import reading
from app.domain.repositories.overview import Overview
from app.services import views

router = APIRouter(prefix="/v1/system", tags=["administration"])
Admin = Annotated[Caller, Depends(caller("admin"))]
_INFO = {
    "object": "system.info",
    "version": "0.1.0",
    "database": "postgresql",
    "storage_free_bytes": 120000000000,
    "limits": {"max_upload_bytes": 8589934592, "max_body_bytes": 4194304, "requests_per_minute": 6000, "max_queued_jobs": 1000},
    "time": 1790000000,
}
_QUEUE = {
    "object": "system.queue",
    "jobs": {"queued": 2, "running": 1},
    "oldest_wait_seconds": 12.5,
    "slots": {"busy": 1, "free": 0},
}


@router.get("/info", summary="Version, storage, limits", responses=examples.answers(_INFO, "This installation"))
def info(who: Admin, store: Store, blobs: Blobs, config: Config) -> dict[str, Any]:
    with reading(store) as session:
        now = Overview(session).time()
    limits = ("max_upload_bytes", "max_body_bytes", "requests_per_minute", "max_queued_jobs")
    return {
        "object": "system.info",
        "version": metadata.version("retort"),
        "database": config.database.partition(":")[0].partition("+")[0],
        "storage_free_bytes": blobs.free_bytes(),
        "limits": {name: getattr(config, name) for name in limits},
        "time": int(now),
    }


@router.get(
    "/workers",
    summary="Workers seen lately",
    responses=examples.answers({"object": "list", "data": [examples.WORKER], "has_more": False}, "Oldest first"),
)
def workers(who: Admin, store: Store, config: Config) -> dict[str, Any]:
    with reading(store) as session:
        found = Overview(session).workers(3 * config.lease_seconds)
    return {"object": "list", "data": [views.worker_object(w) for w in found], "has_more": False}


@router.get("/queue", summary="Jobs by status, over all projects", responses=examples.answers(_QUEUE, "The queue"))
def queue(who: Admin, store: Store, config: Config) -> dict[str, Any]:
    with reading(store) as session:
        overview = Overview(session)
        jobs, wait, seen = overview.jobs_by_status(), overview.oldest_wait(), overview.workers(3 * config.lease_seconds)
    slots = {"busy": sum(w.busy for w in seen), "free": sum(w.slots - w.busy for w in seen)}
    return {"object": "system.queue", "jobs": jobs, "oldest_wait_seconds": round(wait, 3), "slots": slots}
