"""/openapi.json is what tests/contract/openapi.json says, and every operation shows an example."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from app.main import create_app
from app.settings import Settings

GOLDEN = Path(__file__).with_name("openapi.json")
VERBS = ("get", "post", "put", "patch", "delete")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("openapi")
    app = create_app(
        Settings(data_dir=folder, database_url=f"sqlite:///{folder / 'x.db'}", pepper="pepper-of-the-tests-0123456789")
    )
    return dict(json.loads(json.dumps(app.openapi())))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for verb in VERBS:
            if verb in item:
                yield verb, path, item[verb]


def test_it_is_the_golden_document(document: dict[str, Any]) -> None:
    assert document == json.loads(GOLDEN.read_text(encoding="utf-8")), "the contract changed; run: make openapi"


def test_every_operation_is_described_with_examples(document: dict[str, Any]) -> None:
    names = {tag["name"] for tag in document["tags"]}
    missing = []
    for verb, path, operation in operations(document):
        where = f"{verb.upper()} {path}"
        if not operation.get("summary") or not set(operation.get("tags", [])) & names:
            missing.append(f"{where}: summary or tag")
        good = {code: answer for code, answer in operation["responses"].items() if code.startswith("2")}
        if not good or not all("example" in c for a in good.values() for c in a["content"].values()):
            missing.append(f"{where}: example of the answer")
        if "422" in operation["responses"] and "HTTPValidationError" in json.dumps(operation["responses"]["422"]):
            missing.append(f"{where}: the framework's own 422")
        bodies = operation.get("requestBody", {}).get("content", {}).values()
        if not all(content.get("example") or content.get("examples") for content in bodies):
            missing.append(f"{where}: example of the body")
    assert missing == []


def test_every_operation_but_health_needs_a_key(document: dict[str, Any]) -> None:
    assert document["security"] == [{"bearer": []}]
    free = {path for _, path, operation in operations(document) if operation.get("security") == []}
    assert free == {"/healthz", "/readyz", "/metrics"}


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                found.append(value["$ref"])
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document)
    assert "#/components/schemas/JobSpec" in found
    for reference in found:
        assert reference.rpartition("/")[2] in document["components"]["schemas"], reference


def test_examples_of_bodies_are_valid(document: dict[str, Any]) -> None:
    checked = 0
    for verb, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        schema = {**content["schema"], "components": document["components"]}
        for example in content["examples"].values():
            jsonschema.validate(example["value"], schema)
            checked += 1
        assert checked, (verb, path)
    assert checked >= 8
