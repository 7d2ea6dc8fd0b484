"""Bodies of the inference endpoints: read within a limit, parsed by orjson, checked by hand so that the hot path stays short."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from fastapi import Request

from app.domain.errors import InvalidJSON, InvalidRequest, MissingParameter, PayloadTooLarge, UnknownParameter
from app.serving.admission import Limits
from app.serving.backends.base import Text
from app.serving.inputs import each, judged, text, texts

_DEFAULT_TOP_K = 3
_MAX_TOP_K = 10_000
_PRINTABLE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


@dataclass(frozen=True)
class ClassifyRequest:
    model: str
    texts: list[Text]
    top_k: int
    cache: bool


@dataclass(frozen=True)
class EmbeddingsRequest:
    model: str
    texts: list[str]
    encoding: Literal["float", "base64"]
    dimensions: int | None
    cache: bool
    ignored: list[str]


@dataclass(frozen=True)
class RerankRequest:
    model: str
    query: str
    documents: list[str]
    top_n: int | None
    return_documents: bool
    cache: bool


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """The body as a JSON object; refused while it is still arriving when it grows beyond the limit."""
    stated = request.headers.get("content-length", "")
    too_large = PayloadTooLarge(f"The body may have {limit} bytes.", hint="Split the texts over several requests.", param=None)
    if stated.isdigit() and int(stated) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
    try:
        body = orjson.loads(b"".join(chunks))
    except orjson.JSONDecodeError as error:
        raise InvalidJSON(
            f"The body is not valid JSON: {error}", hint='Send UTF-8 JSON, such as {"model": "…", "input": "…"}.'
        ) from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", hint='Send {"model": "…", "input": "…"}.')
    return body


def classify(body: dict[str, Any], limits: Limits) -> ClassifyRequest:
    _only(body, ("model", "input", "top_k", "cache"))
    top_k = _integer(body, "top_k", _DEFAULT_TOP_K, _MAX_TOP_K)
    return ClassifyRequest(_model(body), judged(body.get("input"), limits), top_k or _DEFAULT_TOP_K, _boolean(body, "cache", True))


def embeddings(body: dict[str, Any], limits: Limits) -> EmbeddingsRequest:
    known = ("model", "input", "encoding_format", "dimensions", "user", "cache")
    ignored = sorted(name for name in body if name not in known)
    encoding = body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise InvalidRequest("'encoding_format' must be 'float' or 'base64'.", param="encoding_format")
    dimensions = _integer(body, "dimensions", None, 2**20)
    wanted = texts(body.get("input"), limits)
    return EmbeddingsRequest(_model(body), wanted, encoding or "float", dimensions, _boolean(body, "cache", True), ignored)


def rerank(body: dict[str, Any], limits: Limits) -> RerankRequest:
    _only(body, ("model", "query", "documents", "top_n", "return_documents", "cache"))
    model = _model(body)
    if body.get("query") is None:
        raise MissingParameter("'query' is missing.", param="query", hint="Give the text that the documents are ranked for.")
    query = text(body["query"], "query", limits)
    documents = each(body.get("documents"), "documents", "a list of strings", limits, text)
    top_n = _integer(body, "top_n", None, 2**31)
    return RerankRequest(model, query, documents, top_n, _boolean(body, "return_documents", False), _boolean(body, "cache", True))


def header_of(ignored: list[str]) -> str:
    """Names that are safe in a header; a client can send anything as a key."""
    return ", ".join(name if _PRINTABLE.fullmatch(name) else "?" for name in ignored[:20])


def _only(body: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in body:
        if name not in known:
            raise UnknownParameter(
                f"'{name[:80]}' is not a parameter of this endpoint.", param=name[:80], hint=f"Known: {', '.join(known)}."
            )


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if model is None:
        raise MissingParameter("'model' is missing.", param="model", hint="GET /v1/models lists what can be called.")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("'model' must be a string: 'name', 'name:3' or 'name@alias'.", param="model")
    return model


def _integer(body: dict[str, Any], name: str, default: int | None, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidRequest(f"'{name}' must be a whole number from 1 to {most}.", param=name)
    return value


def _boolean(body: dict[str, Any], name: str, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"'{name}' must be true or false.", param=name)
    return value
