"""What the control plane may do to a job, on SQLite and on PostgreSQL."""

from collections.abc import Callable

import pytest

from app.domain.db import Sessions, reading, transaction
from app.domain.errors import InvalidRequest, InvalidStateTransition, NotFound
from app.domain.models import Job, ModelVersion, Outbox
from app.domain.repositories.events import Events
from app.domain.repositories.jobs import Jobs
from app.domain.repositories.leases import Leases, problem
from app.domain.repositories.outbox import OutboxRepository
from app.domain.states import Status
from tests.conftest import OTHER_PROJECT, PROJECT
from tests.fixtures.jobs import add_job, make_job, read_events, read_job


def claim(sessions: Sessions) -> Job:
    with transaction(sessions) as session:
        job = Leases(session).claim("wrk_test", 60)
        assert job is not None
        return job


def into(sessions: Sessions, status: str) -> str:
    """A job brought into `status` the way real ones get there."""
    job_id = add_job(sessions)
    if status in ("queued",):
        return job_id
    if status == "paused":
        with transaction(sessions) as session:
            Jobs(session, PROJECT).request_pause(job_id)
        return job_id
    job = claim(sessions)
    with transaction(sessions) as session:
        jobs, leases = Jobs(session, PROJECT), Leases(session)
        match status:
            case "pausing":
                jobs.request_pause(job_id)
            case "cancelling":
                jobs.request_cancel(job_id)
            case "cancelled":
                jobs.request_cancel(job_id)
                leases.requeue(job_id, job.attempt, problem("worker_lost", "x"), reason="x", free=True)
            case "failed":
                leases.fail(job_id, job.attempt, problem("dataset_invalid", "x"))
            case "succeeded":
                from app.domain.repositories.leases import Published

                locked = leases.lock(job_id, job.attempt)
                assert locked is not None
                leases.succeed(locked, Published({"model": "tiny:1"}, []))
    return job_id


STATES = ["queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"]


def test_add_writes_job_event_and_hint_together(sessions: Sessions) -> None:
    job_id = add_job(sessions)
    job = read_job(sessions, job_id)
    assert (job.status, job.attempt, job.last_seq) == ("queued", 0, 1)
    assert job.created_at == job.queued_at == job.updated_at > 1.7e9
    assert [(e.type, e.data["status"]) for e in read_events(sessions, job_id)] == [("status", "queued")]
    with reading(sessions) as session:
        assert [h.task for h in OutboxRepository(session).unsent()] == ["retort.wake"]


def test_a_failed_create_leaves_nothing(sessions: Sessions) -> None:
    def create() -> None:
        with transaction(sessions) as session:
            Jobs(session, PROJECT).add(make_job())
            raise RuntimeError("before the commit")

    with pytest.raises(RuntimeError):
        create()
    with reading(sessions) as session:
        assert session.query(Job).count() == session.query(Outbox).count() == 0


@pytest.mark.parametrize(
    "changes", [{"name": "a\0"}, {"meta": {"a": "\ud800"}}, {"submitted": {"x": ["\0"]}}, {"spec": {"x": float("nan")}}]
)
def test_text_that_a_database_cannot_hold_is_refused(sessions: Sessions, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        add_job(sessions, **changes)
    assert caught.value.param in ("name", "metadata", "spec", "resolved_spec")


def test_another_project_sees_nothing(sessions: Sessions) -> None:
    job_id = add_job(sessions)
    with transaction(sessions) as session:
        foreign = Jobs(session, OTHER_PROJECT)
        assert foreign.get(job_id) is foreign.get("djob_\0") is None
        assert foreign.page(10) == ([], False)
        assert not foreign.artifacts(job_id)
        for ask in (foreign.request_cancel, foreign.request_pause, foreign.resume, foreign.delete, foreign.update):
            with pytest.raises(NotFound) as caught:
                ask(job_id)
            assert caught.value.code == "job_not_found"


@pytest.mark.parametrize(
    ("status", "after"),
    [
        ("queued", "cancelled"),
        ("paused", "cancelled"),
        ("running", "cancelling"),
        ("pausing", "cancelling"),
        ("cancelling", "cancelling"),
        ("cancelled", "cancelled"),
        ("succeeded", None),
        ("failed", None),
    ],
)
def test_cancel(sessions: Sessions, status: str, after: str | None) -> None:
    job_id = into(sessions, status)
    seq = read_job(sessions, job_id).last_seq
    with transaction(sessions) as session:
        if after is None:
            with pytest.raises(InvalidStateTransition, match=f"is {status}"):
                Jobs(session, PROJECT).request_cancel(job_id)
        else:
            assert Jobs(session, PROJECT).request_cancel(job_id).status == after
    job = read_job(sessions, job_id)
    assert job.status == (after or status)
    assert (job.finished_at is not None) == (job.status in ("succeeded", "failed", "cancelled"))
    events = read_events(sessions, job_id)
    assert (job.last_seq == seq) == (after in (None, status)), "a no-op writes no event"
    if job.finished_at is not None:
        assert events[-1].type == "end"


@pytest.mark.parametrize(
    ("status", "after"),
    [("queued", "paused"), ("running", "pausing"), ("pausing", "pausing"), ("paused", "paused")]
    + [(s, None) for s in ("cancelling", "succeeded", "failed", "cancelled")],
)
def test_pause(sessions: Sessions, status: str, after: str | None) -> None:
    job_id = into(sessions, status)
    with transaction(sessions) as session:
        if after is None:
            with pytest.raises(InvalidStateTransition):
                Jobs(session, PROJECT).request_pause(job_id)
        else:
            assert Jobs(session, PROJECT).request_pause(job_id).status == after


@pytest.mark.parametrize("status", [s for s in STATES if s != "paused"])
def test_only_paused_and_retryable_jobs_resume(sessions: Sessions, status: str) -> None:
    job_id = into(sessions, status)
    with transaction(sessions) as session, pytest.raises(InvalidStateTransition):
        Jobs(session, PROJECT).resume(job_id)


def test_resume_of_a_retryable_failure_gives_fresh_attempts(sessions: Sessions) -> None:
    job_id = add_job(sessions, max_attempts=1)
    job = claim(sessions)
    with transaction(sessions) as session:
        failed = Leases(session).fail(job_id, job.attempt, problem("disk_full", "x", retryable=True), {"wall_seconds": 5.0})
        assert failed is not None
        assert failed.error is not None
    with transaction(sessions) as session:
        resumed = Jobs(session, PROJECT).resume(job_id)
        assert (resumed.status, resumed.error, resumed.finished_at, resumed.usage) == ("queued", None, None, {})
    assert claim(sessions).attempt == 2
    read_events(sessions, job_id)


def test_delete_needs_an_end_and_keeps_the_model(sessions: Sessions) -> None:
    running = into(sessions, "running")
    with transaction(sessions) as session, pytest.raises(InvalidStateTransition, match="cannot become deleted"):
        Jobs(session, PROJECT).delete(running)
    done = into(sessions, "succeeded")
    with transaction(sessions) as session:
        _version(done, session.add)
    with transaction(sessions) as session:
        Jobs(session, PROJECT).delete(done)
    with reading(sessions) as session:
        assert Jobs(session, PROJECT).get(done) is None
        assert session.query(ModelVersion).one().source_job_id is None
        assert Events(session).list(done) == []


def _version(job_id: str, add: Callable[[object], None]) -> None:
    from app.domain.models import Model

    add(Model(id="mdl_1", project_id=PROJECT, name="tiny", description="", last_version=1, created_at=0.0, updated_at=0.0))
    values = {"task": None, "digest": "d", "manifest": {}, "bytes": 1, "params": None, "base_model": None, "quality": {}}
    more = {"provenance": {}, "created_at": 0.0, "kind": "student", "version": 1}
    add(ModelVersion(id="mv_1", model_id="mdl_1", source_job_id=job_id, **values, **more))


def test_update_changes_only_what_is_given(sessions: Sessions) -> None:
    job_id = add_job(sessions, meta={"a": "1"})
    with transaction(sessions) as session:
        Jobs(session, PROJECT).update(job_id, priority=7)
        Jobs(session, PROJECT).update(job_id, name="new", metadata={})
    job = read_job(sessions, job_id)
    assert (job.name, job.meta, job.priority) == ("new", {}, 7)


def test_pages_walk_the_whole_list_both_ways(sessions: Sessions) -> None:
    made = [add_job(sessions) for _ in range(7)]
    for order, expected in (("asc", made), ("desc", made[::-1])):
        with reading(sessions) as session:
            jobs = Jobs(session, PROJECT)
            seen: list[str] = []
            cursor, more = None, True
            while more:
                page, more = jobs.page(3, after=cursor, order=order)  # type: ignore[arg-type]
                seen += [j.id for j in page]
                cursor = seen[-1]
            assert seen == expected
            before, more = jobs.page(3, before=expected[5], order=order)  # type: ignore[arg-type]
            assert [j.id for j in before] == expected[2:5]
            assert more
            before, more = jobs.page(3, before=expected[2], order=order)  # type: ignore[arg-type]
            assert ([j.id for j in before], more) == (expected[:2], False)


def test_filters(sessions: Sessions) -> None:
    odd = 'a"b\\c.$'
    first = add_job(sessions, name="one", model_name="m1", meta={"team": "x", odd: "y"})
    second = add_job(sessions, name="two", meta={"team": "z"})
    with transaction(sessions) as session:
        jobs = Jobs(session, PROJECT)
        jobs.request_cancel(second)
        created = jobs.get(first).created_at  # type: ignore[union-attr]

        def found(**filters: object) -> list[str]:
            return [j.id for j in jobs.page(10, order="asc", **filters)[0]]  # type: ignore[arg-type]

        assert found(status="queued") == [first]
        assert found(name="two") == [second]
        assert found(model="m1") == [first]
        assert found(metadata={"team": "x", odd: "y"}) == [first]
        assert found(metadata={"team": "x", odd: "n"}) == found(metadata={"'; DROP": "x"}) == []
        assert found(phase="training") == found(name="a\0") == []
        assert found(created_after=created - 1, created_before=created + 60) == [first, second]
        assert found(created_after=created + 60) == found(created_before=created - 1) == []
        with pytest.raises(InvalidRequest) as caught:
            jobs.page(1, after="djob_unknown")
        assert caught.value.param == "after"
        assert (jobs.count(), jobs.count(Status.QUEUED)) == (2, 1)


def test_queue_position_and_files_in_use(sessions: Sessions) -> None:
    inputs = {"files": {"training": {"id": "file-1"}}, "teacher": None, "student": None}
    first = add_job(sessions, inputs=inputs)
    second = add_job(sessions, project=OTHER_PROJECT)
    urgent = add_job(sessions, priority=5)
    with transaction(sessions) as session:
        jobs = Jobs(session, PROJECT)
        ahead = [jobs.jobs_ahead(session.get_one(Job, i)) for i in (first, second, urgent)]
        assert ahead == [1, 2, 0]
        assert jobs.files_in_use("file-1")
        assert not jobs.files_in_use("file-2")
        jobs.request_cancel(first)
        assert not jobs.files_in_use("file-1")


def test_events_filter_order_and_odd_text(sessions: Sessions) -> None:
    job_id = add_job(sessions)
    with transaction(sessions) as session:
        job = session.get_one(Job, job_id)
        events = Events(session)
        odd = {"nan": float("nan"), "nul\0": "a\0b\ud800", "deep": [{"x": float("inf")}]}
        assert events.append(job, "log", "a\0b\ud800", odd) == 2
        assert events.append(job, "warning", "x" * 10_000, level="warning") == 3
        assert job.last_seq == 3
    with reading(sessions) as session:
        events = Events(session)
        _, log, warning = events.list(job_id)
        assert log.data == {"nan": None, "nul\ufffd": "a\ufffdb?", "deep": [{"x": None}]}
        assert len(warning.message) == 4000
        assert [e.seq for e in events.list(job_id, 1, 10, ["warning"])] == [3]
        assert [e.seq for e in events.list(job_id, order="desc", limit=2)] == [3, 2]
        assert [e.seq for e in events.list(job_id, 2, order="desc")] == [1]
