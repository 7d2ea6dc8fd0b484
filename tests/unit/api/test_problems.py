"""Errors as answers: every class of the catalogue, what the framework raises, what nobody expected."""

import json
import logging
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import problems
from app.domain import errors
from app.domain.errors import Conflict, DomainError, InvalidRequest, NotFound, RateLimited


def classes(base: type[DomainError] = DomainError) -> Iterator[type[DomainError]]:
    for child in base.__subclasses__():
        yield child
        yield from classes(child)


OURS = sorted({c for c in classes() if c.__module__ == errors.__name__ and c is not NotFound}, key=lambda c: c.__name__)


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    problems.install(app)

    @app.get("/raise/{name}")
    def throw(name: str) -> None:
        raise getattr(errors, name)("What was wrong.", param="p", hint="What to do.", details=[{"line": 1}], retry_after=2)

    @app.get("/bug")
    def bug() -> None:
        raise ZeroDivisionError("secret of the server")

    @app.get("/surrogate")
    def surrogate() -> None:
        raise InvalidRequest("'\ud800' is no name.")

    @app.get("/typed")
    def typed(limit: int) -> int:
        return limit

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize("error", OURS, ids=lambda c: c.__name__)
def test_every_error_of_the_catalogue_is_a_problem(client: TestClient, error: type[DomainError]) -> None:
    answer = client.get(f"/raise/{error.__name__}")
    assert answer.status_code == error.status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "2"
    body = answer.json()
    assert (body["status"], body["title"], body["instance"]) == (error.status, error.title, f"/raise/{error.__name__}")
    assert body["error"] == {
        "message": "What was wrong.",
        "type": error.type,
        "param": "p",
        "code": error.code,
        "hint": "What to do.",
        "details": [{"line": 1}],
    }
    should_retry = answer.headers.get("x-should-retry")
    if issubclass(error, Conflict):
        assert should_retry == ("true" if error.retryable else "false")
    assert (should_retry is None) == (not issubclass(error, Conflict | errors.QuotaExceeded))


def test_what_nobody_expected_is_a_500_that_tells_nothing(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = client.get("/bug")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert "ZeroDivision" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-request-id"] in caplog.text, "the id leads to the log line"
    assert "secret of the server" in caplog.text


def test_what_the_framework_raises(client: TestClient) -> None:
    assert client.get("/nowhere").json()["error"]["code"] == "path_not_found"
    wrong = client.post("/bug")
    assert (wrong.status_code, wrong.json()["error"]["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "GET")
    assert client.get("/typed").json()["error"]["code"] == "missing_parameter"
    error = client.get("/typed", params={"limit": "many"}).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_parameter", "limit")
    assert client.get("/surrogate").status_code == 400


def test_request_ids(client: TestClient) -> None:
    assert client.get("/nowhere").headers["x-request-id"].startswith("req_")
    assert client.get("/nowhere", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("a b", "x" * 129, "<script>"):
        assert client.get("/nowhere", headers={"x-request-id": bad}).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("location", "param"),
    [
        (("body", "stages", 0, "epochs"), "stages[0].epochs"),
        (("query", "limit"), "limit"),
        (("name",), "name"),
        ((), None),
        (("body",), None),
    ],
)
def test_names_of_fields(location: tuple[int | str, ...], param: str | None) -> None:
    assert problems.param_of(location) == param


def test_a_rate_limit_says_how_long_to_wait() -> None:
    answer = problems.response(RateLimited("slow", retry_after=0.2), {"path": "/x"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert json.loads(bytes(answer.body))["instance"] == "/x"
