"""Bodies that no client sends by accident: each gets a 400 with a reason, on both databases; never a 500."""

from collections.abc import Iterator

import pytest

from app.domain.db import Sessions
from app.settings import Settings
from tests.fixtures.api import Api, control_plane


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
def api(settings: Settings, sessions: Sessions) -> Iterator[Api]:
    with control_plane(settings, sessions) as made:
        yield made


PATHS = (
    "/v1/distillation/validate",
    "/v1/distillation/jobs",
    "/v1/distillation/jobs/djob_00000000000000000000000000/clone",
    "/v1/registry/models",
    "/v1/registry/imports",
    "/v1/api_keys",
    "/v1/projects",
)
BODIES = {
    "deep object": b'{"name":' + b'{"a":' * 1000 + b"1" + b"}" * 1001,
    "deep list": b'{"metadata":' + b"[" * 1000 + b"]" * 1000 + b"}",
    "deeper than any parser": b'{"a":' * 100_000,
    "a NUL": b'{"name":"a\\u0000b"}',
    "a NUL in a key": b'{"metadata":{"a\\u0000b":"v"}}',
    "half a surrogate": b'{"name":"\\ud800"}',
    "not UTF-8": b'{"name":"\xff"}',
    "NaN": b'{"seed":NaN}',
    "infinity": b'{"seed":1e999}',
    "a list": b"[]",
    "a word": b"hello",
    "many of nothing": b'{"metadata":[' + b"[]," * 200_000 + b"[]]}",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", [None, "same-key"])
def test_odd_bodies_are_refused(api: Api, path: str, key: str | None) -> None:
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    for name, content in BODIES.items():
        answer = api.client.post(path, content=content, headers=headers)
        said = answer.json()
        if path.endswith("/validate") and answer.status_code == 200:
            assert not said["valid"], name
            continue
        assert answer.status_code in (400, 404), (name, answer.text[:300])
        assert answer.headers["content-type"] == "application/problem+json"
        assert said["error"]["message"]
        assert len(answer.content) < 20_000
