"""GET /v1/models (OpenAI's shape), and what an operator does with one: load, unload, warm."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from app.api.auth import Caller, caller
from app.domain.db import Sessions, reading
from app.domain.repositories.registry import Registry
from app.serving import heads, openapi
from app.serving.calls import InferenceCaller
from app.serving.plane import Plane
from app.serving.pool import Served
from app.serving.resolver import Resolved

router = APIRouter(tags=["inference"])
ModelsCaller = Annotated[Caller, Depends(caller("models:write"))]

_LISTED = {
    "id": "support-intents",
    "object": "model",
    "created": 1790000000,
    "owned_by": "retort",
    "version": 1,
    "task": "text-classification",
}
_SHOWN = {
    **_LISTED,
    "id": "support-intents:1",
    "kind": "student",
    "digest": "sha256:9f2c…",
    "servable": True,
    "status": "ready",
    "problem": "single_label",
    "pairs": False,
    "labels": ["card_arrival", "refund"],
    "max_length": 128,
    "embedding_dim": 192,
    "backend": "onnx_runtime",
    "precision": "int8",
    "memory_bytes": 24000000,
    "batch": {"max_rows": 1, "token_budget": 128, "seconds_per_row": 0.0021, "largest_difference": 0.004},
    "load_seconds": 0.31,
}


@router.get(
    "/v1/models",
    summary="List callable models",
    responses=openapi.example({"object": "list", "data": [_LISTED]}, "All") | openapi.ERRORS,
)
async def list_models(request: Request, who: InferenceCaller) -> dict[str, Any]:
    return {"object": "list", "data": await asyncio.to_thread(_listed, request.app.state.sessions, who.project_id)}


@router.get(
    "/v1/models/{ref}", summary="One model", responses=openapi.example(_SHOWN, "The version that would answer") | openapi.ERRORS
)
async def get_model(ref: str, request: Request, who: InferenceCaller) -> dict[str, Any]:
    plane: Plane = request.app.state.serving
    return _shown(plane, await plane.resolver.resolve(who.project_id, ref))


@router.post(
    "/v1/models/{ref}/load", summary="Load a model", responses=openapi.example(_SHOWN, "Loaded") | openapi.ERRORS | openapi.BUSY
)
async def load_model(ref: str, request: Request, who: ModelsCaller) -> dict[str, Any]:
    plane: Plane = request.app.state.serving
    version = (await plane.resolver.resolve(who.project_id, ref)).servable()
    await plane.pool.get(version.digest, plane.limits.deadline_seconds)
    return _shown(plane, version)


@router.post(
    "/v1/models/{ref}/unload",
    summary="Unload a model",
    description="Finishes what is queued, then frees the memory. The next call loads it again.",
    responses=openapi.example({**_LISTED, "id": "support-intents:1", "status": "unloaded"}, "Unloaded") | openapi.ERRORS,
)
async def unload_model(ref: str, request: Request, who: ModelsCaller) -> dict[str, Any]:
    plane: Plane = request.app.state.serving
    version = await plane.resolver.resolve(who.project_id, ref)
    await plane.pool.unload(version.digest, plane.limits.deadline_seconds)
    return _shown(plane, version)


@router.post(
    "/v1/models/{ref}/warm",
    summary="Run a forward",
    description="Loads the model when needed and runs one text through queue and forward, past the cache.",
    responses=openapi.example({**_SHOWN, "warm_seconds": 0.003}, "Answered") | openapi.ERRORS | openapi.BUSY,
)
async def warm_model(ref: str, request: Request, who: ModelsCaller) -> dict[str, Any]:
    plane: Plane = request.app.state.serving
    version = (await plane.resolver.resolve(who.project_id, ref)).servable()
    model = await plane.pool.get(version.digest, plane.limits.deadline_seconds)
    started = time.perf_counter()
    kind, text = heads.probe(model.card, "warm")
    await plane.inference.answer(model, who.project_id, kind, [text], cached=False, seconds=plane.limits.deadline_seconds)
    return {**_shown(plane, version), "warm_seconds": round(time.perf_counter() - started, 6)}


def _listed(sessions: Sessions, project: str) -> list[dict[str, Any]]:
    """Models that have a servable version; `id` without a version answers with the production alias, else the newest."""
    with reading(sessions) as session:
        registry = Registry(session, project)
        found = []
        for model in registry.models():
            _, version = registry.resolve(model.name)
            if version.kind == "student":
                entry = {"id": model.name, "object": "model", "created": int(model.created_at), "owned_by": "retort"}
                found.append({**entry, "version": version.version, "task": version.task})
        return found


def _shown(plane: Plane, version: Resolved) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": version.id, "object": "model", "created": int(version.created_at), "owned_by": "retort"}
    shown |= {"version": version.version, "task": version.task, "kind": version.kind, "digest": f"sha256:{version.digest}"}
    shown |= {"servable": version.kind == "student", "status": plane.pool.state(version.digest)}
    model = plane.pool.peek(version.digest)
    return shown | (_loaded(model) if model else {})


def _loaded(model: Served) -> dict[str, Any]:
    policy = model.batcher.policy
    return {
        "problem": model.card.problem,
        "pairs": model.card.judges_pairs,
        "labels": list(model.card.labels),
        "max_length": model.card.max_length,
        "embedding_dim": model.card.embedding_dim,
        "backend": model.entry.backend,
        "precision": model.entry.precision,
        "memory_bytes": model.bytes,
        "batch": {
            "max_rows": policy.max_rows,
            "token_budget": policy.token_budget,
            "seconds_per_row": round(model.batcher.seconds_per_row, 6),
            "largest_difference": model.measured.batch_error,
        },
        "load_seconds": round(model.load_seconds, 3),
    }
