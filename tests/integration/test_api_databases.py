"""What the API leaves to the database's locks, on SQLite and on PostgreSQL."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.domain.db import Sessions, reading
from app.domain.models import IdempotencyKey, Outbox
from app.domain.repositories.jobs import Jobs
from app.services import keys
from app.settings import Settings
from tests.conftest import PROJECT
from tests.fixtures.api import Api, control_plane, problem

URL = "/v1/distillation/jobs"


@pytest.fixture
def api(settings: Settings, sessions: Sessions) -> Iterator[Api]:
    with control_plane(settings, sessions) as made:
        yield made


def at_once(count: int, call: Any) -> list[Any]:
    ready = threading.Barrier(count)

    def go(n: int) -> Any:
        ready.wait()
        return call(n)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(go, range(count)))


def test_fifty_equal_requests_make_one_job(api: Api) -> None:
    spec, headers = api.spec(), {"Idempotency-Key": "the-same-key"}
    answers = at_once(50, lambda n: api.client.post(URL, json=spec, headers=headers))
    assert {a.status_code for a in answers} == {201}, {a.text for a in answers if a.status_code != 201}
    (job_id,) = {a.json()["id"] for a in answers}
    assert sum(a.headers.get("idempotent-replayed") == "true" for a in answers) == 49
    assert {a.headers["location"] for a in answers} == {f"{URL}/{job_id}"}
    with reading(api.sessions) as session:
        assert Jobs(session, PROJECT).count() == 1
        assert session.query(Outbox).count() == 1
        assert session.query(IdempotencyKey).count() == 1
    problem(api.client.post(URL, json={**spec, "seed": 99}, headers=headers), 422, "idempotency_key_reused")
    api.client.post(f"{URL}/{job_id}/cancel")
    api.client.delete(f"/v1/files/{spec['data']['training_file']}")
    again = api.client.post(URL, json=spec, headers=headers)
    assert (again.status_code, again.json()["id"]) == (201, job_id), "also when it would not be valid any more"


def test_a_refused_request_is_not_remembered(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    problem(api.client.post(URL, json=api.spec(sead=1), headers=headers), 400, "unknown_parameter")
    assert api.client.post(URL, json=api.spec(), headers=headers).status_code == 201


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_keys_that_are_none(api: Api, key: str) -> None:
    error = problem(api.client.post(URL, json=api.spec(), headers={"Idempotency-Key": key}), 400, "invalid_parameter")
    assert error["param"] == "Idempotency-Key"


def test_two_starts_at_once_make_one_project_and_one_key(settings: Settings, sessions: Sessions) -> None:
    given = settings.model_copy(update={"bootstrap_key": "rt_" + "k" * 40})
    at_once(6, lambda n: keys.ensure_bootstrap(sessions, given))
    identity = keys.authenticate(sessions, keys.load_pepper(given), given.bootstrap_key)
    assert identity.may("admin")


def test_parallel_uploads_lists_and_cancels(api: Api) -> None:
    jobs = [api.job()["id"] for _ in range(4)]
    found = at_once(12, lambda n: api.client.post(f"{URL}/{jobs[n % 4]}/cancel").status_code)
    assert set(found) == {200}
    files = at_once(8, lambda n: api.rows(start=n))
    assert len(set(files)) == 8
    listed = api.client.get("/v1/files", params={"limit": 100}).json()["data"]
    assert set(files) <= {f["id"] for f in listed}


def test_text_that_a_database_cannot_hold(api: Api) -> None:
    """NUL and lone surrogates: refused or replaced, the same on both databases; never a 500."""
    for body in (b'{"name": "a\\u0000b"}', b'{"name": "a\\ud800b"}'):
        assert api.client.post("/v1/projects", content=body).status_code in (201, 400)
    for name in ("a\0b", "a%00b"):
        assert api.client.get(URL, params={"name": name}).status_code == 200
        assert api.client.get(f"{URL}/%00").status_code == 404
        assert api.client.get("/v1/registry/models/%00").status_code == 404
        assert api.client.get("/v1/files/%00").status_code == 404
    answer = api.client.post(URL, json=api.spec(name="nul \0 inside"))
    assert problem(answer, 400, "invalid_parameter")["hint"]
    uploaded = api.upload('{"text": "nul \\u0000 inside", "label": "x\\u0000"}\n{"text": "b", "label": "y"}')
    assert uploaded.status_code == 201
    assert api.client.get(f"/v1/files/{uploaded.json()['id']}/validation").status_code == 200
