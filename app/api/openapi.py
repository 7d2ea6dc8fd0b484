"""/openapi.json, and `python -m app.api.openapi`, which writes the copy that the contract test compares with."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api import auth, bodies

DESCRIPTION = (
    "Distillation as a service. Upload rows, post a job, follow it, call the student.\n\n"
    "Errors are `application/problem+json`; their `error.code` is stable, their `hint` says what to do next. "
    "Lists take `limit`, `after`, `before` and `order`. POSTs that create take an `Idempotency-Key`."
)
TAGS = [
    {"name": "files", "description": "Data files and their validation reports."},
    {"name": "distillation", "description": "Jobs: validate, create, follow, stop; what they made."},
    {"name": "registry", "description": "Models, versions, aliases, imports."},
    {"name": "inference", "description": "Answers of distilled students."},
    {"name": "administration", "description": "Keys, projects, the installation."},
    {"name": "operations", "description": "Health and metrics; no key."},
]
_OPEN = {"/healthz", "/readyz", "/metrics"}


def install(app: FastAPI) -> None:
    """Made when first asked for: the data plane may add its routes until then."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name, model in bodies.MODELS.items():
        schema = model.model_json_schema(ref_template=bodies.REF)
        schemas |= schema.pop("$defs", {})
        schemas[name] = schema
    components["securitySchemes"] = {"bearer": auth.scheme()}
    document["security"] = [{"bearer": []}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _tidy(path, operation)
    for name in ("HTTPValidationError", "ValidationError"):  # ours are problems, and 400
        schemas.pop(name, None)
    return document


def _tidy(path: str, operation: dict[str, Any]) -> None:
    if path in _OPEN:
        operation["security"] = []
    said = operation.get("responses", {})
    if "HTTPValidationError" in json.dumps(said.get("422", {})):
        del said["422"]
    for answer in said.values():  # an example says more than the empty schema of a dict
        content = answer.get("content", {}).get("application/json", {})
        if "example" in content and content.get("schema", {}).get("type") == "object" and "properties" not in content["schema"]:
            del content["schema"]


def main() -> None:
    from app.main import create_app
    from app.settings import Settings

    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "tests" / "contract" / "openapi.json"
    with tempfile.TemporaryDirectory() as folder:
        document = create_app(Settings(data_dir=Path(folder), database_url="sqlite://", blob_url="")).openapi()
    target.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
