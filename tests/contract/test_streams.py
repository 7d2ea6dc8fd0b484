"""A job followed as server-sent events: order, replay, end. What a run would write is written here by a lease."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api import sse
from app.domain.db import transaction
from app.domain.repositories.events import NewEvent, NewMetric
from app.domain.repositories.leases import Batch, Leases
from tests.fixtures.api import Api, problem
from tests.fixtures.listening import listening


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LOOK_SECONDS", 0.05)


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with listening(api.app) as url, httpx.Client(base_url=url, headers=dict(api.client.headers), timeout=20) as made:
        yield made


def frames(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    frame: dict[str, Any] = {}
    for line in answer.iter_lines():
        if not line and frame:
            yield frame
            frame = {}
        name, _, value = line.partition(": ")
        if name in ("id", "event"):
            frame[name] = value
        elif name == "data":
            frame["data"] = json.loads(value)


def run(api: Api, job_id: str, steps: int) -> None:
    """What a worker writes: claim, events with metrics and progress, failure."""
    with transaction(api.sessions) as session:
        claimed = Leases(session).claim("w", 60)
        assert claimed is not None
        assert claimed.id == job_id
    for n in range(steps):
        batch = Batch(
            events=[NewEvent("log", f"line {n}")],
            metrics=[NewMetric("output", n, {"train_loss": 1.0 / (n + 1)})],
            progress={"percent": 100.0 * n / steps},
        )
        with transaction(api.sessions) as session:
            assert Leases(session).record(job_id, claimed.attempt, batch)
        time.sleep(0.06)
    with transaction(api.sessions) as session:
        Leases(session).fail(job_id, claimed.attempt, {"code": "loss_diverged", "message": "NaN", "retryable": False}, {})


def test_snapshot_then_what_happens_then_end(api: Api, client: httpx.Client) -> None:
    job = api.job()
    worker = threading.Thread(target=run, args=(api, job["id"], 6))
    with client.stream("GET", f"/v1/distillation/jobs/{job['id']}/events/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        worker.start()
        found = list(frames(answer))
    worker.join()
    assert found[0]["event"] == "snapshot"
    assert found[0]["data"]["id"] == job["id"]
    assert found[-1]["event"] == "end"
    assert found[-1]["data"]["status"] == "failed"
    numbers = [int(f["id"]) for f in found if "id" in f]
    assert numbers == list(range(2, 2 + len(numbers))), "every stored event once, in order"
    assert [f["data"]["message"] for f in found if f["event"] == "log"] == [f"line {n}" for n in range(6)]
    assert [f["data"]["step"] for f in found if f["event"] == "metrics"] == list(range(6))
    assert any(f["event"] == "progress" for f in found)


def test_a_listener_that_comes_back_misses_nothing(api: Api, client: httpx.Client) -> None:
    job = api.job()
    worker = threading.Thread(target=run, args=(api, job["id"], 10))
    url = f"/v1/distillation/jobs/{job['id']}/events/stream"
    seen: list[int] = []
    worker.start()
    headers = {"Last-Event-ID": "0"}
    for _ in range(50):
        with client.stream("GET", url, headers=headers) as answer:
            for n, frame in enumerate(frames(answer)):
                if "id" in frame:
                    seen.append(int(frame["id"]))
                if n == 3:
                    break
        headers = {"Last-Event-ID": str(seen[-1])}
        if frame["event"] == "end":
            break
    worker.join()
    assert seen == list(range(1, len(seen) + 1))
    assert api.client.get(f"/v1/distillation/jobs/{job['id']}").json()["status"] == "failed", "listening changed nothing"


def test_types_select_and_end_always_comes(api: Api) -> None:
    job = api.job()
    run(api, job["id"], 1)
    url = f"/v1/distillation/jobs/{job['id']}/events/stream"
    answer = api.client.get(url, params={"types": "log"}, headers={"Last-Event-ID": "0"})
    assert [line for line in answer.text.splitlines() if line.startswith("event")] == ["event: log", "event: end"]
    late = api.client.get(url, headers={"Last-Event-ID": "999999"})
    assert "event: end" in late.text, "also for one who has seen it all"
    listed = api.client.get(f"/v1/distillation/jobs/{job['id']}/events", params={"types": "log"}).json()["data"]
    assert [e["message"] for e in listed] == ["line 0"]
    assert api.client.get(f"/v1/distillation/jobs/{job['id']}/metrics").json()["data"][0]["values"] == {"train_loss": 1.0}


def test_a_ping_is_one_line(api: Api, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_SECONDS", 0.05)
    with client.stream("GET", f"/v1/distillation/jobs/{api.job()['id']}/events/stream", params={"types": "log"}) as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(3)] == [": ping"] * 3


def test_a_revoked_key_ends_its_stream(api: Api, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_SECONDS", 0.05)
    made = api.client.post("/v1/api_keys", json={"name": "reader", "scopes": ["jobs:read"]}).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    with client.stream("GET", f"/v1/distillation/jobs/{api.job()['id']}/events/stream", headers=bearer) as answer:
        api.client.delete(f"/v1/api_keys/{made['id']}")
        assert "event: end" not in answer.read().decode()


def test_errors_of_a_stream_are_answers(api: Api) -> None:
    job = api.job()["id"]
    problem(api.client.get("/v1/distillation/jobs/djob_x/events/stream"), 404, "job_not_found")
    url = f"/v1/distillation/jobs/{job}/events/stream"
    assert problem(api.client.get(url, headers={"Last-Event-ID": "x"}), 400, "invalid_parameter")["param"] == "Last-Event-ID"
    assert problem(api.client.get(url, params={"types": "nope"}), 400, "invalid_parameter")["param"] == "types"
