"""JSON bodies: read within a limit, parsed strictly (UTF-8, no NaN, bounded depth); a fault becomes a 400 that names its field."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from app.api import problems
from app.domain.errors import InvalidJSON, InvalidRequest, PayloadTooLarge
from app.services.specs import refuse_unstorable

REF = "#/components/schemas/{model}"
MODELS: dict[str, type[BaseModel]] = {}  # of all bodies: app.api.openapi puts their schemas into the components
M = TypeVar("M", bound=BaseModel)
_WALKED_ON_LOOP = 2**15  # bytes; looking through a larger body would hold up the others


class Body(BaseModel):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


async def read_object(request: Request) -> dict[str, Any]:
    """The body as an object; nothing at all counts as an empty one. Refused while still arriving when it grows beyond the limit."""
    limit: int = request.app.state.settings.max_body_bytes
    stated = request.headers.get("content-length", "")
    chunks: list[bytes] = []
    size = int(stated) if stated.isdigit() and len(stated) < 20 and int(stated) > limit else 0
    if not size:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                break
            chunks.append(chunk)
    if size > limit:
        raise PayloadTooLarge(f"The body may have {limit:,} bytes.", hint="Send data as a file: POST /v1/files.")
    raw = b"".join(chunks)
    if not raw.strip():
        return {}
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        reason = error.msg.split(": line")[0]
        raise InvalidJSON(
            f"The body is not valid JSON: {reason} ({where}).", hint="Send UTF-8 JSON with Content-Type: application/json."
        ) from None
    if not isinstance(found, dict):
        raise InvalidRequest("The body must be a JSON object.", hint="GET /openapi.json shows the schema, with an example.")
    if len(raw) < _WALKED_ON_LOOP:
        refuse_unstorable(found)
    else:
        await asyncio.to_thread(refuse_unstorable, found)
    return found


def parse(model: type[M], given: dict[str, Any]) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise problems.from_validation(error.errors()) from None


def body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency: the body as `model`."""

    async def read(request: Request) -> M:
        return parse(model, await read_object(request))

    return read


def described(model: type[BaseModel], *examples: Any, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of an operation with such a body."""
    shown = {f"example {n}" if n > 1 else "example": {"value": value} for n, value in enumerate(examples, 1)}
    content = {"schema": {"$ref": REF.format(model=model.__name__)}, "examples": shown}
    MODELS[model.__name__] = model
    return {"requestBody": {"required": required, "content": {"application/json": content}}}
