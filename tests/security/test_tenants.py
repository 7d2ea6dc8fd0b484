"""Every operation of the OpenAPI document, called by nobody, by a key without scopes for it, and by another project."""

import json
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.domain.db import transaction
from app.domain.repositories.registry import Registry
from tests.conftest import PROJECT
from tests.fixtures.api import Api, make_key, problem

OPEN = {"/healthz", "/readyz", "/metrics"}
VERBS = ("get", "post", "put", "patch", "delete")
UPLOAD = {"files": {"file": ("rows.jsonl", b'{"text": "a", "label": "b"}')}, "data": {"purpose": "distill"}}


def operations(api: Api) -> list[tuple[str, str, dict[str, Any]]]:
    paths = api.app.openapi()["paths"]
    return [(verb, path, item[verb]) for path, item in paths.items() for verb in VERBS if verb in item and path not in OPEN]


def call(client: TestClient, verb: str, path: str, operation: dict[str, Any], ids: dict[str, str]) -> httpx.Response:
    """With the example body of the document."""
    url = path
    for name, value in ids.items():
        url = url.replace("{" + name + "}", value).replace("{" + name + ":path}", value)
    assert "{" not in url, url
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        return client.request(verb, url, **UPLOAD)
    if "application/json" in content:
        example = next(iter(content["application/json"]["examples"].values()))["value"]
        return client.request(verb, url, json=example)
    return client.request(verb, url)


def somebodys(api: Api) -> dict[str, str]:
    """Ids of PROJECT's own objects, for every parameter that a path can have."""
    job = api.job()
    with transaction(api.sessions) as session:
        registry = Registry(session, PROJECT)
        registry.add_version(
            "secret",
            kind="checkpoint",
            task=None,
            digest="0" * 64,
            manifest={"files": {"config.json": {"bytes": 1, "sha256": "0" * 64}}},
            bytes=1,
            params=None,
            source_job_id=None,
            base_model=None,
            quality={},
            provenance={},
        )
        registry.set_alias("secret", "production", 1)
    imported = api.client.post("/v1/registry/imports", json={"name": "x", "source": "local", "model": "tiny"}).json()
    keys = api.client.get("/v1/api_keys").json()["data"]
    return {
        "file_id": api.rows(),
        "job_id": job["id"],
        "name": "secret",
        "number": "1",
        "alias": "production",
        "file": "config.json",
        "import_id": imported["id"],
        "key_id": keys[0]["id"],
    }


def test_nobody_gets_in_without_a_key(api: Api) -> None:
    ids = dict.fromkeys(("file_id", "job_id", "name", "alias", "file", "import_id", "key_id"), "x") | {"number": "1"}
    called = 0
    for verb, path, operation in operations(api):
        error = problem(call(api.anonymous, verb, path, operation, ids), 401, "missing_api_key")
        assert error["hint"]
        called += 1
    assert called > 35


def test_a_key_opens_only_what_its_scopes_say(api: Api) -> None:
    ids = dict.fromkeys(("file_id", "job_id", "name", "alias", "file", "import_id", "key_id"), "x") | {"number": "1"}
    inference_only = api.with_key("inference")
    for verb, path, operation in operations(api):
        problem(call(inference_only, verb, path, operation, ids), 403, "missing_scope")
    readers = api.with_key("files:read", "jobs:read", "models:read")
    for verb, path, operation in operations(api):
        answer = call(readers, verb, path, operation, ids)
        administration = operation["tags"] == ["administration"]
        if verb == "get" and not administration:
            assert answer.status_code in (200, 404), (verb, path, answer.text)
        else:
            problem(answer, 403, "missing_scope")


def test_another_projects_objects_do_not_exist(api: Api) -> None:
    """404, word for word as for an id that nobody has; and what a list shows is nothing of the other's."""
    ids = somebodys(api)
    before = {path: call(api.client, "get", path, {}, ids).json() for path in ("/v1/files/{file_id}", "/v1/registry/models/{name}")}
    unknown = {k: v[:-1] + ("0" if v[-1] != "0" else "1") for k, v in ids.items()} | {"number": "1", "name": "secreu"}
    probed = 0
    for verb, path, operation in operations(api):
        if "{" not in path:
            answer = call(api.other, verb, path, operation, ids)
            assert not any(ids[n] in answer.text for n in ("file_id", "job_id", "import_id", "key_id")), path
            continue
        foreign = call(api.other, verb, path, operation, ids)
        absent = call(api.other, verb, path, operation, unknown)
        assert foreign.status_code == absent.status_code == 404, (verb, path, foreign.text)
        shapes = []
        for answer, used in ((foreign, ids), (absent, unknown)):
            text = json.dumps(answer.json()["error"])
            for value in sorted(used.values(), key=len, reverse=True):
                text = text.replace(value, "…")
            shapes.append(text)
        assert shapes[0] == shapes[1], (verb, path)
        probed += 1
    assert probed > 25
    after = {path: call(api.client, "get", path, {}, ids).json() for path in before}
    assert after == before, "nothing of the owner's was changed"
    assert api.client.get(f"/v1/distillation/jobs/{ids['job_id']}").json()["status"] == "queued"


def test_a_job_cannot_name_another_projects_files_or_models(api: Api) -> None:
    ids = somebodys(api)
    spec = api.spec(ids["file_id"])
    error = problem(api.other.post("/v1/distillation/jobs", json=spec), 404, "file_not_found")
    assert error["param"] == "data.training_file"
    own = api.upload('{"text": "a b", "label": "x"}\n{"text": "c d", "label": "y"}', client=api.other).json()["id"]
    spec = api.spec(own, teacher={"source": "registry", "model": "secret", "finetune": {}})
    error = problem(api.other.post("/v1/distillation/jobs", json=spec), 404, "model_not_found")
    assert error["param"] == "teacher.model"


def test_an_idempotency_key_is_the_projects_own(api: Api) -> None:
    headers = {"Idempotency-Key": "same"}
    mine = api.client.post("/v1/registry/models", json={"name": "m"}, headers=headers)
    theirs = api.other.post("/v1/registry/models", json={"name": "m"}, headers=headers)
    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["id"] != theirs.json()["id"]


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic abc", "rt_x", "Bearer \x7f", ""])
def test_what_is_no_key_is_refused(api: Api, header: str) -> None:
    answer = api.anonymous.get("/v1/files", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_wrong_expired_and_revoked_keys(api: Api) -> None:
    wrong = make_key(api.sessions, api.settings, PROJECT)[:-1] + "_"
    problem(api.anonymous.get("/v1/files", headers={"Authorization": f"Bearer {wrong}"}), 401, "invalid_api_key")
    problem(api.with_key("admin", expires_at=1.0).get("/v1/files"), 401, "expired_api_key")
    made = api.client.post("/v1/api_keys", json={"name": "short-lived", "scopes": ["files:read"]}).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert api.anonymous.get("/v1/files", headers=bearer).status_code == 200
    assert api.client.delete(f"/v1/api_keys/{made['id']}").status_code == 200
    problem(api.anonymous.get("/v1/files", headers=bearer), 401, "invalid_api_key")
    listed = api.client.get("/v1/api_keys").text
    assert made["key"] not in listed
    assert made["id"] in listed


def test_a_key_made_by_another_cannot_do_more(api: Api) -> None:
    problem(api.with_key("jobs:write").post("/v1/api_keys", json={"name": "more", "scopes": ["admin"]}), 403, "missing_scope")
    error = problem(api.client.post("/v1/api_keys", json={"name": "x", "scopes": ["root"]}), 400, "invalid_parameter")
    assert error["param"] == "scopes[0]"
