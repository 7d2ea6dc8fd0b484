"""The claim, the fence and the reconciler, with real concurrency, on SQLite and PostgreSQL."""

import multiprocessing
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update

from app.domain.db import Sessions, make_engine, make_sessions, reading, transaction
from app.domain.errors import InvalidStateTransition
from app.domain.models import Job, JobEvent, JobMetric
from app.domain.repositories.events import NewEvent, NewMetric, clock
from app.domain.repositories.jobs import Jobs
from app.domain.repositories.leases import Batch, Heartbeat, Leases, Published, problem
from tests.conftest import PROJECT
from tests.fixtures.jobs import add_job, read_events, read_job

LOST = problem("worker_lost", "gone", retryable=True)


def claim(sessions: Sessions, owner: str = "wrk_a", lease_seconds: float = 60.0) -> Job | None:
    with transaction(sessions) as session:
        return Leases(session).claim(owner, lease_seconds)


def must_claim(sessions: Sessions, owner: str = "wrk_a", lease_seconds: float = 60.0) -> Job:
    job = claim(sessions, owner, lease_seconds)
    assert job is not None
    return job


def expire(sessions: Sessions, job_id: str) -> None:
    with transaction(sessions) as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=clock(session) - 1))


def drain(url: str, owner: str, threads: int) -> list[tuple[str, int]]:
    """Claim until nothing is left, from several threads of this process."""
    sessions = make_sessions(make_engine(url))

    def one(n: int) -> list[tuple[str, int]]:
        mine = []
        while (job := claim(sessions, f"{owner}-{n}")) is not None:
            mine.append((job.id, job.attempt))
        return mine

    with ThreadPoolExecutor(threads) as pool:
        return [pair for found in pool.map(one, range(threads)) for pair in found]


def test_race_32_claimers_200_jobs_no_doubles(database_url: str, sessions: Sessions) -> None:
    """Four processes with eight threads each."""
    made = [add_job(sessions) for _ in range(200)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(drain, [(database_url, f"wrk_{n}", 8) for n in range(4)])
    claims = [pair for part in found for pair in part]
    assert Counter(claims) == Counter((job_id, 1) for job_id in made)
    with reading(sessions) as session:
        assert session.query(JobEvent).filter(JobEvent.type == "attempt").count() == 200


def test_claims_in_order_of_priority_and_age(sessions: Sessions) -> None:
    low, first, second, high = (add_job(sessions, priority=p) for p in (-1, 0, 0, 5))
    assert [must_claim(sessions).id for _ in range(4)] == [high, first, second, low]
    assert claim(sessions) is None


def test_not_before_and_attempts_used_up(sessions: Sessions) -> None:
    job_id = add_job(sessions, max_attempts=2)
    job = must_claim(sessions)
    with transaction(sessions) as session:
        Leases(session).requeue(job_id, job.attempt, LOST, reason="worker_lost", free=False, delay=0.4)
    assert claim(sessions) is None
    time.sleep(0.5)
    assert must_claim(sessions).attempt == 2
    with transaction(sessions) as session:
        ended = Leases(session).requeue(job_id, 2, LOST, reason="worker_lost", free=False)
    assert ended is not None
    assert (ended.status, ended.error) == ("failed", LOST)


def test_free_attempts_are_not_counted(sessions: Sessions) -> None:
    job_id = add_job(sessions, max_attempts=1)
    for attempt in (1, 2, 3):
        assert must_claim(sessions).attempt == attempt
        with transaction(sessions) as session:
            moved = Leases(session).requeue(job_id, attempt, LOST, reason="worker_stopping", free=True)
        assert moved is not None
        assert moved.status == "queued"
    assert read_job(sessions, job_id).interruptions == 3
    read_events(sessions, job_id)


def test_every_write_of_an_old_attempt_changes_nothing(sessions: Sessions) -> None:
    job_id = add_job(sessions)
    old = must_claim(sessions, "wrk_a")
    expire(sessions, job_id)
    with transaction(sessions) as session:
        assert [j.id for j in Leases(session).reconcile()] == [job_id]
    new = must_claim(sessions, "wrk_b")
    assert (old.attempt, new.attempt) == (1, 2)
    before = read_job(sessions, job_id), len(read_events(sessions, job_id))
    batch = Batch([NewEvent("log", "late")], [NewMetric("s", 1, {"x": 1.0})], progress={"percent": 1.0}, phase="training")
    with transaction(sessions) as session:
        leases = Leases(session)
        assert leases.heartbeat(job_id, 1, 60) is None
        assert leases.peek(job_id, 1) is None
        assert not leases.record(job_id, 1, batch)
        assert not leases.pin_inputs(job_id, 1, {})
        assert leases.lock(job_id, 1) is None
        assert leases.fail(job_id, 1, LOST) is None
        assert leases.requeue(job_id, 1, LOST, reason="x", free=True) is None
    after = read_job(sessions, job_id)
    assert (after.updated_at, after.progress, after.phase, after.lease_owner) == (before[0].updated_at, {}, None, "wrk_b")
    assert len(read_events(sessions, job_id)) == before[1]
    with reading(sessions) as session:
        assert session.query(JobMetric).count() == 0


def test_a_lapsed_lease_is_renewed_while_nobody_took_it(sessions: Sessions) -> None:
    job_id = add_job(sessions)
    must_claim(sessions)
    expire(sessions, job_id)
    with transaction(sessions) as session:
        assert Leases(session).heartbeat(job_id, 1, 60) == Heartbeat(cancel=False, pause=False)
        assert Leases(session).reconcile() == []


@pytest.mark.parametrize(
    ("wish", "max_attempts", "after"),
    [(None, 3, "queued"), (None, 1, "failed"), ("cancel", 3, "cancelled"), ("pause", 3, "paused"), ("pause", 1, "paused")],
)
def test_reconcile_of_a_dead_lease(sessions: Sessions, wish: str | None, max_attempts: int, after: str) -> None:
    job_id, healthy = add_job(sessions, max_attempts=max_attempts), add_job(sessions)
    must_claim(sessions)
    must_claim(sessions)
    with transaction(sessions) as session:
        if wish is not None:
            jobs = Jobs(session, PROJECT)
            (jobs.request_cancel if wish == "cancel" else jobs.request_pause)(job_id)
    expire(sessions, job_id)
    with ThreadPoolExecutor(3) as pool:  # three at once are as good as one

        def reconcile(_: int) -> int:
            with transaction(sessions) as session:
                return len(Leases(session).reconcile())

        assert sum(pool.map(reconcile, range(3))) == 1
    job = read_job(sessions, job_id)
    assert job.status == after
    assert (job.error or {}).get("code") == ("worker_lost" if after == "failed" else None)
    assert read_job(sessions, healthy).status == "running"
    read_events(sessions, job_id)
    if after == "paused":
        with transaction(sessions) as session:
            Jobs(session, PROJECT).resume(job_id)
        assert must_claim(sessions).id == job_id


def test_cancel_racing_success_has_exactly_one_end(database_url: str, sessions: Sessions) -> None:
    """N = 100: success from a worker, cancel from the API, twice each, in the same moment."""
    made = [add_job(sessions) for _ in range(100)]
    for _ in made:
        must_claim(sessions)

    def succeed(job_id: str) -> None:
        with transaction(sessions) as session:
            leases = Leases(session)
            job = leases.lock(job_id, 1)
            if job is not None:
                leases.succeed(job, Published({"model": "tiny:1"}, []))

    def stopped(job_id: str) -> None:
        with transaction(sessions) as session:
            Leases(session).requeue(job_id, 1, LOST, reason="requested", free=True)

    def cancel(job_id: str) -> None:
        try:
            with transaction(sessions) as session:
                asked = Jobs(session, PROJECT).request_cancel(job_id).status
        except InvalidStateTransition:
            return
        if asked == "cancelling" and random.random() < 0.5:
            stopped(job_id)

    with ThreadPoolExecutor(8) as pool:
        work: list[Any] = [(f, job_id) for job_id in made for f in (succeed, cancel, cancel, succeed)]
        for future in [pool.submit(f, job_id) for f, job_id in work]:
            future.result()
    for job_id in made:
        stopped(job_id)
        job = read_job(sessions, job_id)
        assert job.status in ("succeeded", "cancelled")
        assert (job.result is not None) == (job.status == "succeeded")
        events = read_events(sessions, job_id)
        assert [e.type for e in events].count("end") == 1
        assert events[-1].type == "end"


def test_concurrent_events_have_no_holes(sessions: Sessions) -> None:
    job_id = add_job(sessions)
    must_claim(sessions)

    def write(n: int) -> None:
        def record() -> None:
            with transaction(sessions) as session:
                events = [NewEvent("log", f"{n}.{i}") for i in range(3)]
                assert Leases(session).record(job_id, 1, Batch(events))
                if n % 3 == 0:
                    raise RuntimeError("rolled back")

        try:
            record()
        except RuntimeError:
            assert n % 3 == 0

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(30)))
    logs = [e for e in read_events(sessions, job_id) if e.type == "log"]
    assert len(logs) == 20 * 3


def test_metrics_of_a_repeated_step_are_replaced(sessions: Sessions) -> None:
    job_id = add_job(sessions)
    must_claim(sessions)
    with transaction(sessions) as session:
        leases = Leases(session)
        for loss in (2.0, 1.0):
            leases.record(job_id, 1, Batch(metrics=[NewMetric("s", 1, {"loss": loss}), NewMetric("s", 1, {"loss": loss / 2})]))
    with reading(sessions) as session:
        assert [m.values for m in session.query(JobMetric)] == [{"loss": 0.5}]
