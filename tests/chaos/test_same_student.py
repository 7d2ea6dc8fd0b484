"""The real child on a tiny model: whatever is killed, and whenever, the student is the same, byte for byte."""

import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.domain import ids, manifest
from app.domain.db import Sessions, make_engine, make_sessions, reading, transaction
from app.domain.models import ModelVersion, Project
from app.domain.spec import JobSpec, config_hash
from app.domain.storage import BlobStore
from app.settings import Settings
from tests.conftest import PROJECT
from tests.fixtures.engine import SupervisorProcess, wait_for, wait_status
from tests.fixtures.jobs import add_job, read_events, read_job
from tests.fixtures.servers import sqlite_database
from tests.fixtures.tiny import make_rows, make_tiny_teacher
from worker.run.faults import Failpoint
from worker.surroundings import RUN_COMMAND

CHILD_SECONDS = 120.0


class Installation:
    """A database, a blob store with two data files, a local teacher; supervisors are started by the tests."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        self.settings = Settings(
            data_dir=folder / "data",
            database_url=sqlite_database(folder, template),
            redis_url="redis://127.0.0.1:1/0",
            blob_url=str(folder / "blobs"),
            models_dir=folder / "models",
            lease_seconds=3.0,
            heartbeat_seconds=0.5,
            poll_seconds=0.5,
            checkpoint_steps=5,
            threads=1,
        )
        self.sessions: Sessions = make_sessions(make_engine(self.settings.database))
        self.blobs = BlobStore(self.settings.blob_root)
        with transaction(self.sessions) as session:
            session.add(Project(id=PROJECT, name="chaos", created_at=0.0))
        make_tiny_teacher(folder / "models" / "tiny-teacher")
        self.files = {role: self._file(role, rows, seed) for role, rows, seed in (("training", 120, 1), ("test", 40, 2))}

    def _file(self, role: str, rows: int, seed: int) -> dict[str, Any]:
        file_id = ids.new_id(ids.FILE)
        make_rows(self.blobs.file(file_id), rows, seed=seed)
        return {"id": file_id, "format": "jsonl", "sha256": manifest.sha256_file(self.blobs.file(file_id)), "rows": rows}

    def submit(self, *, afresh: bool = True, **changes: Any) -> str:
        """`afresh`: the teacher is fitted and asked again."""
        objectives = [{"type": "response", "temperature": 2.0, "weight": 0.7}, {"type": "hard_label", "weight": 0.3}]
        stage = {"name": "output", "objectives": objectives, "epochs": 60, "learning_rate": 2e-3, "batch_size": 16}
        spec = JobSpec.model_validate(
            {
                "name": "chaos",
                "task": "text-classification",
                "seed": 3,
                "teacher": {"source": "local", "model": "tiny-teacher", "finetune": {"epochs": 1, "learning_rate": 2e-3}},
                "student": {"init": "teacher_layers", "layers": 1, "hidden_size": 16, "intermediate_size": 32},
                "data": {"training_file": self.files["training"]["id"], "test_file": self.files["test"]["id"], "max_length": 24},
                "stages": [stage],
                "evaluation": {"baseline": False},
                **changes,
            }
        ).resolved()
        teacher = {"source": "local", "ref": "tiny-teacher", "model": "tiny-teacher", "digest": None, "revision": None}
        inputs = {"files": self.files, "teacher": teacher, "student": None}
        if afresh:
            shutil.rmtree(self.blobs.root / "cache")
            (self.blobs.root / "cache").mkdir()
        name = ids.new_id("m").lower()
        return add_job(self.sessions, spec=spec, config_hash=config_hash(spec), inputs=inputs, model_name=name)

    def supervisor(self, **changes: Any) -> SupervisorProcess:
        return SupervisorProcess(self.settings, self.folder, RUN_COMMAND, **changes)

    def digest(self, job_id: str, attempts: int) -> str:
        job = wait_status(self.sessions, job_id, seconds=CHILD_SECONDS)
        assert job.status == "succeeded", (job.error, self._log(job_id, job.attempt))
        assert job.attempt == attempts
        read_events(self.sessions, job_id)
        with reading(self.sessions) as session:
            version = session.query(ModelVersion).filter(ModelVersion.source_job_id == job_id).one()
        manifest.verify(self.blobs.artifact(version.digest), version.digest)
        return version.digest

    def _log(self, job_id: str, attempt: int) -> str:
        return (self.blobs.run(job_id, attempt) / "child.log").read_text()[-3000:]

    def step(self, job_id: str) -> int:
        job = read_job(self.sessions, job_id)
        assert job.status in ("queued", "running"), (job.status, job.error, self._log(job_id, job.attempt))
        return int(job.progress.get("step", 0)) if job.phase == "training" else 0

    def children(self) -> list[psutil.Process]:
        runs = str(self.blobs.root / "runs")
        alive = (p for p in psutil.process_iter(["cwd", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE)
        return [p for p in alive if (p.info["cwd"] or "").startswith(runs)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Installation:
    return Installation(tmp_path_factory.mktemp("chaos"), sqlite_template)


@pytest.fixture(scope="module")
def undisturbed(place: Installation) -> str:
    job_id = place.submit()
    worker = place.supervisor()
    try:
        return place.digest(job_id, attempts=1)
    finally:
        assert worker.end() == 0


def _fault(point: Failpoint) -> Any:
    """A new failpoint is tested from the moment it exists; one of them in every run of the tests, the others when asked for."""
    if point is Failpoint.TRAIN_STEP:
        return pytest.param(f"{point}:7")
    return pytest.param(f"{point}:1", marks=pytest.mark.slow)


@pytest.mark.parametrize("fault", [_fault(point) for point in Failpoint])
def test_child_killed_at_each_failpoint(place: Installation, undisturbed: str, fault: str) -> None:
    job_id = place.submit()
    worker = place.supervisor(fault=fault)
    try:
        assert place.digest(job_id, attempts=2) == undisturbed
    finally:
        assert worker.end() == 0


@pytest.mark.slow
def test_supervisor_killed_while_training(place: Installation, undisturbed: str) -> None:
    job_id = place.submit()
    place_one = place.supervisor()
    wait_for(lambda: place.step(job_id) >= 6, CHILD_SECONDS, "training")
    place_one.kill()
    wait_for(lambda: not place.children(), 3.0, "the child notices within three seconds")
    worker = place.supervisor()
    try:
        assert place.digest(job_id, attempts=2) == undisturbed
    finally:
        assert worker.end() == 0


def test_deploy_while_training_costs_no_attempt(place: Installation, undisturbed: str) -> None:
    job_id = place.submit(compute={"max_attempts": 1})
    first = place.supervisor()
    wait_for(lambda: place.step(job_id) >= 6, CHILD_SECONDS, "training")
    first.signal(signal.SIGTERM)
    assert first.end() == 0
    job = read_job(place.sessions, job_id)
    assert (job.status, job.attempt, job.interruptions) == ("queued", 1, 1)
    worker = place.supervisor()
    try:
        assert place.digest(job_id, attempts=2) == undisturbed
    finally:
        assert worker.end() == 0
