"""`retort up` as a person meets it: its first words, its refusals, and that it leaves nothing behind."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.fixtures.cluster import Cluster, running, wait_for


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running(Cluster.embedded(tmp_path)) as up:
        yield up


def _retort(cluster: Cluster, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(command, cwd=cluster.folder, env={**cluster.env, **env}, capture_output=True, text=True, timeout=60)


def _alive(family: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_sigkill_leaves_no_process_behind(cluster: Cluster) -> None:
    up = psutil.Process(cluster.processes["up"].pid)
    wait_for(lambda: len(up.children(recursive=True)) >= 4, 20, "redis, worker and their guards")
    family = up.children(recursive=True)
    cluster.kill("up", signal.SIGKILL)
    wait_for(lambda: not _alive(family), 30, "all children gone")
    cluster.start()  # neither lock nor address is left behind


def test_a_killed_worker_is_brought_back(cluster: Cluster) -> None:
    def celery() -> psutil.Process | None:
        family = psutil.Process(cluster.processes["up"].pid).children(recursive=True)
        return next((p for p in _alive(family) if "celery" in p.cmdline() and "app.guard" not in p.cmdline()), None)

    first = wait_for(celery, 20, "the worker")
    first.kill()
    wait_for(lambda: (found := celery()) is not None and found.pid != first.pid, 20, "another worker")
    assert cluster.api.get("/readyz").status_code == 200


def test_what_is_refused_says_why(cluster: Cluster, tmp_path: Path) -> None:
    data = str(cluster.folder / "data")
    second = _retort(cluster, "up", "--port", "0", "--data", data)
    assert second.returncode == 1
    assert "already runs" in second.stderr
    assert "Traceback" not in second.stderr

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        busy = _retort(cluster, "up", "--port", port, "--data", str(tmp_path / "other"))
    assert busy.returncode == 1
    assert f"127.0.0.1:{port}" in busy.stderr

    exposed = _retort(cluster, "up", "--host", "0.0.0.0", "--port", "0", "--data", str(tmp_path / "third"), RETORT_BOOTSTRAP_KEY="")
    assert exposed.returncode == 1
    assert "RETORT_BOOTSTRAP_KEY" in exposed.stderr

    weak = _retort(cluster, "up", "--port", "0", "--data", str(tmp_path / "fourth"), RETORT_BOOTSTRAP_KEY="secret")
    assert weak.returncode == 1
    assert "RETORT_BOOTSTRAP_KEY must start with" in weak.stderr
    assert "Traceback" not in weak.stderr


def test_the_command_works_on_the_running_server(cluster: Cluster) -> None:
    data = ("--data", str(cluster.folder / "data"))
    made = _retort(cluster, "keys", "create", "--name", "ci", "--scope", "files:read", *data)
    assert made.returncode == 0, made.stderr
    key = made.stdout.split()[-1]
    assert httpx.get(f"{cluster.api.base_url}/v1/files", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert _retort(cluster, "files", "list", *data).returncode == 0
    assert _retort(cluster, "jobs", RETORT_DATA_DIR=data[1]).returncode == 0

    bad = cluster.folder / "bad.jsonl"
    bad.write_text('{"text": "a", "label": "x"}\n{"text": 3\n')
    refused = _retort(cluster, "files", "upload", str(bad), *data)
    assert refused.returncode == 1
    assert "line 2" in refused.stderr

    unknown = _retort(cluster, "watch", "djob_00000000000000000000000000", *data)
    assert unknown.returncode == 1
    assert "No job" in unknown.stderr
    wrong = _retort(cluster, "jobs", RETORT_BASE_URL=str(cluster.api.base_url), RETORT_API_KEY="rt_wrong-key")
    assert wrong.returncode == 1
    assert "not valid" in wrong.stderr


def test_the_first_key_is_shown_once_and_works(tmp_path: Path) -> None:
    cluster = Cluster.embedded(tmp_path, RETORT_BOOTSTRAP_KEY="")
    with running(cluster):
        first = (tmp_path / "up.log").read_text()
        key = (tmp_path / "data" / "key").read_text().strip()
        assert first.count(key) == 1
        answer = cluster.api.get("/v1/files", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        cluster.kill("up", signal.SIGTERM)
        cluster.start()
        assert (tmp_path / "up.log").read_text().count(key) == 1
        assert cluster.api.get("/v1/files", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_models_are_imported_by_the_operator(cluster: Cluster) -> None:
    from tests.fixtures.tiny import make_tiny_teacher

    folder = cluster.folder / "a-model"
    make_tiny_teacher(folder)
    data = ("--data", str(cluster.folder / "data"))
    done = _retort(cluster, "models", "import", "tiny", "--path", str(folder), *data)
    assert done.returncode == 0, done.stderr
    assert "imported tiny:1" in done.stdout
    assert "tiny" in _retort(cluster, "models", *data).stdout
    assert cluster.api.get("/v1/registry/models/tiny").status_code == 200

    (folder / "modeling.py").write_text("print('never')\n")
    refused = _retort(cluster, "models", "import", "tiny", "--path", str(folder), *data)
    assert refused.returncode == 1
    assert "modeling.py" in refused.stderr
    both = _retort(cluster, "models", "import", "tiny", "--path", str(folder), "--package", "x", *data)
    assert both.returncode == 1
