"""Celery and Redis as a doorbell: rung when they are there, not missed when they are not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.domain.db import Sessions, reading, transaction
from app.domain.models import Outbox, Worker
from app.domain.repositories.outbox import OutboxRepository
from app.settings import Settings
from tests.fixtures.engine import HAPPY, submit, supervisor, wait_for, wait_status
from tests.fixtures.jobs import add_job, read_job
from tests.fixtures.servers import RedisServer
from worker.outbox import relay

ROOT = Path(__file__).parents[3]


def unsent(sessions: Sessions) -> list[str]:
    with reading(sessions) as session:
        return [h.task for h in OutboxRepository(session).unsent(1000)]


class TestRelay:
    def test_sends_once_and_forgets_later(self, sessions: Sessions) -> None:
        add_job(sessions)
        sent: list[tuple[str, Sequence[str]]] = []
        assert relay(sessions, lambda task, args: sent.append((task, args))) == 1
        assert relay(sessions, lambda task, args: sent.append((task, args))) == 0
        assert sent == [("retort.wake", [])]
        with transaction(sessions) as session:
            assert OutboxRepository(session).sweep(3600) == 0
            assert OutboxRepository(session).sweep(-1) == 1
            assert session.query(Outbox).count() == 0

    def test_what_could_not_be_sent_stays(self, sessions: Sessions) -> None:
        for _ in range(3):
            add_job(sessions)
        sent = []

        def flaky(task: str, args: Sequence[str]) -> None:
            if sent:
                raise ConnectionError("the broker went away")
            sent.append(task)

        with pytest.raises(ConnectionError):
            relay(sessions, flaky)
        assert len(unsent(sessions)) == 2

    def test_a_hanging_broker_holds_nothing_up(self, settings: Settings, sessions: Sessions) -> None:
        def hang(task: str, args: Sequence[str]) -> None:
            time.sleep(3600)

        job_id = submit(sessions, settings, HAPPY)
        with supervisor(settings, sessions, send=hang):
            assert wait_status(sessions, job_id).status == "succeeded"
            assert unsent(sessions) == ["retort.wake"]


@contextmanager
def celery_worker(settings: Settings, redis_url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "-P", "threads", "-c", "1", "-Q", "gpu,chores"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "info"]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": settings.database,
        "REDIS_URL": redis_url,
        "BLOB_URL": str(settings.blob_root),
        "RETORT_MODELS_DIR": str(settings.models_dir),
        "RETORT_POLL_SECONDS": "30",
        "RETORT_LEASE_SECONDS": "2",
        "RETORT_HEARTBEAT_SECONDS": "0.4",
    }
    with (folder / "celery.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def ends_in(process: subprocess.Popen[bytes], seconds: float, folder: Path) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"still there after {seconds} s\n{(folder / 'celery.log').read_text()[-3000:]}") from None


class TestCelery:
    """The worker process as it is deployed. Its child gets a spec that it refuses, which is enough to see it claimed."""

    @pytest.fixture
    def database_url(self, sqlite_url: str) -> str:
        return sqlite_url

    def _up(self, sessions: Sessions, folder: Path) -> None:
        def there() -> bool:
            with reading(sessions) as session:
                return session.query(Worker).count() == 1

        try:
            wait_for(there, 30)
        except AssertionError:
            raise AssertionError((folder / "celery.log").read_text()[-3000:]) from None

    def _claimed_within(self, sessions: Sessions, settings: Settings, seconds: float) -> None:
        job_id = submit(sessions, settings, [], max_attempts=1)
        wait_for(lambda: read_job(sessions, job_id).attempt == 1, seconds, "claimed")

    def test_starts_jobs_at_once_and_stops_in_time(
        self, settings: Settings, sessions: Sessions, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        with celery_worker(settings, redis_server.url, tmp_path) as process:
            self._up(sessions, tmp_path)
            self._claimed_within(sessions, settings, 1.5)
            wait_for(lambda: unsent(sessions) == [], 10, "the hint is sent")
            redis_server.flush()
            self._claimed_within(sessions, settings, 1.5)
            redis_server.stop()
            self._claimed_within(sessions, settings, 1.5)
            redis_server.start()
            wait_for(lambda: unsent(sessions) == [], 20, "hints go out again")
            self._claimed_within(sessions, settings, 1.5)
            ends_in(process, 15, tmp_path)
        with reading(sessions) as session:
            assert session.query(Worker).count() == 0

    def test_works_and_stops_without_a_broker(self, settings: Settings, sessions: Sessions, tmp_path: Path) -> None:
        with celery_worker(settings, "redis://127.0.0.1:1/0", tmp_path) as process:
            self._up(sessions, tmp_path)
            self._claimed_within(sessions, settings, 1.5)
            ends_in(process, 15, tmp_path)
