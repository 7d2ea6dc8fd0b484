"""The sweep removes what nothing names any more, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from app.domain.db import Sessions, transaction
from app.domain.repositories.jobs import Jobs
from app.domain.storage import BlobStore
from app.settings import Settings
from tests.conftest import PROJECT
from tests.fixtures.engine import HAPPY, submit, supervisor, wait_status
from tests.fixtures.jobs import add_job
from worker.reconciler import sweep


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def listing(blobs: BlobStore) -> set[str]:
    return {f"{kind}/{p.name}" for kind in ("runs", "reports", "artifacts", "tmp") for p in (blobs.root / kind).iterdir()}


def test_sweep(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    done = submit(sessions, settings, HAPPY)
    failed = submit(sessions, settings, [{"exit": 65}])
    with supervisor(settings, sessions):
        assert wait_status(sessions, done).status == "succeeded"
        wait_status(sessions, failed)
    waiting = add_job(sessions, inputs={"files": {}, "teacher": {"digest": "d" * 64}, "student": None})
    used, unused = f"artifacts/{'d' * 64}", f"artifacts/{'e' * 64}"
    for name in (f"runs/{waiting}", "runs/djob_GONE", "reports/djob_GONE", used, unused, "tmp/left"):
        (blobs.root / name).mkdir()
        age(blobs.root / name, 7200)
    (artifact,) = [p for p in (blobs.root / "artifacts").iterdir() if p.name[0] + p.name[-1] not in ("dd", "ee")]
    age(artifact, 7200)
    before = listing(blobs)
    removed = sweep(sessions, blobs, 3600)
    assert set(removed) == {"runs/djob_GONE", "reports/djob_GONE", unused, "tmp/left"}
    assert listing(blobs) == before - set(removed)

    assert set(sweep(sessions, blobs, 0.0)) == {f"runs/{done}", f"runs/{failed}"}, "work folders of ended jobs"
    with transaction(sessions) as session:
        Jobs(session, PROJECT).delete(done)
    assert sweep(sessions, blobs, 0.0) == [f"reports/{done}"], "its model stays: the registry names it"
    assert artifact.exists()
    assert sweep(sessions, blobs, 0.0) == []


def test_an_artifact_that_is_stored_again_counts_as_new(blobs: BlobStore, sessions: Sessions, tmp_path: Path) -> None:
    from app.domain import manifest

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    manifest.write(folder)
    digest = blobs.put_artifact(folder)
    age(blobs.artifact(digest), 7200)
    blobs.put_artifact(folder)
    assert sweep(sessions, blobs, 3600) == []
    age(blobs.artifact(digest), 7200)
    assert sweep(sessions, blobs, 3600) == [f"artifacts/{digest}"]
