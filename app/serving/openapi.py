"""What /openapi.json says of the inference endpoints: their bodies are parsed by hand, so their schemas are written here."""

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_INPUT = {
    "description": "One text or a list of texts. Each must be non-empty; longer ones are cut to the model's max_length.",
    "oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}],
}
_ITEM = {
    "oneOf": [
        _TEXT,
        {
            "type": "object",
            "required": ["text"],
            "properties": {"text": _TEXT, "text_b": {**_TEXT, "description": "The second text, for a model that judges pairs."}},
            "additionalProperties": False,
        },
    ]
}
_JUDGED = {
    "description": "One text or a list of texts. A model that judges pairs takes objects with `text` and `text_b`, and only them.",
    "oneOf": [*_ITEM["oneOf"], {"type": "array", "items": _ITEM, "minItems": 1}],
}
_MODEL = {"type": "string", "description": "`name`, `name:3` (version) or `name@alias`.", "examples": ["support-intents"]}
_CACHE = {"type": "boolean", "default": True, "description": "false: neither read nor write the answer cache."}
_USAGE = {"prompt_tokens": 9, "total_tokens": 9}


def _problem(status: int, code: str, type_: str, title: str, message: str, **more: Any) -> dict[str, Any]:
    error: dict[str, Any] = {
        "message": message,
        "type": type_,
        "param": more.get("param"),
        "code": code,
        "hint": more.get("hint"),
        "details": [],
    }
    body = {"type": f"/docs/errors#{code}", "title": title, "status": status, "detail": message, "error": error}
    return {"description": title, "content": {"application/problem+json": {"example": body}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _problem(
        400,
        "invalid_parameter",
        "invalid_request_error",
        "A parameter is not valid",
        "'input' has 5000 texts; one request may have 2048.",
        param="input",
        hint="Split the list into requests of at most 2048 texts.",
    ),
    401: _problem(401, "missing_api_key", "authentication_error", "An API key is needed", "Send 'Authorization: Bearer rt_…'."),
    403: _problem(403, "missing_scope", "permission_error", "The API key lacks a scope", "This needs the scope 'inference'."),
    404: _problem(404, "model_not_found", "not_found_error", "Not found", "No model 'nope' in this project.", param="model"),
}
BUSY: dict[int | str, dict[str, Any]] = {
    413: _problem(413, "file_too_large", "invalid_request_error", "The body is too large", "The body may have 4194304 bytes."),
    429: _problem(
        429,
        "rate_limit_exceeded",
        "rate_limit_error",
        "Too many requests",
        "The answer would take about 44 s, the deadline is 30 s.",
    ),
    500: _problem(
        500, "artifact_corrupt", "server_error", "A stored artifact does not match its manifest", "'onnx/model.onnx' differs."
    ),
    503: _problem(503, "model_loading", "server_error", "The model is loading", "The model is still being loaded."),
}


def _body(properties: dict[str, Any], required: list[str], examples: dict[str, Any], strict: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "required": required, "properties": properties}
    if strict:
        schema["additionalProperties"] = False
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": shown}}}}


def _answer(name: str, item: dict[str, Any], example: list[dict[str, Any]], description: str) -> dict[int | str, dict[str, Any]]:
    usage = {"type": "object", "properties": {name: {"type": "integer"} for name in _USAGE}}
    shape = {"object": {"const": "list"}, "model": {"type": "string"}, name: {"type": "array", "items": item}, "usage": usage}
    shown = {"object": "list", "model": "support-intents:1", name: example, "usage": _USAGE}
    content = {"schema": {"type": "object", "properties": shape}, "example": shown}
    return {200: {"description": description, "content": {"application/json": content}}}


def _object(title: str, example: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    shape = {"type": "object", "title": title, "required": list(properties), "properties": properties}
    return shape | ({"examples": [example]} if example else {})


_INTEGER, _NUMBER, _STRING = {"type": "integer"}, {"type": "number"}, {"type": "string"}
_SCORES = {"type": "array", "items": _object("score", label=_STRING, score=_NUMBER)}
_ENTITY = {"label": "LOC", "start": 10, "end": 15, "text": "Paris", "score": 0.99}
_ENTITIES = {
    "type": "array",
    "items": _object("entity", label=_STRING, start=_INTEGER, end=_INTEGER, text=_STRING, score=_NUMBER),
}
_CLASSIFIED = {
    "anyOf": [
        _object("classes: one, or several at once", index=_INTEGER, label=_STRING, score=_NUMBER, scores=_SCORES),
        _object("entities", {"index": 0, "entities": [_ENTITY]}, index=_INTEGER, entities=_ENTITIES),
        _object("a number", {"index": 0, "score": 3.4}, index=_INTEGER, score=_NUMBER),
    ]
}
_SEVERAL = "One answer per text, in order"

CLASSIFY: dict[str, Any] = {
    "description": (
        "What an item of `data` holds follows from the model. One class per text: the likeliest label, and `top_k` of them with "
        "probabilities that sum to one. Several classes at once: the same, each probability by itself. A number (regression): "
        "`score`, as the model says it. Words: `entities` with character offsets into the text."
    ),
    "openapi_extra": _body(
        {
            "model": _MODEL,
            "input": _JUDGED,
            "top_k": {"type": "integer", "minimum": 1, "default": 3, "description": "How many labels to return per text."},
            "cache": _CACHE,
        },
        ["model", "input"],
        {
            "one text": {"model": "support-intents", "input": "my card has not arrived yet", "top_k": 3},
            "several": {"model": "support-intents@production", "input": ["where is my refund?", "cash machine kept my card"]},
            "a pair": {"model": "duplicates", "input": {"text": "where is my refund?", "text_b": "when will I get my money back?"}},
            "words": {"model": "places", "input": "I moved to Paris."},
        },
        strict=True,
    ),
    "responses": _answer(
        "data",
        _CLASSIFIED,
        [
            {
                "index": 0,
                "label": "card_arrival",
                "score": 0.98,
                "scores": [{"label": "card_arrival", "score": 0.98}, {"label": "refund", "score": 0.01}],
            }
        ],
        _SEVERAL,
    )
    | ERRORS
    | BUSY,
}

_VECTOR = {"oneOf": [{"type": "array", "items": _NUMBER}, {**_STRING, "contentEncoding": "base64"}]}
EMBEDDINGS: dict[str, Any] = {
    "openapi_extra": _body(
        {
            "model": _MODEL,
            "input": _INPUT,
            "encoding_format": {"enum": ["float", "base64"], "default": "float", "description": "base64: little-endian float32."},
            "dimensions": {"type": "integer", "minimum": 1, "description": "Keep the first components, at unit length."},
            "user": _STRING,
            "cache": _CACHE,
        },
        ["model", "input"],
        {"one text": {"model": "support-intents", "input": "my card has not arrived yet"}},
        strict=False,
    ),
    "responses": _answer(
        "data",
        _object("embedding", object={"const": "embedding"}, index=_INTEGER, embedding=_VECTOR),
        [{"object": "embedding", "index": 0, "embedding": [0.013, -0.094, 0.051]}],
        _SEVERAL,
    )
    | ERRORS
    | BUSY,
}

_RANKED = _object("result", index=_INTEGER, relevance_score=_NUMBER)
_RANKED["properties"]["document"] = _object("document", text=_STRING)
RERANK: dict[str, Any] = {
    "description": (
        "A cross-encoder reads the query with each document: `relevance_score` is a probability, from 0 to 1. A bi-encoder or an "
        "embedding model compares vectors, which the cache shares with /v1/embeddings: the cosine, from -1 to 1."
    ),
    "openapi_extra": _body(
        {
            "model": _MODEL,
            "query": {**_TEXT, "description": "What the documents are ranked for."},
            "documents": {"type": "array", "items": _TEXT, "minItems": 1},
            "top_n": {"type": "integer", "minimum": 1, "description": "How many to return; all of them by default."},
            "return_documents": {"type": "boolean", "default": False, "description": "true: each result has its text."},
            "cache": _CACHE,
        },
        ["model", "query", "documents"],
        {
            "the best two": {
                "model": "answers",
                "query": "my card has not arrived",
                "documents": ["Cards arrive within five days.", "Cash machines are free.", "A lost card is blocked at once."],
                "top_n": 2,
            }
        },
        strict=True,
    ),
    "responses": _answer(
        "results",
        _RANKED,
        [{"index": 0, "relevance_score": 0.97}, {"index": 2, "relevance_score": 0.31}],
        "The documents by falling relevance; `index` is the place among those sent",
    )
    | ERRORS
    | BUSY,
}


def example(value: Any, description: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {"application/json": {"example": value}}}}
