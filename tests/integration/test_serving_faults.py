"""The inference endpoint while things move and break: aliases, clients, Redis, the model itself."""

import asyncio
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from app.domain.db import Sessions, transaction
from app.domain.repositories.registry import Registry
from app.domain.storage import BlobStore
from app.serving.resolver import TTL_SECONDS
from app.serving.shared_cache import PREFIX
from app.serving.warmup import TOLERANCE
from app.settings import Settings
from tests.conftest import PROJECT
from tests.fixtures.inference import Endpoint, endpoint, key_for, publish
from tests.fixtures.servers import RedisServer
from tests.fixtures.students import WORDS

ROOT = Path(__file__).parents[2]
TEXT = "my card has not arrived yet"


def texts_of(count: int, seed: int = 0, longest: int = 20) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, longest))) for _ in range(count)]


@pytest.fixture
def serve(settings: Settings, sessions: Sessions, blobs: BlobStore) -> Iterator[Endpoint]:
    publish(sessions, blobs, PROJECT, "support", alias="production")
    with endpoint(settings, key_for(sessions, settings, PROJECT)) as made:
        yield made


async def _burst(url: str, headers: dict[str, str], bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=len(bodies))
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as client:
        return await asyncio.gather(*(client.post("/v1/classify", json=body) for body in bodies))


def test_a_moved_alias_under_traffic_gives_no_mixed_no_stale_and_no_failed_answer(
    serve: Endpoint, sessions: Sessions, blobs: BlobStore
) -> None:
    publish(sessions, blobs, PROJECT, "support", seed=1)
    texts = texts_of(6)
    truth = {name: serve.classify(name, texts, cache=False).json()["data"] for name in ("support:1", "support:2")}
    assert truth["support:1"] != truth["support:2"]
    seen: list[tuple[float, float, int, Any]] = []
    stop = threading.Event()

    def traffic(seed: int) -> None:
        chance = random.Random(seed)
        with httpx.Client(base_url=serve.url, headers=serve.headers, timeout=60) as client:
            while not stop.is_set():
                sent = time.monotonic()
                body = {"model": "support", "input": texts, "cache": chance.random() < 0.5}
                answer = client.post("/v1/classify", json=body)
                seen.append((sent, time.monotonic(), answer.status_code, answer.json()))

    threads = [threading.Thread(target=traffic, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    moved: list[tuple[float, str]] = [(0.0, "support:1")]
    for version in (2, 1, 2):
        time.sleep(TTL_SECONDS + 0.6)
        with transaction(sessions) as session:
            Registry(session, PROJECT).set_alias("support", "production", version)
        moved.append((time.monotonic(), f"support:{version}"))
    time.sleep(TTL_SECONDS + 0.6)
    stop.set()
    for thread in threads:
        thread.join()

    assert len(seen) > 100
    assert {status for _, _, status, _ in seen} == {200}
    for sent, _, _, body in seen:
        expected = truth[body["model"]]
        assert [e["label"] for e in body["data"]] == [e["label"] for e in expected], "an answer of another version than it says"
        for got, want in zip(body["data"], expected, strict=True):
            assert got["score"] == pytest.approx(want["score"], abs=TOLERANCE)
        settled = [model for at, model in moved if at + TTL_SECONDS + 0.5 < sent]
        still_possible = {model for at, model in moved if at + TTL_SECONDS + 0.5 >= sent} | {settled[-1]}
        assert body["model"] in still_possible, "a stale version"
    assert {body["model"] for *_, body in seen} == {"support:1", "support:2"}


def test_a_burst_of_200_clients_is_answered_or_refused_early(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    publish(sessions, blobs, PROJECT, "support")
    small = settings.model_copy(update={"serve_queue_rows": 60, "serve_threads": 1})
    with endpoint(small, key_for(sessions, settings, PROJECT)) as serve:
        serve.classify("support", "ok")
        backend = serve.backend()
        real = backend.forward

        def slow(rows: Any) -> Any:
            time.sleep(0.005)
            return real(rows)

        backend.forward = slow
        bodies = [{"model": "support", "input": text, "cache": False} for text in texts_of(200)]
        answers = asyncio.run(_burst(serve.url, serve.headers, bodies))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) <= {200, 429, 503}
        assert statuses[200] >= 60
        assert statuses[429] + statuses[503] > 0
        for answer in answers:
            if answer.status_code != 200:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["code"] in ("overloaded", "rate_limit_exceeded", "deadline_exceeded")
        serve.until(serve.idle)
        assert serve.classify("support", TEXT).status_code == 200


def test_clients_that_hang_up_leave_no_work_and_no_garbage(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    publish(sessions, blobs, PROJECT, "support")
    one_lane = settings.model_copy(update={"serve_threads": 1})  # a second, idle one would run the rows at once
    with endpoint(one_lane, key_for(sessions, settings, PROJECT)) as serve:
        serve.classify("support", "ok")
        backend = serve.backend()
        real, gate, ran = backend.forward, threading.Event(), []

        def held(rows: Any) -> Any:
            ran.extend(len(row.ids) for row in rows)
            gate.wait(60)
            return real(rows)

        backend.forward = held
        blockers = [
            threading.Thread(target=serve.classify, args=("support", f"ok {word}")) for word in ("one", "two", "three", "four")
        ]
        for thread in blockers:
            thread.start()
        (served,) = serve.plane.pool.all()
        held_rows = len(blockers)
        serve.until(lambda: bool(ran) and served.batcher.backlog == held_rows)

        body = json.dumps(
            {"model": "support", "input": [" ".join(WORDS[:17]) + f" {n}" for n in range(3)], "cache": False}
        ).encode()
        head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {serve.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        sockets = []
        for _ in range(20):
            s = socket.create_connection(("127.0.0.1", serve.port))
            s.sendall(head.encode() + body)
            sockets.append(s)
        serve.until(lambda: served.batcher.backlog == held_rows + 60)
        for s in sockets:
            s.close()
        serve.until(lambda: served.batcher.backlog == held_rows)
        gate.set()
        for thread in blockers:
            thread.join()
        serve.until(serve.idle)
        assert 17 + 3 not in ran  # their length: no abandoned row reached the model
        assert len(served.batcher._pending) == 0


def test_replicas_share_answers_and_redis_may_die_and_lie(
    settings: Settings, sessions: Sessions, blobs: BlobStore, redis_server: RedisServer
) -> None:
    publish(sessions, blobs, PROJECT, "support")
    shared = settings.model_copy(update={"redis_url": redis_server.url})
    key = key_for(sessions, settings, PROJECT)
    texts = texts_of(20)
    with endpoint(shared, key) as first, endpoint(shared, key) as second:
        for replica in (first, second):
            replica.until(lambda replica=replica: replica.plane.shared.up)
        truth = first.classify("support", texts).json()
        database = redis.Redis.from_url(redis_server.url)
        first.until(lambda: len(database.keys(PREFIX + b"*")) == len(set(texts)))

        second.classify("support", "ok", cache=False)  # loads the model
        backend = second.backend()
        ran: list[int] = []
        real = backend.forward

        def counting(rows: Any) -> Any:
            ran.append(len(rows))
            return real(rows)

        backend.forward = counting
        assert second.classify("support", texts).json() == truth
        assert ran == []

        # Poisoned entries: truncated, another key's value, noise, another type.
        keys = sorted(database.keys(PREFIX + b"*"))
        values = {k: database.get(k) for k in keys}
        database.set(keys[0], values[keys[0]][:-1])
        database.set(keys[1], values[keys[2]])
        database.set(keys[3], b"\x00" * len(values[keys[3]]))
        database.delete(keys[4])
        database.lpush(keys[4], "x")
        second.plane.inference._local._probation.clear()
        second.plane.inference._local._protected.clear()
        again = second.classify("support", texts).json()
        assert _scores(again) == pytest.approx(_scores(truth), abs=TOLERANCE)
        assert sum(ran) == 4

        stop = threading.Event()
        statuses: Counter[int] = Counter()
        slowest = [0.0]

        def traffic() -> None:
            chance = random.Random(3)
            while not stop.is_set():
                started = time.monotonic()
                statuses[first.classify("support", texts_of(1, chance.randint(0, 10**9))[0]).status_code] += 1
                slowest[0] = max(slowest[0], time.monotonic() - started)

        thread = threading.Thread(target=traffic)
        thread.start()
        time.sleep(0.3)
        redis_server.stop()
        time.sleep(0.7)
        redis_server.start()
        first.until(lambda: first.plane.shared.up)
        time.sleep(0.2)
        stop.set()
        thread.join()
        assert set(statuses) == {200}
        assert slowest[0] < 3


def _scores(body: dict[str, Any]) -> Any:
    return np.array([[s["score"] for s in sorted(e["scores"], key=lambda s: s["label"])] for e in body["data"]])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_text_has_the_same_answer_in_any_company(
    settings: Settings, sessions: Sessions, blobs: BlobStore, precision: str
) -> None:
    publish(sessions, blobs, PROJECT, "support", precision=precision, hidden=64)
    with endpoint(settings, key_for(sessions, settings, PROJECT)) as serve:
        texts = texts_of(40)
        alone = np.array([_scores(serve.classify("support", text, cache=False, top_k=5).json())[0] for text in texts])
        (served,) = serve.plane.pool.all()
        assert served.entry.precision == precision
        assert (served.measured.policy.max_rows == 1) >= (precision == "int8")
        bodies = []
        for n in range(60):
            chance = random.Random(n)
            bodies.append({"model": "support", "input": chance.sample(texts, chance.randint(1, 12)), "cache": False, "top_k": 5})
        for body, answer in zip(bodies, asyncio.run(_burst(serve.url, serve.headers, bodies)), strict=True):
            want = alone[[texts.index(text) for text in body["input"]]]
            np.testing.assert_allclose(_scores(answer.json()), want, atol=0 if precision == "int8" else TOLERANCE)


def test_a_text_that_gives_nan_fails_alone(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    publish(sessions, blobs, PROJECT, "support", poison=True)
    with endpoint(settings, key_for(sessions, settings, PROJECT)) as serve:
        bodies = [{"model": "support", "input": ["card", f"{'poison' if n % 4 == 0 else 'refund'} {n}"]} for n in range(40)]
        answers = asyncio.run(_burst(serve.url, serve.headers, bodies))
        for n, answer in enumerate(answers):
            assert answer.status_code == (500 if n % 4 == 0 else 200)
            if n % 4 == 0:
                error = answer.json()["error"]
                assert (error["code"], error["param"]) == ("inference_failed", "input[1]")
                assert "NaN" in error["message"]
        serve.until(serve.idle)


def test_models_come_and_go_within_the_memory_budget_while_they_are_asked(
    settings: Settings, sessions: Sessions, blobs: BlobStore
) -> None:
    for n in range(4):
        publish(sessions, blobs, PROJECT, f"m{n}", seed=n)
    tight = settings.model_copy(update={"serve_memory_bytes": 36 * 2**20})  # two of them
    with endpoint(tight, key_for(sessions, settings, PROJECT)) as serve:
        bodies = [{"model": f"m{n % 4}", "input": text} for n, text in enumerate(texts_of(120))]
        statuses = Counter(answer.status_code for answer in asyncio.run(_burst(serve.url, serve.headers, bodies)))
        assert set(statuses) <= {200, 503}
        assert statuses[200] >= 30
        assert serve.plane.pool.used_bytes <= 36 * 2**20
        for n in range(4):
            assert serve.classify(f"m{n}", TEXT).status_code == 200


def test_the_data_plane_loads_no_training_library() -> None:
    code = "import sys, app.serving.main; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert not {"torch", "transformers", "worker", "celery", "onnx"} & set(done.stdout.split())
