"""Rows written by a model behind an HTTP endpoint, through the real API: its quota ends in the middle, the job is resumed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import prepare, small_spec
from tests.fixtures.cluster import Cluster, running
from tests.fixtures.endpoint import FakeEndpoint, Reply, answering, completion, error

pytestmark = pytest.mark.timeout(300)

KEY = "sk-only-the-worker-knows-0123456789"
QUOTA = 60  # answers before it is used up


@pytest.fixture
def fake() -> Iterator[FakeEndpoint]:
    """Writes words of the rows that it is shown, in another order and with a number."""

    def reply(n: int, body: dict[str, Any]) -> Reply:
        if n >= QUOTA and not up.raised:  # type: ignore[attr-defined]
            return error(429, f"You exceeded your quota, {KEY}", "insufficient_quota")
        words = body["messages"][1]["content"].split("\n")[1].removeprefix("Text: ").split()
        return completion(" ".join([f"{n * 7919}", *sorted(words)]))

    with answering(reply) as up:
        up.raised = False  # type: ignore[attr-defined]
        yield up


def holders(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_an_endpoint_writes_rows(tmp_path: Path, fake: FakeEndpoint) -> None:
    env = {"RETORT_ENDPOINT_KEYS": json.dumps({fake.origin: KEY}), "RETORT_PRIVATE_ENDPOINTS": json.dumps([fake.origin])}
    block = {
        "type": "teacher_generate",
        "source": "openai",
        "base_url": fake.url,
        "model": "writer",
        "factor": 0.5,
        "max_similarity": 1,
    }
    with running(Cluster.embedded(tmp_path, **env)) as cluster:
        spec = small_spec(*prepare(cluster), epochs=3, augmentation=[block], evaluation={"baseline": False})
        other = [{**block, "base_url": fake.url.replace("127.0.0.1", "localhost")}]  # the operator allows the other name
        refused = cluster.api.post("/v1/distillation/validate", json={**spec, "augmentation": other}).json()
        assert [fault["code"] for fault in refused["errors"]] == ["endpoint_not_allowed"]
        job = cluster.submit(spec)
        failed = cluster.wait(job["id"])
        assert failed["status"] == "failed"
        assert (failed["error"]["code"], failed["error"]["retryable"]) == ("endpoint_refused", True)
        assert "quota" in failed["error"]["hint"]
        asked = len(fake.bodies)
        assert QUOTA < asked <= QUOTA + 8

        fake.raised = True  # type: ignore[attr-defined]
        assert cluster.api.post(f"/v1/distillation/jobs/{job['id']}/resume").status_code == 200
        done = cluster.wait(job["id"])
        assert done["status"] == "succeeded", done["error"]
        told = cluster.api.get(f"/v1/distillation/jobs/{job['id']}/artifacts/report.json").json()["augmentation"]
        assert told["rows"] == 90  # half of the 180 that are trained on
        usage = told["augmenters"][0]["usage"]
        assert done["usage"]["endpoints"] == usage
        assert 90 <= usage["requests"] <= len(fake.bodies) - (asked - QUOTA)
        assert len(fake.bodies) - asked <= 90 - QUOTA + 2 * 8  # what it had said was not asked for again
        assert {headers["authorization"] for headers in fake.headers} == {f"Bearer {KEY}"}
        answer = cluster.serve.post("/v1/classify", json={"model": "tiny-intents", "input": "my card is lost"})
        assert answer.status_code == 200

        shown = [cluster.api.get(f"/v1/distillation/jobs/{job['id']}{what}").text for what in ("", "/spec", "/events", "/logs")]
        assert KEY not in "".join(shown)
        assert KEY not in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert holders(tmp_path) == []
