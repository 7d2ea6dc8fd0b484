"""What every inference endpoint does around its own question: find the model, wait for the answers, send them."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import Response

from app.api.auth import Caller, caller
from app.domain.errors import DomainError
from app.serving.backends.base import Text
from app.serving.plane import Plane
from app.serving.pool import Served
from app.serving.resolver import Resolved
from app.serving.work import Answer, Kind

InferenceCaller = Annotated[Caller, Depends(caller("inference"))]
GONE = 499  # the caller hung up
_SERIALISE_ON_LOOP = 64  # more rows than this are turned into JSON in a thread


async def model_of(plane: Plane, project: str, ref: str) -> tuple[Resolved, Served]:
    """The version this whole request is answered by, loaded."""
    version = (await plane.resolver.resolve(project, ref)).servable()
    try:
        return version, await plane.pool.get(version.digest, plane.limits.load_wait_seconds)
    except DomainError as error:
        error.param = error.param or "model"
        raise


async def answered(
    request: Request,
    model: Served,
    project: str,
    kind: Kind,
    texts: Sequence[Text],
    cached: bool,
    place: Callable[[int], str] | None = None,
) -> tuple[list[Answer], dict[str, str]]:
    """The answers and the headers that tell of them. CallerGone when nobody waits for them any more."""
    plane: Plane = request.app.state.serving
    seconds = plane.limits.deadline_seconds
    with suppress(KeyError, ValueError):  # what the openai client says of its own patience
        seconds = min(seconds, max(0.05, float(request.headers["x-stainless-read-timeout"])))
    answers, hits = await plane.inference.answer(
        model, project, kind, texts, cached=cached, seconds=seconds, place=place, watch=_watch(request)
    )
    headers = {"x-cache-hits": str(hits)}
    if cut := sum(answer.truncated for answer in answers):
        headers["x-truncated-inputs"] = str(cut)
    return answers, headers


async def reply(rows: int, headers: dict[str, str], build: Callable[[], bytes]) -> Response:
    body = build() if rows <= _SERIALISE_ON_LOOP else await asyncio.to_thread(build)
    return Response(body, media_type="application/json", headers=headers)


def _watch(request: Request) -> Callable[[asyncio.Future[None]], asyncio.Task[None]]:
    async def until_gone(future: asyncio.Future[None]) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        future.cancel()

    return lambda future: asyncio.create_task(until_gone(future))
