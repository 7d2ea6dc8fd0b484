"""Augmentation of a job: what is refused before it starts, and the models that its blocks name."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from app.domain.db import Sessions, reading, transaction
from app.domain.models import Job
from app.domain.repositories.references import References
from app.domain.storage import BlobStore
from app.services import endpoints
from app.services.jobs import JobService
from app.settings import Settings
from tests.conftest import PROJECT
from tests.unit.services.conftest import Upload
from worker.augmenters import teacher_generate
from worker.inputs import Inputs, build_request

Body = dict[str, Any]
WRITER = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def faults(service: JobService, body: Body, *blocks: dict[str, Any]) -> list[tuple[str, str]]:
    said = service.validate({**body, "augmentation": list(blocks)})
    assert all(error["hint"] for error in said["errors"])
    return [(error["param"], error["code"]) for error in said["errors"]]


@pytest.mark.parametrize(
    ("block", "param", "code"),
    [
        ({"type": "mlm_replac"}, "augmentation[1].type", "invalid_parameter"),
        ({"type": "mlm_replace", "share": 2}, "augmentation[1].share", "invalid_parameter"),
        ({"type": "mlm_replace", "sharing": 2}, "augmentation[1].sharing", "unknown_parameter"),
        ({"type": "mlm_replace", "model": "nowhere"}, "augmentation[1].model", "model_not_found"),
        ({"type": "mlm_replace", "source": "local", "model": "../etc"}, "augmentation[1].model", "model_not_allowed"),
        ({"type": "mlm_replace", "model": "writer", "revision": "main"}, "augmentation[1].revision", "invalid_parameter"),
        ({"type": "mlm_replace", "model": "minilm"}, "augmentation[1].model", "incompatible_models"),
        ({"type": "teacher_generate", "model": "minilm"}, "augmentation[1].model", "incompatible_models"),
        ({"type": "mixup", "alpha": 0}, "augmentation[1].alpha", "invalid_parameter"),
        ({"type": "mixup", "factor": 2}, "augmentation[1].factor", "unknown_parameter"),
    ],
)
def test_what_is_wrong_with_a_block_is_said(
    block: dict[str, Any], param: str, code: str, service: JobService, body: Body, register: Callable[..., str]
) -> None:
    register("writer", **WRITER)
    assert faults(service, body, {"type": "mixup"}, block) == [(param, code)]


def test_a_model_that_writes_has_to_be_named(service: JobService, body: Body) -> None:
    assert [param for param, _ in faults(service, body, {"type": "teacher_generate"})] == ["augmentation[0].model"]


@pytest.mark.parametrize(
    ("task", "block", "param"),
    [
        ("masked-lm", {"type": "mlm_replace"}, "augmentation[0]"),
        ("masked-lm", {"type": "mixup"}, "augmentation[0]"),
        ("token-classification", {"type": "mixup"}, "augmentation[0]"),
        ("ranking", {"type": "mixup"}, "augmentation[0]"),
        ("ranking", {"type": "mlm_replace", "min_confidence": 0.5}, "augmentation[0].min_confidence"),
        ("embedding", {"type": "mlm_replace", "keep_label": True}, "augmentation[0].keep_label"),
        ("token-classification", {"type": "teacher_generate", "model": "w", "keep_label": True}, "augmentation[0].keep_label"),
    ],
)
def test_what_does_not_belong_to_a_task_is_refused(
    task: str, block: dict[str, Any], param: str, service: JobService, body: Body, upload: Upload, register: Callable[..., str]
) -> None:
    register("w", **WRITER)
    words = [f"word{n}" for n in range(4)]
    row = {"text": "a text", "label": None}
    if task == "token-classification":
        row = {"text": words, "label": ["O", "B-X", "O", "O"]}
    elif task == "ranking":
        row = {"text": "a query", "documents": words, "label": [1, 0, 0, 0]}
    rows = [{**row, "number": n} for n in range(40)]
    made = {**body, "task": task, "data": {**body["data"], "training_file": upload(rows)}}
    del made["recipe"]
    assert (param, "unsupported_method") in faults(service, made, block)


def test_a_model_of_a_block_is_pinned_kept_and_handed_to_the_run(
    service: JobService, body: Body, register: Callable[..., str], sessions: Sessions, blobs: BlobStore, settings: Settings
) -> None:
    register("writer", **WRITER)
    blocks = [{"type": "mlm_replace"}, {"type": "teacher_generate", "model": "writer", "factor": 0.5}]
    job: Job = service.prepare({**body, "augmentation": blocks})
    assert job.spec["augmentation"][0]["model"] is None
    assert job.spec["augmentation"][1]["model"] == "writer:1"
    nothing, source = job.inputs["augmenters"]
    assert nothing is None
    assert source["ref"] == "writer:1"
    with transaction(sessions) as session:
        service.insert(session, job)
    with reading(sessions) as session:
        assert References(session).artifact_is_used(source["digest"])
        stored = session.get(Job, job.id)
        assert stored is not None
        stored.project_id, stored.attempt = PROJECT, 1
        request = build_request(stored, Inputs(settings, blobs))
    assert request.augmenter_dirs == [None, str(blobs.artifact(source["digest"]))]


def test_a_job_without_such_models_names_none(service: JobService, body: Body) -> None:
    assert "augmenters" not in service.prepare({**body, "augmentation": [{"type": "mixup"}]}).inputs


# -- a model behind an endpoint --------------------------------------------------------------------------------------

WRITES = {"type": "teacher_generate", "source": "openai", "model": "gpt-x", "base_url": "https://api.example.com/v1"}


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"base_url": None}, "base_url", "missing_parameter"),
        ({"base_url": 7}, "base_url", "invalid_parameter"),
        ({"base_url": "api.example.com/v1"}, "base_url", "invalid_parameter"),
        ({"base_url": "ftp://api.example.com"}, "base_url", "invalid_parameter"),
        ({"base_url": "https://me:secret@api.example.com/v1"}, "base_url", "invalid_parameter"),
        ({"base_url": "https://2130706433/v1"}, "base_url", "invalid_parameter"),
        ({"base_url": "http://127.0.0.1:8000/v1"}, "base_url", "endpoint_not_allowed"),
        ({"base_url": "http://[::ffff:a9fe:a9fe]/v1"}, "base_url", "endpoint_not_allowed"),
        ({"base_url": "http://localhost:8000/v1"}, "base_url", "endpoint_not_allowed"),
        ({"base_url": "http://redis:6379"}, "base_url", "endpoint_not_allowed"),
        ({"model": ""}, "model", "invalid_parameter"),
        ({"revision": "main"}, "revision", "invalid_parameter"),
        ({"api": "responses"}, "api", "invalid_parameter"),
        ({"concurrency": 1000}, "concurrency", "invalid_parameter"),
        ({"api_key": "sk-1"}, "api_key", "unknown_parameter"),
        ({"source": "registry", "model": "writer"}, "base_url", "invalid_parameter"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_said(
    changes: Body, param: str, code: str, service: JobService, body: Body, register: Callable[..., str]
) -> None:
    register("writer", **WRITER)
    assert faults(service, body, {**WRITES, **changes}) == [(f"augmentation[0].{param}", code)]
    assert "secret" not in str(service.validate({**body, "augmentation": [{**WRITES, **changes}]})["errors"])


@pytest.mark.parametrize(
    ("params", "most"), [({}, 108), ({"factor": 0.5}, 54), ({"max_requests": 10}, 10), ({"max_requests": 999}, 108)]
)
def test_the_estimate_says_how_much_is_asked_of_it(params: Body, most: int, service: JobService, body: Body) -> None:
    assert endpoints.ATTEMPTS == teacher_generate.ATTEMPTS
    said = service.validate({**body, "augmentation": [{**WRITES, **params}]})
    told = [line for line in said["estimate"]["assumptions"] if "requests" in line]
    assert told == [f"up to {most} requests to https://api.example.com/v1, whose time is not in this"]  # of 36 training rows


def test_an_endpoint_needs_a_model(service: JobService, body: Body) -> None:
    without = {name: value for name, value in WRITES.items() if name != "model"}
    assert faults(service, body, without) == [("augmentation[0].model", "missing_parameter")]


def test_only_what_writes_may_ask_an_endpoint(service: JobService, body: Body) -> None:
    assert faults(service, body, {**WRITES, "type": "mlm_replace"}) == [("augmentation[0].base_url", "unknown_parameter")]
    block = {"type": "mlm_replace", "source": "openai", "model": "gpt-x"}
    assert ("augmentation[0].source", "invalid_parameter") in faults(service, body, block)


def test_a_run_gets_the_keys_of_its_own_endpoints_and_no_model_folder(
    service: JobService, body: Body, sessions: Sessions, blobs: BlobStore, settings: Settings
) -> None:
    keys = {"https://api.example.com": SecretStr("sk-its-own"), "https://api.example.com:8443": SecretStr("sk-another")}
    settings = settings.model_copy(update={"endpoint_keys": keys, "private_endpoints": ["http://127.0.0.1:8000"]})
    service = JobService(sessions, blobs, settings, PROJECT, "key_test")
    inner = {**WRITES, "base_url": "http://127.0.0.1:8000/v1"}
    job: Job = service.prepare({**body, "augmentation": [WRITES, inner, {"type": "mlm_replace"}]})
    assert "augmenters" not in job.inputs
    assert "sk-" not in str(job.spec)
    again = service.validate({**body, "augmentation": job.spec["augmentation"]})  # what was resolved can be sent again
    assert again["errors"] == []
    with transaction(sessions) as session:
        service.insert(session, job)
    with reading(sessions) as session:
        stored = session.get(Job, job.id)
        assert stored is not None
        stored.attempt = 1
        request = build_request(stored, Inputs(settings, blobs))
    assert request.augmenter_dirs == []
    assert {origin: key.get_secret_value() for origin, key in request.endpoint_keys.items()} == {
        "https://api.example.com": "sk-its-own"
    }
    assert request.private_endpoints == ["http://127.0.0.1:8000"]
