"""The control plane: `uvicorn app.main:app`. No torch, no numpy, nothing of the worker."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app.api import openapi, problems
from app.api.limits import Limiter
from app.api.v1 import api_keys, catalog, distillation, files, health, job_events, projects, registry, system
from app.domain import catalog as plugins
from app.domain.db import make_engine, make_sessions
from app.domain.storage import BlobStore
from app.services import keys
from app.settings import Settings, get_settings

log = logging.getLogger(__name__)
ROUTERS = (health, files, distillation, job_events, registry, catalog, api_keys, projects, system)


def create_app(settings: Settings) -> FastAPI:
    if settings.catalog is not None:
        plugins.use(settings.catalog)
    engine = make_engine(settings.database)
    sessions = make_sessions(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if keys.ensure_bootstrap(sessions, settings):
            log.warning("No API key existed: a first admin key was made and kept in %s", settings.data_dir / "key")
        try:
            yield
        finally:
            engine.dispose()

    app = FastAPI(
        title="Retort", version="1", description=openapi.DESCRIPTION, lifespan=lifespan, openapi_tags=openapi.TAGS, redoc_url=None
    )
    app.state.settings, app.state.sessions = settings, sessions
    app.state.blobs = BlobStore(settings.blob_root)
    app.state.limiter = Limiter(settings.requests_per_minute)
    problems.install(app)
    for module in ROUTERS:
        app.include_router(module.router)
    openapi.install(app)
    return app


def __getattr__(name: str) -> Any:
    """`app` is made when uvicorn asks for it, so that importing `create_app` opens nothing."""
    if name == "app":
        return create_app(get_settings())
    raise AttributeError(name)
