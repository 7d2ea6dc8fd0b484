"""POST /v1/classify and /v1/embeddings. Thin: read, resolve, answer, serialise."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from app.api.auth import Caller, caller
from app.domain.errors import DomainError, InvalidRequest, UnsupportedMethod
from app.serving import openapi, replies, requests
from app.serving.inference import CallerGone
from app.serving.plane import Plane
from app.serving.pool import Served
from app.serving.resolver import Resolved
from app.serving.work import Answer, Kind

router = APIRouter(tags=["inference"])
InferenceCaller = Annotated[Caller, Depends(caller("inference"))]
_SERIALISE_ON_LOOP = 64  # more rows than this are turned into JSON in a thread
_GONE = 499


@router.post("/v1/classify", summary="Classify texts", **openapi.CLASSIFY)
async def classify(request: Request, who: InferenceCaller) -> Response:
    plane: Plane = request.app.state.serving
    with plane.observed("classify"):
        wanted = requests.classify(await requests.read_object(request, plane.limits.max_body_bytes), plane.limits)
        version, model = await _model(plane, who.project_id, wanted.model)
        if not model.card.labels:
            raise UnsupportedMethod(f"'{version.id}' has no labels.", param="model", hint="Use POST /v1/embeddings with it.")
        answered = await _answer(plane, request, model, who.project_id, "scores", wanted.texts, wanted.cache)
        if answered is None:
            return Response(status_code=_GONE)
        answers, headers = answered
        return await _reply(len(answers), headers, partial(replies.classify, version.id, model.card.labels, answers, wanted.top_k))


@router.post("/v1/embeddings", summary="Embed texts (OpenAI's shape)", **openapi.EMBEDDINGS)
async def embeddings(request: Request, who: InferenceCaller) -> Response:
    plane: Plane = request.app.state.serving
    with plane.observed("embeddings"):
        wanted = requests.embeddings(await requests.read_object(request, plane.limits.max_body_bytes), plane.limits)
        version, model = await _model(plane, who.project_id, wanted.model)
        width = model.card.embedding_dim
        if width is None:
            raise UnsupportedMethod(f"'{version.id}' gives no embeddings.", param="model", hint="Use POST /v1/classify with it.")
        if wanted.dimensions is not None and wanted.dimensions > width:
            raise InvalidRequest(f"'dimensions' is {wanted.dimensions}; '{version.id}' has {width}.", param="dimensions")
        answered = await _answer(plane, request, model, who.project_id, "embedding", wanted.texts, wanted.cache)
        if answered is None:
            return Response(status_code=_GONE)
        answers, headers = answered
        if wanted.ignored:
            headers["x-ignored-params"] = requests.header_of(wanted.ignored)
        dimensions = wanted.dimensions if wanted.dimensions != width else None
        base64 = wanted.encoding == "base64"
        build = partial(replies.embeddings, version.id, answers, dimensions, model.card.normalize, base64)
        return await _reply(len(answers), headers, build)


async def _model(plane: Plane, project: str, ref: str) -> tuple[Resolved, Served]:
    """The version this whole request is answered by, loaded."""
    version = (await plane.resolver.resolve(project, ref)).servable()
    try:
        return version, await plane.pool.get(version.digest, plane.limits.load_wait_seconds)
    except DomainError as error:
        error.param = error.param or "model"
        raise


async def _answer(
    plane: Plane, request: Request, model: Served, project: str, kind: Kind, texts: list[str], cached: bool
) -> tuple[list[Answer], dict[str, str]] | None:
    """None when the caller hung up."""
    seconds = plane.limits.deadline_seconds
    with suppress(KeyError, ValueError):  # what the openai client says of its own patience
        seconds = min(seconds, max(0.05, float(request.headers["x-stainless-read-timeout"])))
    try:
        answers, hits = await plane.inference.answer(
            model, project, kind, texts, cached=cached, seconds=seconds, watch=_watch(request)
        )
    except CallerGone:
        return None
    headers = {"x-cache-hits": str(hits)}
    if cut := sum(answer.truncated for answer in answers):
        headers["x-truncated-inputs"] = str(cut)
    return answers, headers


def _watch(request: Request) -> Callable[[asyncio.Future[None]], asyncio.Task[None]]:
    async def until_gone(future: asyncio.Future[None]) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        future.cancel()

    return lambda future: asyncio.create_task(until_gone(future))


async def _reply(rows: int, headers: dict[str, str], build: Callable[[], bytes]) -> Response:
    body = build() if rows <= _SERIALISE_ON_LOOP else await asyncio.to_thread(build)
    return Response(body, media_type="application/json", headers=headers)
