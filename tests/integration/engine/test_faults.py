"""Supervisors as processes of their own: killed, stopped past their lease, cut off from the database, at every failpoint."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from app.domain import manifest
from app.domain.db import Sessions, make_engine, reading
from app.domain.models import JobEvent, ModelVersion, Worker
from app.domain.storage import BlobStore
from app.settings import Settings
from tests.fixtures.engine import HAPPY, SupervisorProcess, submit, supervisor, wait_for, wait_status
from tests.fixtures.jobs import read_events, read_job
from tests.fixtures.servers import Postgres
from worker.failpoints import Failpoint
from worker.reconciler import sweep

TRAINING: dict[str, Any] = {"say": {"event": "phase", "name": "training", "status": "in_progress"}}


def check_invariants(sessions: Sessions, blobs: BlobStore) -> None:
    """After every fault: one version per succeeded job, whole artifacts, events without holes, no stray process."""
    with reading(sessions) as session:
        jobs = session.execute(text("SELECT id, status, attempt, interruptions, max_attempts FROM jobs")).all()
        versions = [*session.query(ModelVersion)]
    for job_id, status, attempt, interruptions, most in jobs:
        assert sum(v.source_job_id == job_id for v in versions) == (status == "succeeded")
        assert attempt - interruptions <= most
        events = read_events(sessions, job_id)
        assert [e.type for e in events].count("end") == int(status in ("succeeded", "failed", "cancelled"))
    for version in versions:
        manifest.verify(blobs.artifact(version.digest), version.digest)
    runs = str(blobs.root / "runs")
    alive = [p for p in psutil.process_iter(["cwd", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]
    assert [p for p in alive if (p.info["cwd"] or "").startswith(runs)] == []


def workers(sessions: Sessions) -> int:
    with reading(sessions) as session:
        return session.query(Worker).count()


def child_pid(blobs: BlobStore, job_id: str, attempt: int) -> int:
    runs = str(blobs.run(job_id, attempt))
    return next(p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == runs)


def test_kill_of_the_supervisor_ends_the_child_and_another_takes_over(
    settings: Settings, sessions: Sessions, blobs: BlobStore, tmp_path: Path
) -> None:
    job_id = submit(sessions, settings, {"1": [TRAINING, {"sleep": 60}], "*": HAPPY})
    first = SupervisorProcess(settings, tmp_path)
    wait_for(lambda: read_job(sessions, job_id).phase == "training", what=first.log.read_text())
    pid = child_pid(blobs, job_id, 1)
    with supervisor(settings, sessions):
        first.kill()
        wait_for(lambda: not psutil.pid_exists(pid), 3, "the orphan ends itself")
        job = wait_status(sessions, job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    check_invariants(sessions, blobs)


def test_a_worker_stopped_past_its_lease_is_fenced_out(
    settings: Settings, sessions: Sessions, blobs: BlobStore, tmp_path: Path
) -> None:
    """Row 16: the old attempt's child even finished its package meanwhile; nothing of it is accepted."""
    late = [TRAINING, {"sleep": 3.0}, {"publish": {"weights": "old"}}]
    fresh = [TRAINING, {"sleep": 3.0}, {"publish": {"weights": "new"}}]
    job_id = submit(sessions, settings, {"1": late, "*": fresh})
    old = SupervisorProcess(settings, tmp_path)
    wait_for(lambda: read_job(sessions, job_id).phase == "training", what=old.log.read_text())
    old.signal(signal.SIGSTOP)
    with supervisor(settings, sessions):
        wait_for(lambda: read_job(sessions, job_id).attempt == 2, 10, "taken over")
        wait_for(lambda: (blobs.run(job_id, 1) / "package" / "MANIFEST.json").exists(), 10, "the old child's package")
        old.signal(signal.SIGCONT)
        job = wait_status(sessions, job_id)
    assert old.end() == 0
    assert (job.status, job.attempt) == ("succeeded", 2)
    check_invariants(sessions, blobs)
    late_events = [e for e in read_events(sessions, job_id) if e.attempt == 1]
    taken = next(e.seq for e in read_events(sessions, job_id) if e.type == "attempt" and e.data["attempt"] == 2)
    assert all(e.seq < taken for e in late_events)
    with reading(sessions) as session:
        digest = session.query(ModelVersion).one().digest
    assert (blobs.artifact(digest) / "onnx" / "model.onnx").read_text() == "new"


@pytest.mark.parametrize("point", [*Failpoint])
def test_kill_at_every_failpoint_gives_one_version(
    settings: Settings, sessions: Sessions, blobs: BlobStore, tmp_path: Path, point: Failpoint
) -> None:
    job_id = submit(sessions, settings, HAPPY)
    victim = SupervisorProcess(settings, tmp_path, fault=f"{point}=kill")
    assert victim.process.wait(20) == -signal.SIGKILL, victim.log.read_text()
    published = point is Failpoint.PUBLISHED
    job = read_job(sessions, job_id)
    assert job.status == ("succeeded" if published else "running")
    with reading(sessions) as session:
        assert session.query(ModelVersion).count() == int(published)
    with supervisor(settings, sessions):
        job = wait_status(sessions, job_id)
    assert (job.status, job.attempt) == ("succeeded", 1 if published else 2)
    check_invariants(sessions, blobs)
    sweep(sessions, blobs, 0.0)
    assert [*(blobs.root / "tmp").iterdir()] == []
    assert len([*(blobs.root / "artifacts").iterdir()]) == 1


def test_a_full_disk_while_publishing_fails_and_can_be_resumed(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    job_id = submit(sessions, settings, HAPPY)
    with supervisor(settings.model_copy(update={"fault": f"{Failpoint.STORED}=full"}), sessions):
        job = wait_status(sessions, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.error["retryable"]) == ("failed", "disk_full", True)
    check_invariants(sessions, blobs)


def test_two_supervisors_share_the_queue_without_doubles(
    settings: Settings, sessions: Sessions, blobs: BlobStore, tmp_path: Path
) -> None:
    other = SupervisorProcess(settings, tmp_path, worker_slots=2)
    wait_for(lambda: workers(sessions), what="the other one is up")
    made = [submit(sessions, settings, [{"sleep": 0.3}, *HAPPY]) for _ in range(12)]
    with supervisor(settings.model_copy(update={"worker_slots": 2}), sessions):
        for job_id in made:
            job = wait_status(sessions, job_id, seconds=40)
            assert (job.status, job.attempt) == ("succeeded", 1), job.error
    assert other.end() == 0
    check_invariants(sessions, blobs)
    with reading(sessions) as session:
        owners = {e.data["worker"] for e in session.query(JobEvent).filter(JobEvent.type == "attempt")}
        assert sorted(v.version for v in session.query(ModelVersion)) == list(range(1, 13))
    assert len(owners) == 2


@pytest.mark.postgres
class TestDatabaseOutage:
    """Rows 10 and 11: longer than the lease, in the middle of a run and at its end."""

    @pytest.fixture
    def database_url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.mark.parametrize("script_seconds", [1.0, 6.0])
    def test_no_attempt_is_used_and_no_event_is_lost(
        self, settings: Settings, sessions: Sessions, blobs: BlobStore, postgres: Postgres, postgres_url: str, script_seconds: float
    ) -> None:
        ticks = [{"say": {"event": "log", "message": f"tick {n}"}} for n in range(20)]
        pauses = [{"sleep": script_seconds / 20}] * 20
        script = [TRAINING, *(step for pair in zip(ticks, pauses, strict=True) for step in pair), {"publish": {}}]
        job_id = submit(sessions, settings, script)
        with supervisor(settings, sessions):
            wait_for(lambda: read_job(sessions, job_id).phase == "training", what="training")
            with postgres.outage(postgres_url):
                time.sleep(settings.lease_seconds + 1.5)
            job = wait_status(sessions, job_id, seconds=30)
        assert (job.status, job.attempt, job.interruptions) == ("succeeded", 1, 0), job.error
        logs = [e.message for e in read_events(sessions, job_id) if e.type == "log"]
        assert logs == [f"tick {n}" for n in range(20)]
        check_invariants(sessions, blobs)

    def test_a_worker_can_stop_during_an_outage(
        self, settings: Settings, sessions: Sessions, postgres: Postgres, postgres_url: str
    ) -> None:
        job_id = submit(sessions, settings, {"1": [TRAINING, {"sleep": 60}], "*": HAPPY})
        with supervisor(settings, sessions) as made:
            wait_for(lambda: read_job(sessions, job_id).phase == "training", what="training")
            with postgres.outage(postgres_url):
                began = time.monotonic()
                made.stop()
                assert time.monotonic() - began < settings.stop_grace_seconds + 2
        with supervisor(settings, sessions):
            assert wait_status(sessions, job_id).status == "succeeded"


def test_the_queue_survives_a_restart_of_everything(settings: Settings, sessions: Sessions, tmp_path: Path) -> None:
    job_id = submit(sessions, settings, HAPPY)
    fresh = make_engine(settings.database)
    fresh.dispose()
    process = SupervisorProcess(settings, tmp_path)
    assert wait_status(sessions, job_id).status == "succeeded"
    assert process.end() == 0
    assert json.loads((settings.blob_root / "runs" / job_id / "a1" / "request.json").read_text())["attempt"] == 1
