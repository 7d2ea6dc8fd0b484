"""Errors as application/problem+json, and a request id on every answer. Nothing of ours ever leaves as a stack trace."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain import ids
from app.domain.errors import (
    AuthenticationError,
    Conflict,
    DomainError,
    InternalError,
    InvalidJSON,
    InvalidRequest,
    MethodNotAllowed,
    MissingParameter,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    UnknownParameter,
    UnsupportedMediaType,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MAX_DETAILS = 100


def install(app: FastAPI) -> None:
    """Handlers and middleware; once per application."""
    app.add_exception_handler(DomainError, _domain)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(RequestIds)


def request_id(scope: Mapping[str, Any]) -> str:
    return str(scope.get("state", {}).get("request_id") or ids.new_id(ids.REQUEST))


def body(error: DomainError, instance: str, request: str) -> dict[str, Any]:
    return {
        "type": f"/docs/errors#{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "instance": instance,
        "request_id": request,
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "hint": error.hint,
            "details": error.details[:_MAX_DETAILS],
        },
    }


def headers(error: DomainError) -> dict[str, str]:
    """`x-should-retry` because the openai client retries every 409 and 429 unless told not to."""
    found: dict[str, str] = {}
    if error.retry_after is not None:
        found["Retry-After"] = str(max(1, round(error.retry_after)))
    if isinstance(error, Conflict | QuotaExceeded):
        found["x-should-retry"] = "true" if error.retryable else "false"
    if isinstance(error, AuthenticationError):
        found["WWW-Authenticate"] = "Bearer"
    return found


def response(error: DomainError, scope: Mapping[str, Any]) -> JSONResponse:
    content = body(error, str(scope.get("path", "")), request_id(scope))
    return JSONResponse(_printable(content), error.status, headers(error), MEDIA_TYPE)


def _printable(value: Any) -> Any:
    """What a client sent may come back in a message; lone surrogates cannot be encoded."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {str(k): _printable(v) for k, v in value.items()}
    return [_printable(v) for v in value] if isinstance(value, list) else value


async def _domain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DomainError)
    if error.status >= 500:
        log.error("%s %s: %s: %s", request.method, request.url.path, error.code, error.message)
    return response(error, request.scope)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return response(from_validation(error.errors()), request.scope)


async def _http(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself raises: no such path, method not allowed, a body that cannot be read."""
    assert isinstance(error, HTTPException)
    found: DomainError
    if error.status_code == 404:
        found = NotFound("path", request.url.path, hint="GET /openapi.json lists every path.")
        found.message = f"There is no {request.method} {request.url.path[:200]}."
    elif error.status_code == 405:
        found = MethodNotAllowed(f"{request.method} is not possible here.", hint="GET /openapi.json lists every path.")
    elif error.status_code == 413:
        found = PayloadTooLarge("The body is too large.")
    elif error.status_code == 415:
        found = UnsupportedMediaType("This media type is not supported.")
    elif error.status_code < 500:
        found = InvalidRequest(str(error.detail) or "The request cannot be read.", hint="Check the body and its Content-Type.")
    else:
        found = InternalError("Something went wrong on our side.")
    answer = response(found, request.scope)
    answer.headers.update(error.headers or {})
    return answer


# -- pydantic's findings as ours ---------------------------------------------------------------------------------------


def param_of(location: tuple[int | str, ...]) -> str | None:
    """('body', 'stages', 0, 'epochs') -> 'stages[0].epochs'"""
    text = ""
    for part in location[1:] if location and location[0] in ("body", "query", "path", "header", "cookie") else location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text[:200] or None


def from_validation(errors: Any) -> InvalidRequest:
    """One error for all that pydantic found: the first names the field, `details` names them all."""
    found = [_one(dict(e)) for e in errors]
    first = found[0]
    if len(found) > 1 or first.param is not None:
        first.details = [{"param": e.param, "code": e.code, "message": e.message} for e in found]
    return first


def _one(error: dict[str, Any]) -> InvalidRequest:
    kind, param, said = str(error.get("type")), param_of(tuple(error.get("loc", ()))), str(error.get("msg", ""))
    if kind == "json_invalid":
        reason = (error.get("ctx") or {}).get("error", "")
        return InvalidJSON(f"The body is not valid JSON: {reason}", hint="Send UTF-8 JSON with Content-Type: application/json.")
    if kind == "extra_forbidden":
        hint = "Remove it, or check its spelling; GET /openapi.json lists the fields."
        return UnknownParameter(f"'{param}' is not a known parameter.", param=param, hint=hint)
    if kind == "missing":
        what = f"'{param}' is missing." if param else "A body is needed."
        return MissingParameter(what, param=param, hint="GET /openapi.json shows the schema, with an example.")
    words = said.removeprefix("Value error, ")
    words = words[:1].lower() + words[1:]
    given = error.get("input")
    shown = f" (given: {str(given)[:60]!r})" if isinstance(given, str | int | float) and kind != "value_error" else ""
    return InvalidRequest(f"'{param}': {words}{shown}." if param else f"{words}{shown}.", param=param, hint=_hint(kind, error))


def _hint(kind: str, error: dict[str, Any]) -> str:
    expected = (error.get("ctx") or {}).get("expected")
    if expected:
        return f"Use {expected}."
    return "GET /openapi.json shows the schema, with an example."


# -- request ids ---------------------------------------------------------------------------------------------------------


class RequestIds:
    """Gives every request an id (a valid one of the client is kept) and turns what nobody caught into a 500 that names it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"x-request-id"), "")
        mine = given if _REQUEST_ID.fullmatch(given) else ids.new_id(ids.REQUEST)
        scope.setdefault("state", {})["request_id"] = mine
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                extra = scope["state"].get("response_headers", {})
                more = [(k.encode(), v.encode("latin-1", "replace")) for k, v in {"x-request-id": mine, **extra}.items()]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception:
            log.exception("%s %s failed (request %s)", scope["method"], scope["path"], mine)
            if started:
                raise
            failed = InternalError(
                "Something went wrong on our side; the request id leads to the log line.", hint="Try again; if it stays, report it."
            )
            await response(failed, scope)(scope, receive, answer)
