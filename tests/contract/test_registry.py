"""/v1/registry over HTTP."""

import hashlib
from typing import Any

import pytest

from app.domain.db import transaction
from app.domain.importing import register_checkpoint, store_checkpoint
from app.domain.storage import BlobStore
from tests.conftest import PROJECT
from tests.fixtures.api import Api, problem

MODELS = "/v1/registry/models"


def register(api: Api, name: str = "minilm") -> int:
    assert api.settings.models_dir is not None
    stored = store_checkpoint(api.settings.models_dir / "tiny", BlobStore(api.settings.blob_root))
    with transaction(api.sessions) as session:
        return register_checkpoint(session, PROJECT, name, stored, base_model="tiny", provenance={"source": "test"}).version


def test_models_versions_and_aliases(api: Api) -> None:
    assert [register(api), register(api)] == [1, 2]
    get, put, delete = api.client.get, api.client.put, api.client.delete
    model = get(f"{MODELS}/minilm").json()
    assert (model["name"], model["aliases"]) == ("minilm", {})
    assert [m["name"] for m in get(MODELS).json()["data"]] == ["minilm"]
    described = api.client.patch(f"{MODELS}/minilm", json={"description": "six layers"}).json()
    assert described["description"] == "six layers"
    versions = get(f"{MODELS}/minilm/versions", params={"limit": 1}).json()
    assert ([v["version"] for v in versions["data"]], versions["has_more"]) == ([2], True)
    rest = get(f"{MODELS}/minilm/versions", params={"after": versions["last_id"]}).json()
    assert [v["version"] for v in rest["data"]] == [1]
    assert put(f"{MODELS}/minilm/aliases/production", json={"version": 1}).json()["version"] == 1
    assert put(f"{MODELS}/minilm/aliases/production", json={"version": 2}).json()["version"] == 2
    version = get(f"{MODELS}/minilm/versions/2").json()
    assert (version["aliases"], version["kind"], version["ref"]) == (["production"], "checkpoint", "minilm:2")
    assert get(f"{MODELS}/minilm").json()["aliases"] == {"production": 2}
    problem(delete(f"{MODELS}/minilm/versions/2"), 409, "in_use")
    problem(delete(f"{MODELS}/minilm"), 409, "in_use")
    assert delete(f"{MODELS}/minilm/versions/1").json()["deleted"] is True
    assert delete(f"{MODELS}/minilm/aliases/production").json()["deleted"] is True
    problem(delete(f"{MODELS}/minilm/aliases/production"), 404, "alias_not_found")
    assert delete(f"{MODELS}/minilm").json()["deleted"] is True
    problem(get(f"{MODELS}/minilm"), 404, "model_not_found")


def test_files_of_a_version(api: Api) -> None:
    register(api)
    url = f"{MODELS}/minilm/versions/1/artifacts"
    files = api.client.get(url).json()["data"]
    assert {"config.json", "model.safetensors", "retort.json"} <= {f["name"] for f in files}
    for file in files:
        answer = api.client.get(file["url"])
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
        assert answer.headers["etag"] == f'"{file["sha256"]}"'
        assert api.client.get(file["url"], headers={"Range": "bytes=1-3"}).content == answer.content[1:4]


@pytest.mark.parametrize("name", ["../config.json", "..%2f..%2fretort.db", "nope", "config.json/", "MANIFEST.json", "%00"])
def test_only_files_of_the_version_are_served(api: Api, name: str) -> None:
    register(api)
    assert api.client.get(f"{MODELS}/minilm/versions/1/artifacts/{name}").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("post", "/models", {"name": "Not a name"}, 400, "name"),
        ("post", "/models", {"nmae": "x"}, 400, None),
        ("put", "/models/minilm/aliases/Bad Alias", {"version": 1}, 400, "alias"),
        ("put", "/models/minilm/aliases/x", {"version": 0}, 400, "version"),
        ("put", "/models/minilm/aliases/x", {"version": "one"}, 400, "version"),
        ("put", "/models/minilm/aliases/x", {"version": 9}, 404, None),
        ("get", "/models/minilm/versions/0", None, 400, "number"),
        ("get", "/models/minilm/versions/99999999999999999999", None, 400, "number"),
        ("get", "/models/minilm/versions/9", None, 404, None),
        ("post", "/imports", {"name": "x", "source": "ftp", "model": "y"}, 400, "source"),
        ("post", "/imports", {"name": "x", "source": "local", "model": "../y"}, 400, "model"),
        ("post", "/imports", {"name": "x", "source": "local", "model": "y", "revision": "main"}, 400, "revision"),
        ("post", "/imports", {"name": "X X", "source": "local", "model": "y"}, 400, "name"),
        ("get", "/imports/imp_x", None, 404, None),
    ],
)
def test_what_is_refused(api: Api, method: str, path: str, body: Any, status: int, param: str | None) -> None:
    register(api)
    answer = api.client.request(method, f"/v1/registry{path}", json=body)
    assert answer.status_code == status, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param


def test_an_import_waits_for_a_worker(api: Api) -> None:
    made = api.client.post("/v1/registry/imports", json={"name": "mini", "source": "local", "model": "tiny"})
    assert made.status_code == 201
    body = made.json()
    assert (body["status"], body["result"], body["error"]) == ("pending", None, None)
    assert api.client.get(made.headers["location"]).json() == body
    assert api.client.get("/v1/registry/imports").json()["data"] == [body]


def test_a_model_made_twice(api: Api) -> None:
    assert api.client.post(MODELS, json={"name": "m", "description": "d"}).status_code == 201
    answer = api.client.post(MODELS, json={"name": "m"})
    problem(answer, 409, "already_exists")
    assert answer.headers["x-should-retry"] == "false"
    assert api.client.get("/v1/registry/models/m/versions").json()["data"] == []
