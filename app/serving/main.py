"""The data plane as a process of its own (`uvicorn app.serving.main:app`), or beside the control plane (`mount`)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.api import auth, problems
from app.domain.db import Sessions, make_engine, make_sessions, reading
from app.domain.storage import BlobStore
from app.serving import compare_router, models_router, router
from app.serving.plane import Plane
from app.settings import Settings, get_settings

_CHECK_SECONDS = 5.0


def mount(app: FastAPI, settings: Settings) -> AbstractAsyncContextManager[None]:
    """Add the inference routes to `app`; the plane lives while the returned context is open."""
    app.include_router(router.router)
    app.include_router(models_router.router)
    app.include_router(compare_router.router)
    # A control plane's own answer knows nothing of models: ours, which includes what it checks, comes first.
    app.router.routes.insert(0, APIRoute("/readyz", readyz, include_in_schema=False))
    return _running(app, settings)


@asynccontextmanager
async def _running(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    plane = Plane.build(settings, app.state.sessions, app.state.blobs)
    app.state.serving = plane
    plane.start()
    try:
        yield
    finally:
        await plane.close()


def create_app(settings: Settings) -> FastAPI:
    engine = make_engine(settings.database)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with plane:
            yield
        engine.dispose()

    app = FastAPI(title="Retort inference", version="1", description="Answers of distilled students.", lifespan=lifespan)
    app.state.settings = settings
    app.state.sessions = make_sessions(engine)
    app.state.blobs = BlobStore(settings.blob_root)
    problems.install(app)
    plane = mount(app, settings)
    _operations(app)
    _describe_security(app)
    return app


def _describe_security(app: FastAPI) -> None:
    """Keys are read by hand, so /openapi.json is told about them."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        document.setdefault("components", {})["securitySchemes"] = {"bearer": auth.scheme()}
        for path, operations in document["paths"].items():
            for operation in operations.values() if path.startswith("/v1/") else ():
                operation["security"] = [{"bearer": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(app: FastAPI) -> None:
    """Health and metrics of the separate process; composed with the control plane they are the control plane's."""

    @app.get("/healthz", tags=["operations"], summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    app.get("/readyz", tags=["operations"], summary="Database, storage and every loaded model answer")(readyz)

    @app.get("/metrics", tags=["operations"], summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def readyz(request: Request) -> JSONResponse:
    checks = await readiness(request.app)
    ready = all(said == "ok" for said in checks.values())
    return JSONResponse({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)


async def readiness(app: FastAPI) -> dict[str, str]:
    checks = {"database": "ok", "storage": "ok", "models": "ok"}
    for name, check in (("database", partial(_reach, app.state.sessions)), ("storage", partial(_list, app.state.blobs))):
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await asyncio.to_thread(check)
        except Exception as error:
            checks[name] = type(error).__name__
    plane: Plane = app.state.serving
    if wrong := await plane.probe():
        checks["models"] = "; ".join(f"{digest[:12]}: {said}" for digest, said in wrong.items())
    return checks


def _reach(sessions: Sessions) -> None:
    with reading(sessions):  # takes a connection and begins
        pass


def _list(blobs: BlobStore) -> None:
    next(blobs.path("artifacts").iterdir(), None)


def __getattr__(name: str) -> Any:
    """`app` is made when uvicorn asks for it, so that importing `mount` opens nothing."""
    if name == "app":
        return create_app(get_settings())
    raise AttributeError(name)
