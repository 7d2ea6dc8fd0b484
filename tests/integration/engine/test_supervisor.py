"""The supervisor with a scripted child: every way in which an attempt can end."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.domain import manifest
from app.domain.db import Sessions, reading, transaction
from app.domain.models import Alias, JobArtifact, ModelVersion, Worker
from app.domain.repositories.events import Events
from app.domain.repositories.jobs import Jobs
from app.domain.storage import BlobStore
from app.settings import Settings
from tests.conftest import PROJECT
from tests.fixtures.engine import HAPPY, submit, supervisor, wait_for, wait_status
from tests.fixtures.jobs import read_events, read_job

TRAINING: dict[str, Any] = {"say": {"event": "phase", "name": "training", "status": "in_progress"}}
LONG: list[dict[str, Any]] = [TRAINING, {"sleep": 60}, {"publish": {}}]
FAILED = {
    "event": "failed",
    "code": "label_missing",
    "message": "row 3",
    "param": "data.label",
    "hint": "fix",
    "phase": "preparing",
}


def children_of(settings: Settings) -> list[psutil.Process]:
    """Processes whose working directory lies in this test's run folders."""
    runs = str(settings.blob_root / "runs")
    alive = (p for p in psutil.process_iter(["cwd", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE)
    return [p for p in alive if (p.info["cwd"] or "").startswith(runs)]


def versions(sessions: Sessions) -> list[ModelVersion]:
    with reading(sessions) as session:
        return [*session.query(ModelVersion)]


def test_happy_path_publishes_once(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    job_id = submit(sessions, settings, HAPPY)
    with supervisor(settings, sessions):
        began = time.monotonic()
        job = wait_status(sessions, job_id)
        assert time.monotonic() - began < 5
    assert job.status == "succeeded", job.error
    report = {"metric": "accuracy", "student": {"quality": 0.9}}
    assert job.result == {"model": "tiny:1", "alias": "production", "report": report}
    assert job.progress["percent"] == 100.0
    assert (job.attempt, job.lease_owner, job.error) == (1, None, None)
    phases = {p["name"]: p for p in job.phases}
    assert (phases["preparing"]["status"], phases["training"]["percent"]) == ("completed", 50.0)
    assert job.created_at <= phases["preparing"]["started_at"] <= phases["preparing"]["finished_at"] <= job.finished_at  # type: ignore[operator]
    types = [e.type for e in read_events(sessions, job_id)]
    assert types == ["status", "attempt", "status", "phase", "phase", "phase", "progress", "checkpoint", "status", "end"]
    with reading(sessions) as session:
        assert [(m.step, m.values) for m in Events(session).metrics(job_id)] == [(5, {"train_loss": 0.5})]
        version = session.query(ModelVersion).one()
        assert (version.source_job_id, version.params, version.quality["metric"]) == (job_id, 3, "accuracy")
        assert session.query(Alias).one().version == 1
        artifacts = {a.name: a for a in session.query(JobArtifact)}
    assert set(artifacts) == {"report.json", "report.md", "model/config.json", "model/onnx/model.onnx"}
    for artifact in artifacts.values():
        path = blobs.path(artifact.blob)
        assert (path.stat().st_size, manifest.sha256_file(path)) == (artifact.bytes, artifact.sha256)
    manifest.verify(blobs.artifact(version.digest), version.digest)


def test_the_child_gets_a_minimal_environment_and_its_own_folder(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    os.environ["SECRET_OF_THE_OPERATOR"] = "x"
    job_id = submit(sessions, settings, {"1": [{"exit": 75}], "*": HAPPY})
    with supervisor(settings, sessions):
        wait_status(sessions, job_id)
    del os.environ["SECRET_OF_THE_OPERATOR"]
    workdir = blobs.run(job_id, 2)
    env = json.loads((workdir / "environment.json").read_text())
    assert not {"SECRET_OF_THE_OPERATOR", "DATABASE_URL", "REDIS_URL", "RETORT_PEPPER"} & set(env)
    assert (env["HF_HUB_OFFLINE"], env["PYTHONSAFEPATH"], env["HOME"]) == ("1", "1", str(workdir))
    request = json.loads((workdir / "request.json").read_text())
    assert request["previous"] == [str(blobs.run(job_id, 1))]
    assert request["attempt"] == 2
    assert Path(request["teacher_dir"]).name == "tiny"


@pytest.mark.parametrize(
    ("script", "code", "retryable"),
    [
        ([{"exit": 65}], "dataset_invalid", False),
        ([{"exit": 78}], "invalid_parameter", False),
        ([{"exit": 77}], "loss_diverged", False),
        ([{"exit": 79}], "disk_full", True),
        ([{"say": FAILED}, {"exit": 65}], "label_missing", False),
    ],
)
def test_final_exit_codes_fail_at_once(settings: Settings, sessions: Sessions, script: Any, code: str, retryable: bool) -> None:
    job_id = submit(sessions, settings, script)
    with supervisor(settings, sessions):
        job = wait_status(sessions, job_id)
    assert (job.status, job.attempt) == ("failed", 1)
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == (code, retryable)
    if code == "label_missing":
        assert {k: job.error[k] for k in ("message", "param", "hint", "phase")}.items() <= FAILED.items()
    assert read_events(sessions, job_id)[-1].data["error"]["code"] == code
    assert versions(sessions) == []


def test_a_child_that_always_dies_is_given_up(settings: Settings, sessions: Sessions) -> None:
    job_id = submit(sessions, settings, [{"kill": signal.SIGSEGV}], max_attempts=2)
    after = submit(sessions, settings, HAPPY)
    with supervisor(settings, sessions):
        job = wait_status(sessions, job_id)
        assert wait_status(sessions, after).status == "succeeded"
    assert (job.status, job.attempt) == ("failed", 2)
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert "SIGSEGV" in job.error["message"]
    assert sum(e.type == "attempt" and "reason" in e.data for e in read_events(sessions, job_id)) == 1


def test_a_bug_is_retried_and_its_last_words_are_kept(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    job_id = submit(sessions, settings, [{"print": "Traceback\nZeroDivisionError: nought"}, {"exit": 70}], max_attempts=2)
    with supervisor(settings, sessions):
        job = wait_status(sessions, job_id)
    assert job.error is not None
    assert (job.attempt, job.error["code"]) == (2, "internal_error")
    assert "ZeroDivisionError: nought" in job.error["message"]
    assert "ZeroDivisionError" in (blobs.run(job_id, 1) / "child.log").read_text()


def test_kill_dash_nine_of_the_child_is_retried(settings: Settings, sessions: Sessions) -> None:
    job_id = submit(sessions, settings, {"1": LONG, "*": HAPPY})
    with supervisor(settings, sessions):
        wait_for(lambda: read_job(sessions, job_id).phase == "training", what="training")
        for child in children_of(settings):
            child.kill()
        job = wait_status(sessions, job_id)
    assert (job.status, job.attempt, job.interruptions) == ("succeeded", 2, 0)
    assert len(versions(sessions)) == 1


def test_out_of_memory_halves_the_micro_batch_three_times(settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
    job_id = submit(sessions, settings, [{"exit": 76}], max_attempts=1)
    with supervisor(settings, sessions):
        job = wait_status(sessions, job_id)
    assert (job.status, job.attempt) == ("failed", 4)
    assert job.error is not None
    assert job.error["code"] == "out_of_memory"
    assert "1/8" in job.error["hint"]
    divisors = [json.loads((blobs.run(job_id, n) / "request.json").read_text())["micro_batch_divisor"] for n in (1, 2, 3, 4)]
    assert divisors == [1, 2, 4, 8]


def test_exit_zero_without_a_result_and_a_corrupt_package_publish_nothing(settings: Settings, sessions: Sessions) -> None:
    empty = submit(sessions, settings, [], max_attempts=1)
    corrupt = submit(sessions, settings, [{"publish": {"corrupt": True}}], max_attempts=1)
    outside = submit(sessions, settings, [{"publish": {"done": {"model_dir": "../../.."}}}], max_attempts=1)
    with supervisor(settings, sessions):
        codes = [(wait_status(sessions, i).error or {})["code"] for i in (empty, corrupt, outside)]
    assert codes[:2] == ["internal_error", "artifact_corrupt"]
    assert codes[2] in ("internal_error", "artifact_corrupt", "invalid_parameter")
    assert versions(sessions) == []


def test_malformed_and_endless_events_do_no_harm(settings: Settings, sessions: Sessions) -> None:
    noise = [
        {"raw": "this is no JSON"},
        {"raw": '{"event": "unknown"}'},
        {"raw": '{"event": "progress", "percent": "much"}'},
        {"raw": "\xff\xfe\x01"},
        {"raw": "x" * (3 * 2**20)},
        {"raw": '{"event": "metrics", "stage": "s", "step": 1, "values": {"loss": NaN}}'},
        {"raw": '{"event": "metrics", "stage": "s", "step": 99999999999999999999, "values": {}}'},
        {"raw": '{"event": "log", "message": "nul \\u0000 here"}'},
        {"flood": 6000},
    ]
    job_id = submit(sessions, settings, [*noise, *HAPPY])
    with supervisor(settings, sessions):
        job = wait_status(sessions, job_id)
    assert job.status == "succeeded", job.error
    events = read_events(sessions, job_id)
    logs = [e.message for e in events if e.type == "log"]
    assert sum("malformed" in m for m in logs) == 5
    assert any("nul \ufffd here" in m for m in logs)
    assert len(logs) < 2020
    with reading(sessions) as session:
        assert {"loss": None} in [m.values for m in Events(session).metrics(job_id)]


def test_cancel_while_running(settings: Settings, sessions: Sessions) -> None:
    job_id = submit(sessions, settings, LONG)
    with supervisor(settings, sessions):
        wait_for(lambda: read_job(sessions, job_id).phase == "training", what="training")
        with transaction(sessions) as session:
            assert Jobs(session, PROJECT).request_cancel(job_id).status == "cancelling"
        began = time.monotonic()
        job = wait_status(sessions, job_id)
        assert time.monotonic() - began < 3
        assert children_of(settings) == []
    assert (job.status, job.error, job.result) == ("cancelled", None, None)


def test_cancel_of_a_deaf_child_and_its_offspring_is_forced(settings: Settings, sessions: Sessions) -> None:
    job_id = submit(sessions, settings, [{"deaf": True}, {"orphan": 120}, TRAINING, {"sleep": 120}])
    with supervisor(settings, sessions):
        wait_for(lambda: read_job(sessions, job_id).phase == "training", what="training")
        assert len(children_of(settings)) == 2
        with transaction(sessions) as session:
            Jobs(session, PROJECT).request_cancel(job_id)
        assert wait_status(sessions, job_id, seconds=15).status == "cancelled"
        assert children_of(settings) == []


def test_pause_and_resume(settings: Settings, sessions: Sessions) -> None:
    job_id = submit(sessions, settings, {"1": LONG, "*": HAPPY}, max_attempts=1)
    with supervisor(settings, sessions):
        wait_for(lambda: read_job(sessions, job_id).phase == "training", what="training")
        with transaction(sessions) as session:
            Jobs(session, PROJECT).request_pause(job_id)
        paused = wait_status(sessions, job_id, "paused")
        assert "checkpoint" in [e.type for e in read_events(sessions, job_id)]
        assert paused.lease_owner is None
        with transaction(sessions) as session:
            Jobs(session, PROJECT).resume(job_id)
        job = wait_status(sessions, job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)


def test_the_time_budget_ends_a_job_and_resume_gives_a_new_one(settings: Settings, sessions: Sessions) -> None:
    job_id = submit(sessions, settings, {"1": LONG, "*": HAPPY}, spec={"budget": {"max_wall_seconds": 1.0}})
    with supervisor(settings, sessions):
        job = wait_status(sessions, job_id)
        assert job.error is not None
        assert (job.status, job.error["code"], job.error["retryable"]) == ("failed", "timed_out", True)
        assert job.usage["wall_seconds"] >= 1.0
        with transaction(sessions) as session:
            Jobs(session, PROJECT).resume(job_id)
        assert wait_status(sessions, job_id).status == "succeeded"


def test_a_missing_or_refused_teacher_fails_with_its_field(settings: Settings, sessions: Sessions) -> None:
    assert settings.models_dir is not None
    evil = settings.models_dir / "evil"
    evil.mkdir()
    (evil / "pytorch_model.bin").write_bytes(b"\x80\x04")
    codes = {}
    with supervisor(settings, sessions):
        for model in ("gone", "evil", "../up", ".hidden"):
            inputs = {"files": {}, "teacher": {"source": "local", "model": model, "ref": model}, "student": None}
            job = wait_status(sessions, submit(sessions, settings, HAPPY, inputs=inputs))
            assert job.error is not None
            codes[model] = (job.status, job.error["code"])
    assert codes.pop("gone") == ("failed", "model_not_found")
    assert set(codes.values()) == {("failed", "model_not_allowed")}


def test_worker_row_lives_with_the_worker(settings: Settings, sessions: Sessions) -> None:
    with supervisor(settings, sessions) as made:

        def row() -> Worker | None:
            with reading(sessions) as session:
                return session.get(Worker, made.id)

        first = wait_for(row, what="the worker's row")
        wait_for(lambda: row().seen_at > first.seen_at, what="its heartbeat")  # type: ignore[union-attr]
    assert row() is None


def test_stopping_worker_hands_its_jobs_over_at_no_cost(settings: Settings, sessions: Sessions) -> None:
    job_id = submit(sessions, settings, {"1": LONG, "*": HAPPY}, max_attempts=1)
    with supervisor(settings, sessions):
        wait_for(lambda: read_job(sessions, job_id).phase == "training", what="training")
    job = read_job(sessions, job_id)
    assert (job.status, job.status_reason, job.attempt, job.interruptions) == ("queued", "worker_stopping", 1, 1)
    with supervisor(settings, sessions):
        job = wait_status(sessions, job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)


def test_stopping_worker_does_not_wait_for_a_deaf_child(settings: Settings, sessions: Sessions) -> None:
    job_id = submit(sessions, settings, [{"deaf": True}, TRAINING, {"sleep": 120}], max_attempts=1)
    with supervisor(settings, sessions):
        wait_for(lambda: read_job(sessions, job_id).phase == "training", what="training")
        began = time.monotonic()
    assert time.monotonic() - began < settings.stop_grace_seconds + 1
    job = read_job(sessions, job_id)
    assert (job.status, job.interruptions) == ("queued", 1)
    assert children_of(settings) == []
