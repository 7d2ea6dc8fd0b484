"""Two worker processes race for jobs that came in through the API: each job is run once."""

import sys
from pathlib import Path

from app.domain.db import Sessions, reading
from app.domain.models import Job, JobEvent
from app.domain.storage import BlobStore
from app.settings import Settings
from tests.fixtures.api import control_plane
from tests.fixtures.engine import SupervisorProcess, wait_for

JOBS = 200
CHILD = (sys.executable, "-S", "-c", "import sys; sys.stdin.readline(); sys.exit(78)")  # ends at once: the race is for claims


def test_two_workers_race_for_200_jobs(settings: Settings, sessions: Sessions, blobs: BlobStore, tmp_path: Path) -> None:
    with control_plane(settings, sessions) as api:
        training = api.rows()
        made = [api.job(training=training)["id"] for _ in range(JOBS)]
        workers = [SupervisorProcess(settings, tmp_path, CHILD, worker_slots=4) for _ in range(2)]
        try:
            wait_for(lambda: _ended(sessions) == JOBS, 120, "every job has ended")
        finally:
            ends = [worker.end() for worker in workers]
        shown = [api.client.get(f"/v1/distillation/jobs/{job_id}").json() for job_id in made]
    assert ends == [0, 0]
    assert {(job["status"], job["attempt"]) for job in shown} == {("failed", 1)}
    with reading(sessions) as session:
        taken = session.query(JobEvent).filter(JobEvent.type == "attempt").all()
    assert sorted(event.job_id for event in taken) == sorted(made)
    assert len({event.data["worker"] for event in taken}) == 2
    assert [path.name for job_id in made for path in (blobs.root / "runs" / job_id).iterdir()] == ["a1"] * JOBS


def _ended(sessions: Sessions) -> int:
    with reading(sessions) as session:
        return session.query(Job).filter(Job.finished_at.is_not(None)).count()
