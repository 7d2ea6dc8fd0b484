"""Models from a hub and from the operator's folder, over a tiny local server that answers like one."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.domain import manifest
from app.domain.db import Sessions, reading, transaction
from app.domain.errors import DomainError, ModelDownloadFailed, ModelNotAllowed
from app.domain.models import Import, ModelVersion
from app.domain.repositories.imports import ImportLeases, Imports
from app.domain.storage import BlobStore
from app.settings import Settings
from tests.conftest import OTHER_PROJECT, PROJECT
from tests.fixtures.engine import HAPPY, submit, supervisor, wait_for, wait_status
from tests.fixtures.modeldirs import write_model_dir
from worker import fetcher

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "acme/tiny"


class FakeHub:
    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked = files, []  # type: dict[str, bytes], list[str]
        self.broken: dict[str, Any] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                hub.asked.append(path)
                status, body, headers = hub.answer(path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if "status" in self.broken:
            return self.broken["status"], b"", {}
        if path in (f"/api/models/{NAME}/revision/main", f"/api/models/{NAME}/revision/{COMMIT}"):
            siblings = [self._sibling(n, c) for n, c in self.files.items()]
            return 200, json.dumps({"sha": self.broken.get("sha", COMMIT), "siblings": siblings}).encode(), {}
        prefix = f"/{NAME}/resolve/{COMMIT}/"
        if path.startswith(prefix) and (name := path.removeprefix(prefix)) in self.files:
            if name.endswith(".safetensors"):
                return 302, b"", {"Location": f"{self.url}/cdn/{name}"}
            return 200, self.files[name], {}
        if path.startswith("/cdn/"):
            content = self.files[path.removeprefix("/cdn/")]
            return 200, self.broken.get("content", content), {}
        return 404, b"", {}

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": name, "size": self.broken.get("size", len(content))}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": entry["size"]}
        return entry


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    folder = write_model_dir(tmp_path / "upstream")
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    files |= {"README.md": b"# hello", "pytorch_model.bin": b"\x80\x04.", "modeling_evil.py": b"import os", "onnx/model.onnx": b"x"}
    made = FakeHub(files)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def online(settings: Settings, hub: FakeHub) -> Settings:
    return settings.model_copy(update={"hub_endpoint": hub.url})


def test_fetches_only_what_is_allowed_and_only_once(online: Settings, hub: FakeHub, blobs: BlobStore) -> None:
    assert fetcher.resolve(NAME, None, online) == fetcher.resolve(NAME, "main", online) == COMMIT
    folder = fetcher.fetch(NAME, COMMIT, online, blobs)
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json", manifest.NAME}
    assert not [path for path in hub.asked if "evil" in path or "pytorch_model" in path or "onnx" in path]
    hub.asked.clear()
    assert fetcher.fetch(NAME, COMMIT, online, blobs) == folder
    assert hub.asked == []
    (folder / "config.json").write_text("{}")  # a damaged cache is fetched again
    fetcher.fetch(NAME, COMMIT, online, blobs)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({"status": 500}, ModelDownloadFailed),
        ({"status": 429}, ModelDownloadFailed),
        ({"status": 404}, ModelNotAllowed),
        ({"status": 401}, ModelNotAllowed),
        ({"sha": "f" * 40}, ModelDownloadFailed),
        ({"content": b"short"}, ModelDownloadFailed),
        ({"content": b"x" * 10_000}, ModelDownloadFailed),
        ({"size": 2**50}, ModelNotAllowed),
        ({"size": -1}, ModelDownloadFailed),
    ],
)
def test_a_misbehaving_hub_leaves_nothing(
    online: Settings, hub: FakeHub, blobs: BlobStore, broken: dict[str, Any], error: type[DomainError]
) -> None:
    hub.broken = broken
    with pytest.raises(error):
        fetcher.fetch(NAME, COMMIT, online, blobs)
    assert [*(blobs.root / "cache" / "hub").iterdir()] == [*(blobs.root / "tmp").iterdir()] == []


@pytest.mark.parametrize("config", [{"auto_map": {"AutoModel": "evil.Model"}}, {"nested": {"auto_map": {}}}])
def test_remote_code_is_refused(online: Settings, hub: FakeHub, blobs: BlobStore, config: dict[str, Any]) -> None:
    hub.files["config.json"] = json.dumps({**json.loads(hub.files["config.json"]), **config}).encode()
    with pytest.raises(ModelNotAllowed, match="auto_map"):
        fetcher.fetch(NAME, COMMIT, online, blobs)


def test_pickled_weights_alone_are_refused(online: Settings, hub: FakeHub, blobs: BlobStore) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(ModelNotAllowed, match="no safetensors"):
        fetcher.fetch(NAME, COMMIT, online, blobs)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b/c", "/abs", "a b/c", "acme/..", ""])
def test_odd_names_never_reach_the_hub(online: Settings, hub: FakeHub, name: str) -> None:
    with pytest.raises(ModelNotAllowed):
        fetcher.resolve(name, None, online)
    assert hub.asked == []


def test_offline_and_unreachable(settings: Settings, blobs: BlobStore) -> None:
    with pytest.raises(ModelNotAllowed, match="does not fetch"):
        fetcher.fetch(NAME, COMMIT, settings.model_copy(update={"hub_offline": True}), blobs)
    with pytest.raises(ModelDownloadFailed, match="does not answer"):
        fetcher.fetch(NAME, COMMIT, settings.model_copy(update={"hub_endpoint": "http://127.0.0.1:1"}), blobs)


def test_a_stop_ends_a_download(online: Settings, blobs: BlobStore) -> None:
    with pytest.raises(fetcher.Stopped):
        fetcher.fetch(NAME, COMMIT, online, blobs, stop=lambda: True)


def test_a_job_pins_the_commit_of_its_teacher(online: Settings, sessions: Sessions, hub: FakeHub) -> None:
    inputs = {
        "files": {},
        "teacher": {"source": "hub", "model": NAME, "revision": None, "ref": NAME, "digest": None},
        "student": None,
    }
    job_id = submit(sessions, online, {"1": [{"exit": 75}], "*": HAPPY}, inputs=inputs)
    with supervisor(online, sessions):
        job = wait_status(sessions, job_id)
    assert job.status == "succeeded", job.error
    assert job.inputs["teacher"]["revision"] == COMMIT
    assert sum(path.endswith("/revision/main") for path in hub.asked) == 1


def test_a_failed_download_can_be_resumed(online: Settings, sessions: Sessions, hub: FakeHub) -> None:
    hub.broken = {"status": 503}
    inputs = {"files": {}, "teacher": {"source": "hub", "model": NAME, "revision": COMMIT, "ref": NAME}, "student": None}
    job_id = submit(sessions, online, HAPPY, inputs=inputs)
    with supervisor(online, sessions):
        job = wait_status(sessions, job_id)
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("model_download_failed", True)


class TestImports:
    def _add(self, sessions: Sessions, **values: Any) -> str:
        with transaction(sessions) as session:
            return Imports(session, PROJECT).add(**values).id

    def _ended(self, sessions: Sessions, import_id: str) -> Import:
        def read() -> Import | None:
            with reading(sessions) as session:
                found = Imports(session, PROJECT).get(import_id)
                return found if found and found.status in ("succeeded", "failed") else None

        return wait_for(read, what="the import ends")  # type: ignore[no-any-return]

    def test_from_hub_and_folder(self, online: Settings, sessions: Sessions, blobs: BlobStore) -> None:
        assert online.models_dir is not None
        write_model_dir(online.models_dir / "mine", architectures=["BertModel"])
        first = self._add(sessions, name="tiny", source="hub", model=NAME, revision="main")
        second = self._add(sessions, name="tiny", source="local", model="mine")
        with supervisor(online, sessions):
            results = [self._ended(sessions, i) for i in (first, second)]
        assert [r.status for r in results] == ["succeeded", "succeeded"], [r.error for r in results]
        assert [r.result["model"] for r in results] == ["tiny:1", "tiny:2"]  # type: ignore[index]
        with reading(sessions) as session:
            versions = session.query(ModelVersion).order_by(ModelVersion.version).all()
        assert [v.kind for v in versions] == ["checkpoint", "checkpoint"]
        assert versions[0].provenance["revision"] == COMMIT
        assert versions[0].digest == versions[1].digest, "the same files are the same artifact"
        card = json.loads((blobs.artifact(versions[0].digest) / "retort.json").read_text())
        assert (card["kind"], card["backends"]) == ("checkpoint", [])

    def test_refusals_say_why(self, online: Settings, sessions: Sessions) -> None:
        bad = [self._add(sessions, name="x", source="local", model=m) for m in ("gone", "../up")]
        bad.append(self._add(sessions, name="x", source="hub", model="acme/unknown"))
        with supervisor(online, sessions):
            errors = [self._ended(sessions, i).error for i in bad]
        assert [e["code"] for e in errors if e] == ["model_not_found", "model_not_allowed", "model_not_allowed"]
        assert all(e and e["hint"] for e in errors)

    def test_a_lost_worker_gives_it_back_and_is_fenced(self, sessions: Sessions) -> None:
        import_id = self._add(sessions, name="x", source="local", model="m")
        with transaction(sessions) as session:
            assert ImportLeases(session).claim("wrk_a-1", -1.0) is not None
            assert ImportLeases(session).claim("wrk_b-1", 60.0) is None
        with transaction(sessions) as session:
            assert ImportLeases(session).reconcile() == [import_id]
            assert ImportLeases(session).claim("wrk_b-1", 60.0) is not None
        with transaction(sessions) as session:
            leases = ImportLeases(session)
            assert leases.lock(import_id, "wrk_a-1") is leases.fail(import_id, "wrk_a-1", {}) is None
            assert not leases.renew(import_id, "wrk_a-1", 60.0)
            assert leases.succeed(import_id, "wrk_b-1", {"model": "x:1"}) is not None
        with reading(sessions) as session:
            assert Imports(session, OTHER_PROJECT).get(import_id) is None
            assert [i.id for i in Imports(session, PROJECT).page(10)[0]] == [import_id]
