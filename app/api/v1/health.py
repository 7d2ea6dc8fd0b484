"""/healthz, /readyz, /metrics: for whatever keeps the process alive and watches it. No key, no tenant's data."""

import logging
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.api.deps import Config, Store
from app.domain.storage import BlobStore
from app.services import health

log = logging.getLogger(__name__)
router = APIRouter(tags=["operations"])


def _shown(value: Any, description: str, media: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {media: {"example": value}}}


@router.get("/healthz", summary="The process is alive", responses={200: _shown({"status": "ok"}, "Alive")})
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Database and storage answer",
    responses={
        200: _shown({"status": "ready", "checks": {"database": "ok", "storage": "ok"}}, "Ready"),
        503: _shown({"status": "not ready", "checks": {"database": "OperationalError", "storage": "ok"}}, "Not ready"),
    },
)
def readyz(request: Request, store: Store) -> JSONResponse:
    blobs: BlobStore = request.app.state.blobs
    checks = health.check(store, blobs)
    ready = all(said == "ok" for said in checks.values())
    return JSONResponse({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: _shown('retort_jobs{status="queued"} 2.0\n', "Text exposition format", "text/plain")},
)
def metrics(store: Store, config: Config) -> Response:
    """What the process counts, and what the database knows: jobs by state, workers alive."""
    try:
        health.observe(store, 3 * config.lease_seconds)
    except Exception as error:  # the process's own counters are worth having when the database is away
        log.warning("/metrics without the database (%s)", type(error).__name__)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
