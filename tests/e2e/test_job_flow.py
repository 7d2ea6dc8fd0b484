"""From POST to a served INT8 student, over real HTTP with real processes; the same test on both stacks."""

import hashlib
import json

from tests.e2e.conftest import prepare, small_spec
from tests.fixtures.cluster import Cluster


def test_a_job_goes_all_the_way(cluster: Cluster) -> None:
    training, test = prepare(cluster)
    spec = small_spec(training, test)

    checked = cluster.api.post("/v1/distillation/validate", json=spec).json()
    assert checked["valid"], checked
    created = cluster.submit(spec)
    assert created["object"] == "distillation.job"
    done = cluster.wait(created["id"])
    assert done["status"] == "succeeded", done["error"]

    result = done["result"]
    assert result["model"] == "tiny-intents:1"
    assert result["alias"] == "production"
    report = result["report"]
    assert report["metric"] == "accuracy"
    for who in ("teacher", "baseline", "student", "quantized"):
        assert 0 <= report[who]["quality"] <= 1, report
        assert report[who]["throughput"] > 0, report
        assert report[who]["bytes"] > 0, report
        assert 0 < report[who]["latency_ms"]["p50"] <= report[who]["latency_ms"]["p99"], report
    assert report["teacher"]["quality"] > 0.8, "the tiny teacher must have learnt something, or nothing is shown"
    assert report["student"]["quality"] > 0.5
    assert [p["name"] for p in done["phases"]] == ["preparing", "labelling", "training", "quantizing", "evaluating", "packaging"]
    assert all(p["status"] == "completed" for p in done["phases"])
    assert done["progress"]["percent"] == 100

    events = cluster.api.get(f"/v1/distillation/jobs/{done['id']}/events", params={"limit": 100}).json()["data"]
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    metrics = cluster.api.get(f"/v1/distillation/jobs/{done['id']}/metrics").json()
    assert metrics["data"], metrics

    _artifacts_verify(cluster, done["id"])
    _student_answers(cluster)


def _artifacts_verify(cluster: Cluster, job_id: str) -> None:
    listed = cluster.api.get(f"/v1/distillation/jobs/{job_id}/artifacts").json()["data"]
    names = {a["name"] for a in listed}
    assert any(n.endswith("report.json") for n in names), names
    assert any(n.endswith("model_int8.onnx") for n in names), names
    for artifact in listed:
        url = f"/v1/distillation/jobs/{job_id}/artifacts/{artifact['name']}"
        answer = cluster.api.get(url)
        assert answer.status_code == 200, answer.text
        assert hashlib.sha256(answer.content).hexdigest() == artifact["sha256"]
        part = cluster.api.get(url, headers={"Range": "bytes=2-5"})
        assert part.status_code == 206
        assert part.content == answer.content[2:6]


def _student_answers(cluster: Cluster) -> None:
    rows = [json.loads(line) for line in (cluster.folder / "test.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in rows]
    answer = cluster.serve.post("/v1/classify", json={"model": "tiny-intents@production", "input": texts, "top_k": 2})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["model"] == "tiny-intents:1"
    right = sum(item["label"] == row["label"] for item, row in zip(body["data"], rows, strict=True))
    assert right / len(rows) > 0.5
    again = cluster.serve.post("/v1/classify", json={"model": "tiny-intents:1", "input": texts[0], "cache": False}).json()
    assert again["data"][0]["label"] == body["data"][0]["label"]
    assert abs(again["data"][0]["score"] - body["data"][0]["score"]) < 0.02

    vectors = cluster.serve.post("/v1/embeddings", json={"model": "tiny-intents", "input": texts[:3]}).json()
    assert [len(v["embedding"]) for v in vectors["data"]] == [16] * 3
    assert abs(sum(x * x for x in vectors["data"][0]["embedding"]) - 1) < 1e-3
