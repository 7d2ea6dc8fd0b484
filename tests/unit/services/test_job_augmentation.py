"""Augmentation of a job: what is refused before it starts, and the models that its blocks name."""

from collections.abc import Callable
from typing import Any

import pytest

from app.domain.db import Sessions, reading, transaction
from app.domain.models import Job
from app.domain.repositories.references import References
from app.domain.storage import BlobStore
from app.services.jobs import JobService
from app.settings import Settings
from tests.conftest import PROJECT
from tests.unit.services.conftest import Upload
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
    assert [param for param, _ in faults(service, body, {"type": "teacher_generate"})] == ["augmentation[0]"]


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
