"""Faults thrown at a running installation, through its API; the promises of docs/operate.md."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.e2e.conftest import prepare, small_spec
from tests.fixtures.cluster import Cluster, running, wait_for

PHASES = ["preparing", "labelling", "training", "quantizing", "evaluating", "packaging"]


@pytest.fixture
def apart(tmp_path: Path, postgres_url: str, redis_url: str) -> Iterator[Cluster]:
    with running(Cluster.separate(tmp_path, postgres_url, redis_url)) as up:
        yield up


def _training_step(cluster: Cluster, job_id: str, least: int) -> dict[str, Any] | None:
    job = cluster.job(job_id)
    assert job["status"] in ("queued", "running"), job
    progress = job["progress"]
    return job if job["phase"] == "training" and progress.get("step", 0) >= least else None


@pytest.mark.timeout(420)
def test_kill_child_then_worker_mid_training_gives_the_same_student(apart: Cluster) -> None:
    training, test = prepare(apart)
    spec = small_spec(training, test, epochs=30, evaluation={"baseline": False})
    undisturbed = apart.wait(apart.submit(spec)["id"])
    assert undisturbed["status"] == "succeeded", undisturbed["error"]
    want = apart.digest(undisturbed["result"]["model"])

    first = apart.submit(spec)["id"]
    wait_for(lambda: _training_step(apart, first, 6), 60, "training step 6")
    for child in apart.run_children():
        child.kill()
    done = apart.wait(first)
    assert done["status"] == "succeeded", done["error"]
    assert done["attempt"] == 2
    assert apart.digest(done["result"]["model"]) == want

    second = apart.submit(spec)["id"]
    wait_for(lambda: _training_step(apart, second, 6), 60, "training step 6")
    apart.kill("worker")
    wait_for(lambda: not apart.run_children(), 5, "the orphaned child exits")
    apart.start("worker")
    done = apart.wait(second)
    assert done["status"] == "succeeded", done["error"]
    assert done["attempt"] == 2
    assert apart.digest(done["result"]["model"]) == want


def test_redis_flushed_after_commit_and_api_restarted(apart: Cluster, redis_url: str) -> None:
    training, test = prepare(apart)
    apart.kill("worker", signal.SIGTERM)
    job = apart.submit(small_spec(training, test))["id"]
    redis.Redis.from_url(redis_url).flushall()
    apart.start("worker")
    wait_for(lambda: apart.job(job)["status"] == "running", 35, "the job starts although its hint is gone")
    apart.kill("api")
    apart.start("api")
    assert apart.wait(job)["status"] == "succeeded"


@pytest.mark.parametrize("phase", PHASES)
def test_cancel_in_each_phase(held: tuple[Cluster, str, str], phase: str) -> None:
    cluster, training, test = held
    job = cluster.submit(small_spec(training, test, epochs=60 if phase == "training" else 2))["id"]
    wait_for(lambda: _reached(cluster.job(job), phase), 90, phase)
    asked = cluster.api.post(f"/v1/distillation/jobs/{job}/cancel")
    assert asked.status_code in (200, 202) or phase == "packaging", asked.text
    done = cluster.wait(job, seconds=15)
    assert done["status"] in ("cancelled", "succeeded")
    if done["status"] == "succeeded":
        assert phase == "packaging", "only a job that was already publishing may win the race"
    else:
        assert done["result"] is None
    wait_for(lambda: not cluster.run_children(), 5, "the child is gone")
    again = cluster.api.post(f"/v1/distillation/jobs/{job}/cancel")
    assert again.status_code == (200 if done["status"] == "cancelled" else 409)


def _reached(job: dict[str, Any], phase: str) -> bool:
    """In that phase or beyond: a short one may pass between two looks."""
    return job["is_terminal"] or (job["phase"] is not None and PHASES.index(job["phase"]) >= PHASES.index(phase))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, str, str]]:
    with running(Cluster.embedded(tmp_path_factory.mktemp("cancel"))) as up:
        training, test = prepare(up)
        yield up, training, test


def test_idempotent_create_under_fire(held: tuple[Cluster, str, str]) -> None:
    cluster, training, test = held
    spec = small_spec(training, test, name="once only")
    headers = {"Idempotency-Key": "the-same-key"}

    def post(_: int) -> tuple[int, str | None]:
        answer = cluster.api.post("/v1/distillation/jobs", json=spec, headers=headers)
        return answer.status_code, answer.json().get("id")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(50)))
    assert {status for status, _ in answers} <= {201, 409}
    ids = {i for status, i in answers if status == 201}
    assert len(ids) == 1
    found = cluster.api.get("/v1/distillation/jobs", params={"name": "once only"}).json()["data"]
    assert [j["id"] for j in found] == list(ids)
    cluster.api.post(f"/v1/distillation/jobs/{ids.pop()}/cancel")
    other = cluster.api.post("/v1/distillation/jobs", json={**spec, "seed": 99}, headers=headers)
    assert other.status_code == 422


def test_sigterm_ends_everything_and_the_job_goes_on_after_a_restart(tmp_path: Path) -> None:
    with running(Cluster.embedded(tmp_path)) as cluster:
        training, test = prepare(cluster)
        job = cluster.submit(small_spec(training, test, epochs=60))["id"]
        wait_for(lambda: _training_step(cluster, job, 5), 90, "training")
        family = psutil.Process(cluster.processes["up"].pid).children(recursive=True)
        began = time.monotonic()
        cluster.kill("up", signal.SIGTERM)
        assert time.monotonic() - began < 30
        wait_for(lambda: not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 5, "all children gone")
        cluster.start()
        done = cluster.wait(job)
        assert done["status"] == "succeeded", done["error"]
