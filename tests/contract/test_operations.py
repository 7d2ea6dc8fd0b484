"""Health, metrics, limits, administration: what an operator uses."""

from app.api.limits import Limiter
from app.domain.db import make_engine, make_sessions
from tests.conftest import OTHER_PROJECT
from tests.fixtures.api import Api, problem


def test_health_needs_no_key_and_tells_the_truth(api: Api) -> None:
    assert api.anonymous.get("/healthz").json() == {"status": "ok"}
    ready = api.anonymous.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "checks": {"database": "ok", "storage": "ok"}})
    api.app.state.sessions = make_sessions(make_engine("sqlite:////nowhere/at/all.db"))
    broken = api.anonymous.get("/readyz")
    assert (broken.status_code, broken.json()["checks"]["storage"]) == (503, "ok")
    assert broken.json()["checks"]["database"] == "OperationalError"
    assert api.anonymous.get("/healthz").status_code == 200
    assert api.anonymous.get("/metrics").status_code == 200, "its own counters are worth having"


def test_metrics_know_the_queue(api: Api) -> None:
    api.job()
    api.client.post(f"/v1/distillation/jobs/{api.job()['id']}/cancel")
    text = api.anonymous.get("/metrics").text
    assert 'retort_jobs{status="queued"} 1.0' in text
    assert 'retort_jobs{status="cancelled"} 1.0' in text
    assert "retort_workers 0.0" in text
    queue = api.client.get("/v1/system/queue").json()
    assert queue["jobs"] == {"queued": 1, "cancelled": 1}
    assert queue["oldest_wait_seconds"] >= 0
    assert api.client.get("/v1/system/workers").json()["data"] == []
    info = api.client.get("/v1/system/info").json()
    assert info["limits"]["max_queued_jobs"] == api.settings.max_queued_jobs
    assert api.settings.pepper not in str(info)


def test_too_many_requests(api: Api) -> None:
    api.app.state.limiter = Limiter(3)
    answers = [api.client.get("/v1/files") for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert [a.headers["x-ratelimit-remaining-requests"] for a in answers] == ["2", "1", "0", "0"]
    problem(answers[3], 429, "rate_limit_exceeded")
    assert int(answers[3].headers["retry-after"]) >= 1
    assert api.other.get("/v1/files").status_code == 200, "a limit is the key's own"


def test_keys_and_projects(api: Api) -> None:
    made = api.client.post("/v1/api_keys", json={"name": "ci", "scopes": ["jobs:read", "files:*"]})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    key = made.json()
    assert key["key"].startswith(key["prefix"])
    assert key["scopes"] == ["files:*", "jobs:read"]
    listed = api.client.get("/v1/api_keys").json()["data"]
    assert listed[0] == {k: v for k, v in key.items() if k != "key"}
    project = api.client.post("/v1/projects", json={"name": "search"}).json()
    assert project["id"] in {p["id"] for p in api.client.get("/v1/projects").json()["data"]}
    problem(api.client.post("/v1/projects", json={"name": "search"}), 409, "already_exists")
    theirs = api.client.post("/v1/api_keys", json={"name": "first", "project_id": project["id"]}).json()
    assert theirs["project_id"] == project["id"]
    missing = {"name": "x", "project_id": "proj_" + "0" * 26}
    problem(api.client.post("/v1/api_keys", json=missing), 404, "project_not_found")
    assert problem(api.client.post("/v1/api_keys", json={"name": "x", "expires_at": 5}), 400, "invalid_parameter")["param"] == (
        "expires_at"
    )
    assert OTHER_PROJECT in {p["id"] for p in api.client.get("/v1/projects").json()["data"]}


def test_the_catalogue_is_complete(api: Api) -> None:
    body = api.client.get("/v1/catalog").json()
    assert {"response", "hard_label"} <= set(body["objectives"])
    assert {"teacher_layers", "pretrained"} <= set(body["students"])
    assert "int8_dynamic" in body["quantizers"]
    assert "properties" in body["job"]
