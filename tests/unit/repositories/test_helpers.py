"""Places for helpers on a job's row: as many as were called for, for that attempt alone, while it runs."""

import threading
from concurrent.futures import ThreadPoolExecutor

from app.domain.db import Sessions, reading, transaction
from app.domain.repositories.helpers import Helpers
from app.domain.repositories.jobs import Jobs
from app.domain.repositories.leases import TRIAL, Batch, Leases, problem
from app.domain.repositories.outbox import OutboxRepository
from tests.conftest import PROJECT
from tests.fixtures.jobs import add_job, read_events, read_job


def running(sessions: Sessions) -> str:
    job_id = add_job(sessions)
    with transaction(sessions) as session:
        assert Leases(session).claim("wrk_1", 60.0) is not None
    return job_id


def call(sessions: Sessions, job_id: str, count: int, attempt: int = 1) -> bool:
    with transaction(sessions) as session:
        return Leases(session).record(job_id, attempt, Batch(helpers=count))


def wanted(sessions: Sessions) -> bool:
    with reading(sessions) as session:
        return Helpers(session).wanted()


def join(sessions: Sessions) -> str | None:
    with transaction(sessions) as session:
        job = Helpers(session).join("wrk_2")
        return None if job is None else f"{job.id} {job.attempt}"


def test_as_many_come_as_were_called(sessions: Sessions) -> None:
    job_id = running(sessions)
    assert (wanted(sessions), join(sessions)) == (False, None)
    assert call(sessions, job_id, 2)
    with reading(sessions) as session:
        hints = [(h.task, h.args) for h in OutboxRepository(session).unsent()]
    assert hints[1:] == [(TRIAL, [job_id])] * 2
    assert [join(sessions) for _ in range(3)] == [f"{job_id} 1"] * 2 + [None]
    assert not wanted(sessions)
    joined = [e for e in read_events(sessions, job_id) if e.type == "log"]
    assert [e.data for e in joined] == [{"worker": "wrk_2"}] * 2


def test_many_at_once_do_not_become_too_many(sessions: Sessions) -> None:
    job_id = running(sessions)
    call(sessions, job_id, 3)
    barrier = threading.Barrier(8)

    def offer(_: int) -> str | None:
        barrier.wait()
        return join(sessions)

    with ThreadPoolExecutor(8) as pool:
        came = [found for found in pool.map(offer, range(8)) if found]
    while found := join(sessions):  # SKIP LOCKED may pass one by that was only locked
        came.append(found)
    assert came == [f"{job_id} 1"] * 3
    read_events(sessions, job_id)


def test_a_place_given_back_is_for_somebody_else(sessions: Sessions) -> None:
    job_id = running(sessions)
    call(sessions, job_id, 1)
    assert join(sessions) == f"{job_id} 1"
    for attempt in (1, 2):
        with transaction(sessions) as session:
            Helpers(session).leave(job_id, attempt)
    assert read_job(sessions, job_id).helpers_wanted == 1
    with transaction(sessions) as session:
        assert not Helpers(session).wanted({job_id})
        assert Helpers(session).join("wrk_2", {job_id}) is None
        assert Helpers(session).join("wrk_3", {"djob_other"}) is not None


def test_only_the_attempt_that_runs_calls(sessions: Sessions) -> None:
    job_id = running(sessions)
    assert not call(sessions, job_id, 2, attempt=7)
    assert not wanted(sessions)
    call(sessions, job_id, 2)
    call(sessions, job_id, 0)
    assert not wanted(sessions)


def test_nobody_comes_to_a_job_that_is_cancelled_or_begins_anew(sessions: Sessions) -> None:
    job_id = running(sessions)
    call(sessions, job_id, 2)
    with transaction(sessions) as session:
        error = problem("worker_lost", "gone", retryable=True)
        Leases(session).requeue(job_id, 1, error, reason="worker_lost", free=False)
    assert (wanted(sessions), join(sessions)) == (False, None)
    with transaction(sessions) as session:
        again = Leases(session).claim("wrk_1", 60.0)
        assert again is not None
        assert again.attempt == 2
    assert not wanted(sessions), "the second attempt has not called yet"
    call(sessions, job_id, 1, attempt=2)
    with transaction(sessions) as session:
        Jobs(session, PROJECT).request_cancel(job_id)
    assert read_job(sessions, job_id).status == "cancelling"
    assert (wanted(sessions), join(sessions)) == (False, None)
