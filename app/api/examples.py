"""What /openapi.json shows of requests and answers: one example for every operation."""

from typing import Any

_T = 1790000000
FILE_ID, JOB_ID, KEY_ID = "file-01K5V7Q2M3N4P5R6S7T8V9W0XA", "djob_01K5V7R0A1B2C3D4E5F6G7H8JB", "key_01K5V7S1B2C3D4E5F6G7H8J9KC"
DIGEST = "9f2c41d07be8a6f35c9d0e1b2a3f4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d"
Responses = dict[int | str, dict[str, Any]]


def answers(value: Any, description: str, status: int = 200, *problems: int, media: str = "application/json") -> Responses:
    """The good answer, and the problems that this operation can give."""
    good: Responses = {status: {"description": description, "content": {media: {"example": value}}}}
    return good | {code: _PROBLEMS[code] for code in (401, 403, *problems)}


def listing(*data: dict[str, Any], key: str = "id") -> dict[str, Any]:
    return {"object": "list", "data": [*data], "first_id": data[0][key], "last_id": data[-1][key], "has_more": False}


def _problem(status: int, code: str, type_: str, title: str, message: str, **more: Any) -> dict[str, Any]:
    error = {"message": message, "type": type_, "param": None, "code": code, "hint": None, "details": [], **more}
    body = {"type": f"/docs/errors#{code}", "title": title, "status": status, "detail": message, "instance": "/v1/…"}
    body |= {"request_id": "req_01K5V7T2C3D4E5F6G7H8J9KAMD", "error": error}
    return {"description": title, "content": {"application/problem+json": {"example": body}}}


_INVALID = "invalid_request_error"
_PROBLEMS: dict[int, dict[str, Any]] = {
    400: _problem(
        400,
        "unknown_parameter",
        _INVALID,
        "A parameter is not known",
        "'student.layer' is not a known parameter.",
        param="student.layer",
        hint="Did you mean 'layers'?",
    ),
    401: _problem(401, "missing_api_key", "authentication_error", "An API key is needed", "Send 'Authorization: Bearer rt_…'."),
    403: _problem(403, "missing_scope", "permission_error", "The API key lacks a scope", "This needs the scope 'jobs:write'."),
    404: _problem(404, "job_not_found", "not_found_error", "Not found", f"No job '{JOB_ID}' in this project."),
    409: _problem(
        409,
        "invalid_state_transition",
        "conflict_error",
        "Not possible in this state",
        f"Job '{JOB_ID}' is succeeded; it cannot become cancelled.",
    ),
    413: _problem(413, "file_too_large", _INVALID, "The body is too large", "A file may have 8,589,934,592 bytes."),
    415: _problem(415, "unsupported_media_type", _INVALID, "Media type not supported", "The file is gzip data."),
    416: _problem(416, "range_not_satisfiable", _INVALID, "Range not satisfiable", "The file has 1024 bytes."),
    422: _problem(
        422, "idempotency_key_reused", _INVALID, "Idempotency key used with another body", "This Idempotency-Key was used before."
    ),
    429: _problem(429, "quota_exceeded", "insufficient_quota", "Quota exceeded", "The project has 1000 jobs in the queue."),
}

FILE = {
    "id": FILE_ID,
    "object": "file",
    "filename": "train.jsonl",
    "bytes": 148213,
    "purpose": "distill",
    "status": "processed",
    "status_details": None,
    "format": "jsonl",
    "sha256": DIGEST,
    "created_at": _T,
}
REPORT = {
    "file_id": FILE_ID,
    "status": "invalid",
    "format": "jsonl",
    "rows": 1000,
    "valid_rows": 999,
    "invalid_rows": 1,
    "malformed_rows": 1,
    "duplicate_rows": 0,
    "duplicates_checked": 999,
    "characters": {"p50": 41, "p95": 97, "max": 214},
    "columns": {
        "label": {
            "types": {"string": 998},
            "missing": 1,
            "empty": 0,
            "sorts": {"text": {"rows": 998, "lines": [1, 2, 3]}, "missing": {"rows": 1, "lines": [40]}},
            "characters": {"mean": 11.2, "max": 14},
            "numbers": None,
            "distinct": 2,
            "values": {"card_arrival": 600, "lost_card": 398},
            "items": None,
            "distinct_elements": 0,
            "elements": None,
        },
    },
    "unequal_lists": [],
    "errors": [
        {
            "line": 17,
            "column": 9,
            "code": "invalid_json",
            "message": "Not valid JSON: unexpected character.",
            "excerpt": '{"text": }',
        }
    ],
    "errors_truncated": False,
    "digest": f"sha256:{DIGEST}",
}
SPEC: dict[str, Any] = {
    "name": "support-intents",
    "task": "text-classification",
    "teacher": {"source": "registry", "model": "minilm", "finetune": {"epochs": 6, "learning_rate": 0.0001}},
    "student": {"init": "teacher_layers", "layers": 2, "hidden_size": 192, "intermediate_size": 768},
    "data": {"training_file": FILE_ID, "max_length": 64},
    "recipe": "response",
    "quantization": {"scheme": "int8_dynamic"},
    "output": {"model_name": "support-intents", "alias": "production"},
}
_OTHER: dict[str, Any] = {"student": {"init": "teacher_layers", "layers": 2}, "quantization": {"scheme": "int8_dynamic"}}
SPECS: list[dict[str, Any]] = [  # one for each task
    SPEC,
    {
        **_OTHER,
        "name": "names-in-mails",
        "task": "token-classification",
        "teacher": {"source": "local", "model": "bert-ner"},
        "data": {"training_file": FILE_ID, "text": "words", "label": "tags"},
        "recipe": {"type": "tinybert", "epochs": 6},
    },
    {
        **_OTHER,
        "name": "sentence-vectors",
        "task": "embedding",
        "teacher": {"source": "registry", "model": "minilm:1"},
        "data": {"training_file": FILE_ID, "test_file": FILE_ID, "text_b": "second", "label": "score"},
    },
    {
        **_OTHER,
        "name": "answers-first",
        "task": "ranking",
        "teacher": {"source": "local", "model": "cross-encoder"},
        "ranking": {"teacher": "cross_encoder", "student": "bi_encoder"},
        "data": {"training_file": FILE_ID, "text": "query", "label": "relevance"},
        "stages": [{"name": "order", "objectives": [{"type": "listnet"}], "epochs": 4, "learning_rate": 0.0003}],
        "target": {"min_retention": 0.95, "min_speedup": 10},
    },
    {
        **_OTHER,
        "name": "smaller-bert",
        "task": "masked-lm",
        "teacher": {"source": "hub", "model": "google-bert/bert-base-uncased"},
        "student": {"init": "teacher_layers", "layers": 6},
        "data": {"training_file": FILE_ID},
        "recipe": "distilbert",
    },
]
STAGES: list[dict[str, Any]] = [
    {"name": "features", "objectives": [{"type": "hidden_mse", "layers": "uniform"}], "epochs": 4, "learning_rate": 0.0005},
    {"name": "output", "objectives": [{"type": "response", "temperature": 4}], "epochs": 8, "learning_rate": 0.0003},
]
ALIGNMENT: list[dict[str, Any]] = [  # of these stages
    {
        "stage": "features",
        "objective": "hidden_mse",
        "layers": [[1, 3], [2, 6]],
        "projections": {"layer_1_3": [192, 384], "layer_2_6": [192, 384]},
    }
]
RESOLVED: dict[str, Any] = {**SPEC, "recipe": None, "stages": STAGES}
ESTIMATE = {
    "steps": 152,
    "duration_seconds": {"low": 20.0, "expected": 60.0, "high": 240.0},
    "device_memory_bytes": 612000000,
    "disk_bytes": 310000000,
    "teacher_tokens": 88000,
    "cost": None,
    "fits": True,
    "basis": "heuristic",
    "assumptions": ["one CPU core gives 10 GFLOP/s"],
}
_MEASURED = {"quality": 0.93, "throughput": 218.0, "bytes": 91000000, "latency_ms": {"p50": 4.4, "p99": 6.1}}
JOB: dict[str, Any] = {
    "id": JOB_ID,
    "object": "distillation.job",
    "name": "support-intents",
    "status": "succeeded",
    "is_terminal": True,
    "status_reason": None,
    "phase": "packaging",
    "phases": [{"name": "preparing", "status": "completed", "percent": 100.0, "started_at": _T, "finished_at": _T + 2}],
    "queue": None,
    "progress": {"percent": 100.0, "step": 152, "total_steps": 152, "eta_seconds": 0.0},
    "attempt": 1,
    "error": None,
    "warnings": [],
    "estimate": ESTIMATE,
    "result": {
        "model": "support-intents:1",
        "alias": "production",
        "report": {
            "metric": "accuracy",
            "teacher": _MEASURED,
            "student": {**_MEASURED, "quality": 0.92, "throughput": 2300.0, "bytes": 22000000},
            "retention": 0.988,
            "speedup": 10.4,
            "size_ratio": 0.05,
        },
    },
    "metadata": {},
    "created_at": _T,
    "links": {"self": f"/v1/distillation/jobs/{JOB_ID}", "events": f"/v1/distillation/jobs/{JOB_ID}/events"},
}
QUEUED = {
    **JOB,
    "status": "queued",
    "is_terminal": False,
    "result": None,
    "queue": {"position": 1, "jobs_ahead": 0, "waiting_for": "worker"},
}
EVENT = {
    "id": "evt_01K5V7T9D4E5F6G7H8J9KAMBNE",
    "object": "distillation.job.event",
    "seq": 7,
    "attempt": 1,
    "type": "phase",
    "level": "info",
    "message": "training",
    "data": {"name": "training", "status": "in_progress"},
    "created_at": _T,
}
METRIC = {"stage": "output", "step": 100, "values": {"train_loss": 0.31, "learning_rate": 0.0004}}
ARTIFACT = {
    "object": "distillation.job.artifact",
    "name": "report.json",
    "kind": "report",
    "bytes": 4312,
    "sha256": DIGEST,
    "created_at": _T,
}
VERSION = {
    "id": "mv_01K5V7V3E5F6G7H8J9KAMBNCPF",
    "object": "registry.model.version",
    "model": "support-intents",
    "version": 1,
    "ref": "support-intents:1",
    "kind": "student",
    "task": "text-classification",
    "digest": DIGEST,
    "bytes": 22000000,
    "params": 5100000,
    "aliases": ["production"],
    "source_job_id": JOB_ID,
    "base_model": "minilm:1",
    "quality": {"metric": "accuracy", "student": 0.92},
    "provenance": {"config_hash": f"sha256:{DIGEST}"},
    "created_at": _T,
}
MODEL = {
    "id": "mdl_01K5V7W4F6G7H8J9KAMBNCPDQG",
    "object": "registry.model",
    "name": "support-intents",
    "description": "Intents of support messages.",
    "latest_version": 1,
    "aliases": {"production": 1},
    "created_at": _T,
    "updated_at": _T,
}
ALIAS = {"object": "registry.alias", "model": "support-intents", "alias": "production", "version": 1, "updated_at": _T}
IMPORT = {
    "id": "imp_01K5V7X5G7H8J9KAMBNCPDQERH",
    "object": "registry.import",
    "name": "minilm",
    "source": "local",
    "model": "minilm",
    "revision": None,
    "status": "pending",
    "error": None,
    "result": None,
    "created_at": _T,
    "finished_at": None,
}
PROJECT = {"id": "proj_01K5V7Y6H8J9KAMBNCPDQERFSJ", "object": "project", "name": "default", "created_at": _T}
KEY = {
    "id": KEY_ID,
    "object": "api_key",
    "name": "ci",
    "prefix": "rt_4fQ9sB2",
    "project_id": PROJECT["id"],
    "scopes": ["files:write", "jobs:write", "inference"],
    "created_at": _T,
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": None,
}
WORKER = {
    "id": "wrk_w0@host",
    "object": "worker",
    "hostname": "host",
    "device": "cpu",
    "slots": 1,
    "busy": 0,
    "stopping": False,
    "started_at": _T,
    "seen_at": _T,
}
