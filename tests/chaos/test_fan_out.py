"""A search on several workers: whoever trains a trial, and whoever dies meanwhile, it finds the same student, byte for byte."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.test_same_student import CHILD_SECONDS, Installation
from tests.e2e.conftest import prepare, small_spec
from tests.fixtures.cluster import Cluster, running
from tests.fixtures.engine import wait_for
from tests.fixtures.jobs import read_events
from worker.run.protocol import ENDED, HELPERS, RUNG

RESPONSE = {"name": "output", "objectives": [{"type": "response", "temperature": 2.0}], "learning_rate": 2e-3, "batch_size": 16}
STAGES = [{**RESPONSE, "epochs": 8}]
TRAINED = f"{HELPERS}/*/trials/*/quality/MANIFEST.json"
TARGET = {"min_retention": 0.2, "max_size_ratio": 0.9, "layers": [1], "hidden_sizes": [8, 16, 24], "trials": 3, "serve_best": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Installation:
    return Installation(tmp_path_factory.mktemp("fan-out"), sqlite_template)


def search(place: Installation) -> str:
    return place.submit(afresh=False, target=TARGET, stages=STAGES, quantization={"scheme": "int8_dynamic"})


def qualities(place: Installation, job_id: str) -> dict[str, Any]:
    """What is known of each trial but for the speeds, which are measured anew in every job."""
    told = json.loads((place.blobs.run(job_id, 1) / "search" / "trials.json").read_text())["trials"]
    return {t["name"]: {k: t[k] for k in ("bytes", "quality", "retention", "share", "chosen")} for t in told}


@pytest.fixture(scope="module")
def alone(place: Installation) -> tuple[str, dict[str, Any]]:
    """Digest and trials with one worker."""
    job_id = search(place)
    worker = place.supervisor()
    try:
        digest = place.digest(job_id, attempts=1)
    finally:
        assert worker.end() == 0
    assert not (place.blobs.run(job_id, 1) / HELPERS).exists()
    return digest, qualities(place, job_id)


def child_of(place: Installation, workdir: Path) -> psutil.Process:
    (process,) = [p for p in place.children() if Path(p.cwd()) == workdir]
    return process


def died(workdir: Path) -> list[Path]:
    """Folders of helpers that are gone and finished no trial."""
    return [p.parent for p in workdir.glob(f"{HELPERS}/*/{ENDED}") if not [*p.parent.glob("trials/*/quality/MANIFEST.json")]]


def test_helpers_train_and_die_and_the_student_is_the_same(place: Installation, alone: tuple[str, dict[str, Any]]) -> None:
    """The search's child is held while one helper is killed in the middle of a trial and another finishes one."""
    job_id = search(place)
    workdir = place.blobs.run(job_id, 1)
    workers = [place.supervisor()]
    try:
        wait_for((workdir / RUNG).exists, CHILD_SECONDS, "the first rung opens")
        held = child_of(place, workdir)
        held.send_signal(signal.SIGSTOP)
        workers.append(place.supervisor(fault="train.step:7"))  # SIGKILL, after a checkpoint at step 5
        workers.append(place.supervisor())
        wait_for(lambda: [*workdir.glob(TRAINED)], CHILD_SECONDS, "one helper trains a trial")
        (dead,) = wait_for(lambda: died(workdir), CHILD_SECONDS, "the other dies in the middle of one")
        (lost,) = dead.glob("trials/*")
        assert [p.name for p in lost.glob("checkpoints/output/step-*")] == ["step-000005"]
        held.send_signal(signal.SIGCONT)
        assert place.digest(job_id, attempts=1) == alone[0]
    finally:
        for worker in workers:
            assert worker.end() == 0
    assert qualities(place, job_id) == alone[1]
    assert sum("helps with the trials" in e.message for e in read_events(place.sessions, job_id)) >= 2
    assert (workdir / "trials" / lost.name / "quality").exists()
    assert not (workdir / "trials" / lost.name / ".making").exists(), "it went on with what the dead one had made"
    finished = {p.parents[1].name for p in workdir.glob(TRAINED)}
    assert finished
    assert not any((workdir / "trials" / name / "student").exists() for name in finished), "trained once"


@pytest.mark.slow
def test_a_search_whose_worker_is_lost_goes_on_with_what_helpers_made(
    place: Installation, alone: tuple[str, dict[str, Any]]
) -> None:
    job_id = search(place)
    workdir = place.blobs.run(job_id, 1)
    first = place.supervisor()
    wait_for((workdir / RUNG).exists, CHILD_SECONDS, "the first rung opens")
    child_of(place, workdir).send_signal(signal.SIGSTOP)
    other = place.supervisor()
    try:
        wait_for(lambda: [*workdir.glob(TRAINED)], CHILD_SECONDS, "a helper trains a trial")
        first.kill()
        assert place.digest(job_id, attempts=2) == alone[0]
    finally:
        assert other.end() == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers_of_retort_up_share_a_search(tmp_path: Path) -> None:
    """The whole way: API, Celery's hint through the embedded Redis, a second worker process."""
    cluster = Cluster.embedded(tmp_path)
    cluster.commands["up"] += ["--workers", "2"]
    with running(cluster) as up:
        training, test = prepare(up)
        spec = small_spec(
            training, test, epochs=60, target=TARGET, student={"init": "teacher_layers"}, evaluation={"baseline": False}
        )
        job_id = up.submit(spec)["id"]
        workdir = tmp_path / "data" / "blobs" / "runs" / job_id / "a1"
        wait_for((workdir / RUNG).exists, CHILD_SECONDS, "the first rung opens")
        (held,) = [p for p in up.run_children() if p.cwd() == str(workdir)]
        held.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        wait_for(lambda: [*workdir.glob(TRAINED)], CHILD_SECONDS, "the other worker helps")
        held.send_signal(signal.SIGCONT)
        done = up.wait(job_id, seconds=200)
        assert done["status"] == "succeeded", (done["error"], time.monotonic() - began)
        assert "retort.trial" in "".join(p.read_text() for p in (tmp_path / "data" / "logs").glob("worker*.log"))
