"""What most endpoints need: the stores, a list's query parameters, the Idempotency-Key."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from fastapi import Depends, Header, Query, Request
from fastapi.responses import JSONResponse

from app.domain.db import Sessions
from app.domain.errors import InvalidRequest
from app.domain.storage import BlobStore
from app.services.once import Once, Outcome
from app.settings import Settings

_KEY = re.compile(r"[\x21-\x7e]{1,255}")

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 visible characters. The same key and body within 24 hours get the first answer again.",
        examples=["9f1c2b6e"],
    ),
]


def sessions(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


def blobs(request: Request) -> BlobStore:
    found: BlobStore = request.app.state.blobs
    return found


def settings(request: Request) -> Settings:
    found: Settings = request.app.state.settings
    return found


Store = Annotated[Sessions, Depends(sessions)]
Blobs = Annotated[BlobStore, Depends(blobs)]
Config = Annotated[Settings, Depends(settings)]


@dataclass(frozen=True)
class Paging:
    limit: int
    after: str | None
    before: str | None
    order: Literal["asc", "desc"]


def paging(
    limit: Annotated[int, Query(ge=1, le=100, description="How many objects to return.")] = 20,
    after: Annotated[str | None, Query(max_length=80, description="Id of the object before this page.")] = None,
    before: Annotated[str | None, Query(max_length=80, description="Id of the object behind this page.")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By time of creation.")] = "desc",
) -> Paging:
    if after is not None and before is not None:
        raise InvalidRequest("Give 'after' or 'before', not both.", param="before")
    return Paging(limit, after, before, order)


Page = Annotated[Paging, Depends(paging)]


def listed(found: tuple[Sequence[Any], bool], show: Callable[[Any], dict[str, Any]], key: str = "id") -> dict[str, Any]:
    """The list object of one page."""
    rows, has_more = found
    data = [show(row) for row in rows]
    ends = {"first_id": data[0][key], "last_id": data[-1][key]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": has_more}


def once(request: Request, key: str | None, body: Any) -> Once | None:
    """`body`: what the request asks for, as JSON; two requests that say the same have the same hash."""
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        hint = "Use a random string, such as a UUID."
        raise InvalidRequest("'Idempotency-Key' must be 1 to 255 visible ASCII characters.", param="Idempotency-Key", hint=hint)
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return Once(request.method, request.url.path, key, hashlib.sha256(canonical).hexdigest())


def created(outcome: Outcome) -> JSONResponse:
    answer = outcome.answer
    headers = {"Location": answer.location} if answer.location else {}
    if outcome.replayed:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(answer.body, answer.status, headers)
