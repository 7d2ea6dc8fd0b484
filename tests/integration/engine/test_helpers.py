"""A slot lent to another worker's search, with a scripted child: when it comes, and everything that ends it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.domain.db import Sessions, transaction
from app.domain.repositories.jobs import Jobs
from app.domain.storage import BlobStore
from app.settings import Settings
from tests.conftest import PROJECT
from tests.fixtures.engine import HAPPY, SupervisorProcess, submit, supervisor, wait_for, wait_status
from tests.fixtures.jobs import read_events, read_job
from worker.run.protocol import ENDED, HELPERS, RUNG

TRAINING: dict[str, Any] = {"say": {"event": "phase", "name": "training", "status": "in_progress"}}
SEARCH: list[dict[str, Any]] = [TRAINING, {"say": {"event": "trials", "count": 1}}, {"sleep": 60}]


class Search:
    """A job that calls one helper. Scripted children write no rung, so the test does."""

    def __init__(self, sessions: Sessions, settings: Settings, blobs: BlobStore, script: Any = SEARCH) -> None:
        self.sessions = sessions
        self.id = submit(sessions, settings, script)
        self.workdir = blobs.run(self.id, 1)
        (self.workdir / RUNG).parent.mkdir(parents=True)
        (self.workdir / RUNG).write_text("{}")

    def helper(self) -> Path:
        """The folder of its only helper, whose child is there."""
        seen: list[Path] = wait_for(lambda: [*self.workdir.glob(f"{HELPERS}/*/request.json")], what="a helper")
        (request,) = seen
        return request.parent

    def processes(self, folder: Path) -> list[psutil.Process]:
        alive = (p for p in psutil.process_iter(["cwd", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE)
        return [p for p in alive if p.info["cwd"] == str(folder)]

    def gone(self, folder: Path) -> bool:
        return (folder / ENDED).exists() and not self.processes(folder)

    def change(self, what: Callable[[Jobs], Any]) -> None:
        with transaction(self.sessions) as session:
            what(Jobs(session, PROJECT))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def search(sessions: Sessions, settings: Settings, blobs: BlobStore) -> Search:
    return Search(sessions, settings, blobs)


@pytest.fixture
def two(sessions: Sessions, settings: Settings, search: Search) -> Iterator[Search]:
    """The search on one worker, a helper on the other."""
    with supervisor(settings, sessions), supervisor(settings, sessions):
        yield search
        if read_job(sessions, search.id).status == "running":
            search.change(lambda jobs: jobs.request_cancel(search.id))


def test_a_helper_gets_a_request_of_its_own_in_a_folder_of_its_own(two: Search) -> None:
    folder = two.helper()
    asked, own = (json.loads((f / "request.json").read_text()) for f in (folder, two.workdir))
    assert (asked["helps"], asked["workdir"]) == (str(two.workdir), str(folder))
    assert {k: v for k, v in asked.items() if k not in ("helps", "workdir")} == {
        k: v for k, v in own.items() if k not in ("helps", "workdir")
    }
    assert json.loads((folder / "environment.json").read_text())["HOME"] == str(folder)
    assert [e.message for e in read_events(two.sessions, two.id) if "helps with" in e.message]
    time.sleep(0.8)
    assert len([*two.workdir.glob(f"{HELPERS}/*")]) == 1, "one was called"


@pytest.mark.parametrize("end", ["request_cancel", "request_pause"])
def test_a_helper_ends_with_its_search(two: Search, end: str) -> None:
    folder = two.helper()
    two.change(lambda jobs: getattr(jobs, end)(two.id))
    wait_for(lambda: two.gone(folder), 5.0, "the helper ends")
    wait_status(two.sessions, two.id, "cancelled", "paused")


def test_a_helper_killed_ends_nothing_else_and_another_worker_may_come(two: Search, settings: Settings) -> None:
    folder = two.helper()
    for process in two.processes(folder):
        process.kill()
    wait_for(lambda: two.gone(folder), 5.0, "said to be gone")
    wait_for(lambda: read_job(two.sessions, two.id).helpers_wanted == 1, what="the place is given back")
    time.sleep(1.2)
    job = read_job(two.sessions, two.id)
    assert (job.status, job.attempt, job.helpers_wanted) == ("running", 1, 1), "who failed does not come again"
    with supervisor(settings, two.sessions):
        wait_for(lambda: len([*two.workdir.glob(f"{HELPERS}/*/request.json")]) == 2, what="a second helper")


def test_a_helper_gives_way_to_a_job(two: Search, settings: Settings) -> None:
    folder = two.helper()
    waiting = submit(two.sessions, settings, HAPPY)
    assert wait_status(two.sessions, waiting, seconds=10).status == "succeeded"
    assert two.gone(folder)
    assert read_job(two.sessions, two.id).status == "running"


def test_a_job_comes_before_a_search(sessions: Sessions, settings: Settings, search: Search) -> None:
    with supervisor(settings, sessions):
        wait_for(lambda: read_job(sessions, search.id).helpers_wanted, what="the search calls")
        waiting = submit(sessions, settings, HAPPY)
        with supervisor(settings, sessions):
            job = wait_status(sessions, waiting)
            assert (job.status, job.started_at is not None) == ("succeeded", True)
            search.helper()
        (joined,) = [e.created_at for e in read_events(sessions, search.id) if "helps with" in e.message]
        assert joined > (job.started_at or joined)
        search.change(lambda jobs: jobs.request_cancel(search.id))


def test_a_worker_helps_itself_in_a_second_slot(sessions: Sessions, settings: Settings, search: Search) -> None:
    with supervisor(settings.model_copy(update={"worker_slots": 2}), sessions):
        assert search.helper().is_relative_to(search.workdir)
        search.change(lambda jobs: jobs.request_cancel(search.id))


def test_one_slot_alone_helps_nobody(sessions: Sessions, settings: Settings, blobs: BlobStore) -> None:
    search = Search(sessions, settings, blobs, [TRAINING, {"say": {"event": "trials", "count": 3}}, {"sleep": 1}, *HAPPY])
    with supervisor(settings, sessions):
        assert wait_status(sessions, search.id).status == "succeeded"
    assert not [*search.workdir.glob(f"{HELPERS}/*")]


def test_without_the_same_blob_store_there_is_no_help(
    sessions: Sessions, settings: Settings, search: Search, tmp_path: Path
) -> None:
    elsewhere = settings.model_copy(update={"blob_url": str(tmp_path / "elsewhere")})
    with supervisor(settings, sessions):
        wait_for(lambda: read_job(sessions, search.id).helpers_wanted, what="the search calls")
        stranger = SupervisorProcess(elsewhere, tmp_path)
        try:
            wait_for(lambda: "not in this blob store" in stranger.log.read_text(), what="said so")
            wait_for(lambda: read_job(sessions, search.id).helpers_wanted == 1, what="the place is given back")
            time.sleep(1.2)
            assert stranger.log.read_text().count("not in this blob store") == 1
            assert not [*search.workdir.glob(f"{HELPERS}/*")]
            assert read_job(sessions, search.id).status == "running"
        finally:
            assert stranger.end() == 0
        search.change(lambda jobs: jobs.request_cancel(search.id))


@pytest.mark.slow
def test_the_helper_of_a_lost_worker_stops(sessions: Sessions, settings: Settings, search: Search, tmp_path: Path) -> None:
    """The search's own worker dies: its attempt is over, and so is all help with it."""
    first = SupervisorProcess(settings, tmp_path)
    wait_for(lambda: read_job(sessions, search.id).helpers_wanted, what="the search calls")
    with supervisor(settings, sessions):
        folder = search.helper()
        first.kill()
        wait_for(lambda: search.gone(folder), 10.0, "the helper ends with the lease")
        wait_for(lambda: read_job(sessions, search.id).attempt == 2, what="taken up again")
        search.change(lambda jobs: jobs.request_cancel(search.id))
