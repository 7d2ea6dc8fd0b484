"""What /openapi.json says of the inference endpoints: their bodies are parsed by hand, so their schemas are written here."""

from typing import Any

_INPUT = {
    "description": "One text or a list of texts. Each must be non-empty; longer ones are cut to the model's max_length.",
    "oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}],
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


def _body(properties: dict[str, Any], examples: dict[str, Any], strict: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "required": ["model", "input"], "properties": properties}
    if strict:
        schema["additionalProperties"] = False
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": shown}}}}


def _answer(properties: dict[str, Any], example: Any) -> dict[int | str, dict[str, Any]]:
    usage = {"type": "object", "properties": {name: {"type": "integer"} for name in _USAGE}}
    shape = {
        "object": {"const": "list"},
        "model": {"type": "string"},
        "data": {"type": "array", "items": properties},
        "usage": usage,
    }
    schema = {"type": "object", "properties": shape}
    return {
        200: {
            "description": "One answer per text, in order",
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


_SCORE = {"type": "object", "properties": {"label": {"type": "string"}, "score": {"type": "number"}}}
_CLASSIFIED = {
    "type": "object",
    "properties": {"index": {"type": "integer"}, **_SCORE["properties"], "scores": {"type": "array", "items": _SCORE}},  # type: ignore[dict-item]
}
_EMBEDDED = {
    "type": "object",
    "properties": {
        "object": {"const": "embedding"},
        "index": {"type": "integer"},
        "embedding": {"oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string", "contentEncoding": "base64"}]},
    },
}

CLASSIFY: dict[str, Any] = {
    "openapi_extra": _body(
        {
            "model": _MODEL,
            "input": _INPUT,
            "top_k": {"type": "integer", "minimum": 1, "default": 3, "description": "How many labels to return per text."},
            "cache": _CACHE,
        },
        {
            "one text": {"model": "support-intents", "input": "my card has not arrived yet", "top_k": 3},
            "several": {"model": "support-intents@production", "input": ["where is my refund?", "cash machine kept my card"]},
        },
        strict=True,
    ),
    "responses": _answer(
        _CLASSIFIED,
        {
            "object": "list",
            "model": "support-intents:1",
            "data": [
                {
                    "index": 0,
                    "label": "card_arrival",
                    "score": 0.98,
                    "scores": [{"label": "card_arrival", "score": 0.98}, {"label": "refund", "score": 0.01}],
                }
            ],
            "usage": _USAGE,
        },
    )
    | ERRORS
    | BUSY,
}

EMBEDDINGS: dict[str, Any] = {
    "openapi_extra": _body(
        {
            "model": _MODEL,
            "input": _INPUT,
            "encoding_format": {"enum": ["float", "base64"], "default": "float", "description": "base64: little-endian float32."},
            "dimensions": {"type": "integer", "minimum": 1, "description": "Keep the first components, at unit length."},
            "user": {"type": "string"},
            "cache": _CACHE,
        },
        {"one text": {"model": "support-intents", "input": "my card has not arrived yet"}},
        strict=False,
    ),
    "responses": _answer(
        _EMBEDDED,
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.013, -0.094, 0.051]}],
            "model": "support-intents:1",
            "usage": _USAGE,
        },
    )
    | ERRORS
    | BUSY,
}


def example(value: Any, description: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {"application/json": {"example": value}}}}
