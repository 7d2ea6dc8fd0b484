"""The inference endpoint over real HTTP, with real students: what it answers and what it refuses."""

import base64
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import jsonschema
import numpy as np
import openai
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from app.api import problems
from app.domain.db import Sessions
from app.domain.storage import BlobStore
from app.serving.main import mount
from app.settings import Settings
from tests.conftest import OTHER_PROJECT, PROJECT
from tests.fixtures.inference import Endpoint, endpoint, key_for, publish
from tests.fixtures.students import LABELS, WORDS

TEXT = "my card has not arrived yet"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the database; test_serving_faults.py runs on both."""
    return sqlite_url


@pytest.fixture
def serve(settings: Settings, sessions: Sessions, blobs: BlobStore) -> Iterator[Endpoint]:
    publish(sessions, blobs, PROJECT, "support")
    with endpoint(settings, key_for(sessions, settings, PROJECT)) as made:
        yield made


@pytest.fixture
def client(serve: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{serve.url}/v1", api_key=serve.key, max_retries=0)


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
    error = answer.json()["error"]
    assert isinstance(error, dict)
    return error


def test_classify_answers_one_text_and_several(serve: Endpoint) -> None:
    answer = serve.classify("support", TEXT, top_k=2)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["object"], body["model"]) == ("list", "support:1")
    assert body["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    (entry,) = body["data"]
    assert entry["label"] in LABELS
    assert entry["scores"][0] == {"label": entry["label"], "score": entry["score"]}
    assert len(entry["scores"]) == 2

    many = serve.classify("support:1", [TEXT, "refund", TEXT], top_k=99).json()
    assert [e["index"] for e in many["data"]] == [0, 1, 2]
    assert many["data"][0]["scores"] == many["data"][2]["scores"]
    for e in many["data"]:
        scores = [s["score"] for s in e["scores"]]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert {s["label"] for s in e["scores"]} == set(LABELS)
    assert len(serve.classify("support", TEXT).json()["data"][0]["scores"]) == 3


def test_the_stock_openai_client_gets_the_same_vectors_in_both_encodings(client: openai.OpenAI) -> None:
    texts = [TEXT, "refund", "top up failed again"]
    default = client.embeddings.create(model="support", input=texts)  # asks for base64 by itself
    floats = client.embeddings.create(model="support", input=texts, encoding_format="float", extra_body={"cache": False})
    for a, b in zip(default.data, floats.data, strict=True):
        np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-6)
        assert np.linalg.norm(a.embedding) == pytest.approx(1, abs=1e-5)
    assert default.model == "support:1"
    assert default.usage.prompt_tokens == floats.usage.prompt_tokens > 10
    one = client.embeddings.create(model="support", input=TEXT)
    np.testing.assert_allclose(one.data[0].embedding, default.data[0].embedding, atol=1e-6)


def test_fewer_dimensions_are_the_first_ones_at_unit_length(client: openai.OpenAI) -> None:
    full = np.array(client.embeddings.create(model="support", input=TEXT).data[0].embedding)
    for encoding in ("float", "base64"):
        cut = client.embeddings.create(model="support", input=TEXT, dimensions=8, encoding_format=encoding)  # type: ignore[arg-type]
        vector = cut.data[0].embedding
        vector = np.frombuffer(base64.b64decode(vector), "<f4") if isinstance(vector, str) else np.array(vector)
        np.testing.assert_allclose(vector, full[:8] / np.linalg.norm(full[:8]), atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="32"):
        client.embeddings.create(model="support", input=TEXT, dimensions=33)


def test_the_openai_client_is_told_about_token_ids_and_unknown_models(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="token ids") as tokens:
        client.embeddings.create(model="support", input=[[1, 2, 3]])
    assert tokens.value.code == "invalid_parameter"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="gpt-4o", input="a")
    assert unknown.value.code == "model_not_found"


def test_unknown_fields_are_ignored_by_the_compatible_face_and_refused_by_the_native_one(serve: Endpoint) -> None:
    body = {"model": "support", "input": TEXT}
    answer = serve.client.post("/v1/embeddings", json={**body, "truncate": True, "a\r\nset-cookie: x": 1})
    assert answer.status_code == 200
    assert answer.headers["x-ignored-params"] == "?, truncate"
    assert "set-cookie" not in answer.headers
    refused = serve.client.post("/v1/classify", json={**body, "topk": 3})
    assert refused.status_code == 400
    assert problem(refused)["code"] == "unknown_parameter"
    assert problem(refused)["param"] == "topk"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("classify", {"input": "a"}, 400, "missing_parameter", "model"),
        ("classify", {"model": "support"}, 400, "missing_parameter", "input"),
        ("classify", {"model": 5, "input": "a"}, 400, "invalid_parameter", "model"),
        ("classify", {"model": "support", "input": []}, 400, "invalid_parameter", "input"),
        ("classify", {"model": "support", "input": ["a", ""]}, 400, "invalid_parameter", "input[1]"),
        ("classify", {"model": "support", "input": "a", "top_k": 0}, 400, "invalid_parameter", "top_k"),
        ("classify", {"model": "support", "input": "a", "top_k": True}, 400, "invalid_parameter", "top_k"),
        ("classify", {"model": "support", "input": "a", "top_k": 10**30}, 400, "invalid_parameter", "top_k"),
        ("classify", {"model": "support", "input": "a", "cache": "no"}, 400, "invalid_parameter", "cache"),
        ("classify", {"model": "support", "input": ["a"] * 100_000}, 400, "invalid_parameter", "input"),
        ("classify", {"model": "support", "input": "a" * 100_001}, 400, "context_length_exceeded", "input"),
        ("classify", {"model": "support", "input": "a" * 5_000_000}, 413, "file_too_large", None),
        ("classify", {"model": "org/name", "input": "a"}, 404, "model_not_found", "model"),
        ("classify", {"model": "support:7", "input": "a"}, 404, "model_not_found", None),
        ("classify", {"model": "support@nope", "input": "a"}, 404, "model_not_found", None),
        ("classify", [1], 400, "invalid_parameter", None),
        ("embeddings", {"model": "support", "input": "a", "encoding_format": "int8"}, 400, "invalid_parameter", "encoding_format"),
        ("embeddings", {"model": "support", "input": "a", "dimensions": -1}, 400, "invalid_parameter", "dimensions"),
        ("embeddings", {"model": "support", "input": {"text": "a"}}, 400, "invalid_parameter", "input"),
    ],
)
def test_bad_requests_name_the_field_and_never_become_500(
    serve: Endpoint, path: str, body: Any, status: int, code: str, param: str | None
) -> None:
    answer = serve.client.post(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert problem(answer)["code"] == code
    if param:
        assert problem(answer)["param"] == param
    assert serve.classify("support", TEXT).status_code == 200


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff\xfe", b'{"model": "support", "input": "\\ud800"}', b"[" * 100_000, b'{"input": NaN}', b"null"]
)
def test_bodies_that_are_not_json_objects_are_400(serve: Endpoint, raw: bytes) -> None:
    for path in ("classify", "embeddings"):
        answer = serve.client.post(f"/v1/{path}", content=raw)
        assert answer.status_code == 400, (raw[:20], answer.text)
        assert problem(answer)["code"] in ("invalid_json", "invalid_parameter")


def test_a_chunked_body_is_cut_off_at_the_limit(serve: Endpoint) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 65536

    assert serve.client.post("/v1/classify", content=endless()).status_code == 413


def test_no_key_a_wrong_key_and_a_key_without_the_scope_are_refused(
    serve: Endpoint, sessions: Sessions, settings: Settings
) -> None:
    body = {"model": "support", "input": "a"}
    bare = httpx.Client(base_url=serve.url)
    assert bare.post("/v1/classify", json=body).status_code == 401
    assert bare.post("/v1/classify", json=body, headers={"Authorization": "Bearer nonsense"}).status_code == 401
    weak = {"Authorization": f"Bearer {key_for(sessions, settings, PROJECT, ['jobs:read'])}"}
    assert bare.post("/v1/embeddings", json=body, headers=weak).status_code == 403
    callers = {"Authorization": f"Bearer {key_for(sessions, settings, PROJECT, ['inference'])}"}
    assert bare.post("/v1/classify", json=body, headers=callers).status_code == 200
    assert bare.post("/v1/models/support/unload", headers=callers).status_code == 403


def test_another_projects_model_does_not_exist_and_its_cache_is_its_own(
    serve: Endpoint, sessions: Sessions, settings: Settings, blobs: BlobStore
) -> None:
    assert serve.classify("support", TEXT).headers["x-cache-hits"] == "0"
    assert serve.classify("support", TEXT).headers["x-cache-hits"] == "1"
    other = httpx.Client(base_url=serve.url, headers={"Authorization": f"Bearer {key_for(sessions, settings, OTHER_PROJECT)}"})
    answer = other.post("/v1/classify", json={"model": "support", "input": TEXT})
    assert answer.status_code == 404
    assert problem(answer)["code"] == "model_not_found"
    publish(sessions, blobs, OTHER_PROJECT, "support")  # the same artifact, byte for byte
    answer = other.post("/v1/classify", json={"model": "support", "input": TEXT})
    assert answer.status_code == 200
    assert answer.headers["x-cache-hits"] == "0"
    assert len(serve.plane.pool.all()) == 1


def test_cache_false_computes_and_long_texts_are_counted_as_truncated(serve: Endpoint) -> None:
    serve.classify("support", TEXT)
    assert serve.classify("support", TEXT, cache=False).headers["x-cache-hits"] == "0"
    long = " ".join(WORDS * 3)
    for _ in range(2):
        answer = serve.classify("support", [long, TEXT])
        assert answer.headers["x-truncated-inputs"] == "1"
        assert answer.json()["usage"]["prompt_tokens"] == 64 + 8


def test_models_are_listed_shown_loaded_warmed_and_unloaded(
    serve: Endpoint, client: openai.OpenAI, sessions: Sessions, blobs: BlobStore
) -> None:
    publish(sessions, blobs, PROJECT, "minilm", kind="checkpoint", seed=5)
    assert [m.id for m in client.models.list()] == ["support"]
    assert client.models.retrieve("support").id == "support:1"
    shown = serve.client.get("/v1/models/support:1").json()
    assert (shown["status"], shown["servable"]) == ("unloaded", True)
    loaded = serve.client.post("/v1/models/support/load").json()
    assert loaded["status"] == "ready"
    assert loaded["labels"] == list(LABELS)
    assert loaded["batch"]["max_rows"] >= 1
    assert serve.client.post("/v1/models/support/warm").json()["warm_seconds"] > 0
    assert serve.client.post("/v1/models/support/unload").json()["status"] == "unloaded"
    assert serve.plane.pool.all() == []
    assert serve.client.get("/v1/models/minilm").json()["servable"] is False
    assert serve.client.get("/v1/models/nope").status_code == 404


def test_a_checkpoint_is_refused_with_a_hint(serve: Endpoint, sessions: Sessions, blobs: BlobStore) -> None:
    publish(sessions, blobs, PROJECT, "minilm", kind="checkpoint", seed=5)
    answer = serve.classify("minilm", "a")
    assert answer.status_code == 400
    assert problem(answer)["code"] == "unsupported_method"
    assert "/v1/distillation/jobs" in problem(answer)["hint"]
    assert '{"source": "registry", "model": "minilm:1"}' in problem(answer)["hint"]


def test_a_model_without_labels_or_without_vectors_says_which_endpoint_it_has(
    serve: Endpoint, sessions: Sessions, blobs: BlobStore
) -> None:
    publish(sessions, blobs, PROJECT, "classifier", embedding=False, seed=6)
    answer = serve.client.post("/v1/embeddings", json={"model": "classifier", "input": "a"})
    assert answer.status_code == 400
    assert "/v1/classify" in problem(answer)["hint"]
    assert serve.classify("classifier", "a").status_code == 200


def test_a_corrupt_artifact_is_refused_and_others_are_served(serve: Endpoint, sessions: Sessions, blobs: BlobStore) -> None:
    publish(sessions, blobs, PROJECT, "broken", seed=9)
    shown = serve.client.get("/v1/models/broken").json()
    path = blobs.artifact(shown["digest"].removeprefix("sha256:")) / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100] + b"x" * 100)
    answer = serve.classify("broken", "a")
    assert answer.status_code == 500
    assert problem(answer)["code"] == "artifact_corrupt"
    assert str(blobs.root) not in answer.text
    assert serve.classify("support", TEXT).status_code == 200
    assert serve.client.get("/readyz").status_code == 200


def test_health_runs_a_real_forward_and_metrics_tell_what_happened(serve: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = httpx.Client(base_url=serve.url)
    assert bare.get("/healthz").json() == {"status": "ok"}
    assert bare.get("/readyz").status_code == 200
    serve.classify("support", [TEXT, "refund"])
    serve.classify("support", [TEXT, "refund"])
    assert bare.get("/readyz").status_code == 200
    text = bare.get("/metrics").text
    for name in ("queue_rows", "batch_rows_bucket", "token_budget", "cache_total", "saved_seconds_total", "request_seconds_bucket"):
        assert f"retort_serving_{name}" in text
    assert 'retort_serving_requests_total{operation="classify",status="200"}' in text

    def broken(rows: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(serve.backend(), "forward", broken)
    serve.plane._probed.clear()
    answer = bare.get("/readyz")
    assert answer.status_code == 503
    assert "the device is gone" in answer.json()["checks"]["models"]


def test_every_operation_is_documented_with_an_example_that_works(serve: Endpoint, sessions: Sessions, blobs: BlobStore) -> None:
    publish(sessions, blobs, PROJECT, "support-intents", alias="production")
    publish(sessions, blobs, PROJECT, "duplicates", problem="multi_label", pairs=True)
    publish(sessions, blobs, PROJECT, "places", problem="tokens", labels=("O", "B-LOC", "I-LOC"))
    publish(sessions, blobs, PROJECT, "answers", problem="ranking", pairs=True, scorer="cross_encoder")
    paths = httpx.get(f"{serve.url}/openapi.json").json()["paths"]
    for path in ("/v1/classify", "/v1/embeddings", "/v1/rerank"):
        operation = paths[path]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        described = operation["responses"]["200"]["content"]["application/json"]
        jsonschema.validate(described["example"], described["schema"])
        for shown in content["examples"].values():
            jsonschema.validate(shown["value"], content["schema"])
            answer = serve.client.post(path, json=shown["value"])
            assert answer.status_code == 200, answer.text
            jsonschema.validate(answer.json(), described["schema"])
            for name in content["schema"]["required"]:
                without = {key: value for key, value in shown["value"].items() if key != name}
                refused = serve.client.post(path, json=without)
                assert (refused.status_code, problem(refused)["param"]) == (400, name)
    for path, operations in paths.items():
        if path.startswith("/v1/"):
            for operation in operations.values():
                assert "example" in operation["responses"]["200"]["content"]["application/json"], path


def test_beside_a_control_plane_it_shares_health_and_metrics(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    publish(sessions, blobs, PROJECT, "support")
    app = FastAPI()
    app.state.settings, app.state.sessions, app.state.blobs = settings, sessions, blobs
    problems.install(app)
    control = APIRouter()
    control.get("/readyz")(lambda: {"status": "ready", "checks": {}})
    app.include_router(control)
    plane = mount(app, settings)

    @contextlib.asynccontextmanager
    async def lifespan(target: FastAPI) -> AsyncIterator[None]:
        async with plane:
            yield

    app.router.lifespan_context = lifespan
    headers = {"Authorization": f"Bearer {key_for(sessions, settings, PROJECT)}"}
    with TestClient(app) as client:
        assert client.get("/readyz").json() == {"status": "ready", "checks": dict.fromkeys(("database", "storage", "models"), "ok")}
        answer = client.post("/v1/classify", json={"model": "support", "input": TEXT}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/models", headers=headers).json()["data"][0]["id"] == "support"
