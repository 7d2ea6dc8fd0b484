"""What is refused before anything starts, by field and with a hint; and what a valid job resolves to."""

import copy
import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from app.domain import errors
from app.domain.db import Sessions, reading, transaction
from app.domain.models import Job, JobEvent, Outbox
from app.domain.storage import BlobStore
from app.services.jobs import JobService
from app.settings import Settings
from tests.conftest import OTHER_PROJECT, PROJECT
from tests.fixtures.models import model_folder
from tests.unit.services.conftest import ROWS, Upload

Body = dict[str, Any]


def changed(body: Body, path: str, value: Any) -> Body:
    """`path` such as 'teacher.model'; the value ... removes it."""
    made = copy.deepcopy(body)
    *parents, last = path.split(".")
    here = made
    for name in parents:
        here = here.setdefault(name, {})
    if value is ...:
        here.pop(last, None)
    else:
        here[last] = value
    return made


def fault(service: JobService, body: Body) -> dict[str, Any]:
    """The one error of a job that is not valid; creating it raises the same, and stores nothing."""
    said = service.validate(body)
    assert not said["valid"]
    assert said["resolved_spec"] is None
    with pytest.raises(errors.DomainError) as caught:
        service.prepare(body)
    error = said["errors"][0]
    assert (caught.value.code, caught.value.param) == (error["code"], error["param"])
    assert error["message"]
    assert error["hint"], error
    json.dumps(said)
    return dict(error)


def test_a_valid_job_is_resolved_estimated_and_pinned(service: JobService, body: Body) -> None:
    said = service.validate(body)
    assert said["valid"], said["errors"]
    resolved = said["resolved_spec"]
    assert resolved["teacher"]["model"] == "minilm:1"
    assert resolved["stages"][0]["objectives"][0]["type"] == "response"
    assert said["config_hash"].startswith("sha256:")
    expected = said["estimate"]["duration_seconds"]
    assert 0 < expected["low"] < expected["expected"] < expected["high"]
    assert said["estimate"]["steps"] > 0
    assert said["estimate"]["assumptions"]


def test_posting_the_resolved_spec_again_is_the_same_job(service: JobService, body: Body) -> None:
    first = service.validate(body)
    again = service.validate(first["resolved_spec"])
    assert again["valid"], again["errors"]
    assert again["config_hash"] == first["config_hash"]
    assert service.validate(changed(body, "name", "other"))["config_hash"] == first["config_hash"]
    assert service.validate(changed(body, "seed", 8))["config_hash"] != first["config_hash"]


@pytest.mark.parametrize(
    ("path", "value", "code", "param"),
    [
        ("nme", "x", "unknown_parameter", "nme"),
        ("teacher.modle", "x", "unknown_parameter", "teacher.modle"),
        ("teacher.finetune.epoch", 3, "unknown_parameter", "teacher.finetune.epoch"),
        ("data.training_file", ..., "missing_parameter", "data.training_file"),
        ("teacher", ..., "missing_parameter", "teacher"),
        ("name", ..., "missing_parameter", "name"),
        ("name", "", "invalid_parameter", "name"),
        ("task", "poetry", "invalid_parameter", "task"),
        ("data.training_file", "train.jsonl", "invalid_parameter", "data.training_file"),
        ("data.training_file", "../../etc/passwd", "invalid_parameter", "data.training_file"),
        ("data.validation_split", 1.5, "invalid_parameter", "data.validation_split"),
        ("data.max_length", "long", "invalid_parameter", "data.max_length"),
        ("data.max_length", 128, "invalid_parameter", "data.max_length"),
        ("seed", -1, "invalid_parameter", "seed"),
        ("metadata", {"k": 3}, "invalid_parameter", "metadata.k"),
        ("metadata", {"k": "a\0b"}, "invalid_parameter", "metadata.k"),
        ("metadata", {"a\0b": "v"}, "invalid_parameter", "metadata"),
        ("name", "a\0b", "invalid_parameter", "name"),
        ("data.text", "a\0b", "invalid_parameter", "data.text"),
        ("name", "a\ud800b", "invalid_parameter", "name"),
        ("output.model_name", "Bad Name", "invalid_parameter", "output.model_name"),
        ("compute.max_attempts", 0, "invalid_parameter", "compute.max_attempts"),
        ("budget.max_wall_seconds", float("nan"), "invalid_parameter", "budget.max_wall_seconds"),
        ("teacher.source", "openai", "invalid_parameter", "teacher.source"),
        ("teacher.model", "nobody", "model_not_found", "teacher.model"),
        ("teacher.model", "minilm:2", "model_not_found", "teacher.model"),
        ("teacher.model", "../minilm", "model_not_found", "teacher.model"),
        ("teacher.revision", "main", "invalid_parameter", "teacher.revision"),
        ("teacher.finetune", ..., "unsupported_method", "teacher.model"),
        ("student.init", "teacher_layer", "invalid_parameter", "student.init"),
        ("student.layers", 4, "invalid_parameter", "student.layers"),
        ("student.layers", [0, 3], "invalid_parameter", "student.layers"),
        ("student.layers", "all", "invalid_parameter", "student.layers"),
        ("student.hidden_size", 16, "invalid_parameter", "student.hidden_size"),
        ("student.hiden_size", 8, "unknown_parameter", "student.hiden_size"),
        ("quantization", {"scheme": "int2"}, "invalid_parameter", "quantization.scheme"),
        ("recipe", "alchemy", "invalid_parameter", "recipe"),
        ("data.text", "utterance", "dataset_invalid", "data.text"),
        ("data.label", "intent", "dataset_invalid", "data.label"),
        ("data.label", "text", "dataset_invalid", "data.label"),  # every text a label of its own
    ],
)
def test_each_fault_names_its_field(service: JobService, body: Body, path: str, value: Any, code: str, param: str) -> None:
    error = fault(service, changed(body, path, value))
    assert (error["code"], error["param"]) == (code, param), error


def test_a_near_miss_is_suggested(service: JobService, body: Body) -> None:
    assert "'teacher'" in fault(service, changed(body, "techer", {}))["hint"]
    assert "epochs" in fault(service, changed(body, "teacher.finetune.epoch", 3))["hint"]


def test_stages_with_unknown_objectives(service: JobService, body: Body) -> None:
    stage = {"name": "one", "objectives": [{"type": "respons"}]}
    staged = changed(changed(body, "recipe", ...), "stages", [stage])
    error = fault(service, staged)
    assert error["param"] == "stages[0].objectives[0].type"
    assert "response" in error["hint"]
    for name, value in (
        ("temperature", "hot"),
        ("temperature", -1),
        ("temperature", {"schedule": "linear", "start": 4}),
        ("temperature", {"schedule": "cosine", "start": 8, "end": 0}),
        ("weight", "much"),
        ("weight", -0.5),
    ):
        stage["objectives"] = [{"type": "response", name: value}]
        assert fault(service, staged)["param"] == f"stages[0].objectives[0].{name}"
    both = changed(body, "stages", [{"name": "one", "objectives": [{"type": "response"}]}])
    assert "both" in fault(service, both)["message"]


@pytest.mark.parametrize("depth", [40, 300, 1000])
@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize(
    "path", ["student.layers", "student.x", "quantization.scheme", "metadata", "unknown", "data.text", "recipe"]
)
def test_deep_nesting_is_refused_by_field(service: JobService, body: Body, path: str, kind: type, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    error = fault(service, changed(body, path, value))
    assert error["param"].startswith(path)
    assert "nested deeper" in error["message"]


def test_all_faults_are_told_at_once(service: JobService, body: Body) -> None:
    wrong = changed(changed(changed(body, "teacher.model", "nobody"), "data.text", "utterance"), "quantization", {"scheme": "int2"})
    said = service.validate(wrong)
    assert {e["param"] for e in said["errors"]} == {"teacher.model", "data.text", "quantization.scheme"}


# -- data ------------------------------------------------------------------------------------------------------------


def test_bad_rows_fail_with_their_lines_or_are_skipped(service: JobService, body: Body, upload: Upload) -> None:
    good = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    file = upload(good + b'{"text": oops}\n{"label":"card"}\n{"text":"a","label":[1]}\n')
    wrong = changed(body, "data.training_file", file)
    error = fault(service, wrong)
    assert (error["code"], error["param"]) == ("dataset_invalid", "data.training_file")
    assert [(d["line"], d["code"]) for d in error["details"]] == [(41, "invalid_json"), (42, "missing_field"), (43, "wrong_type")]
    assert "line 41" in error["message"]
    said = service.validate(changed(wrong, "data.on_bad_row", "skip"))
    assert said["valid"], said["errors"]
    assert "rows_skipped" in {w["code"] for w in said["warnings"]}
    assert service.prepare(changed(wrong, "data.on_bad_row", "skip")).inputs["files"]["training"]["rows"] == 40


def test_columns_of_other_names(service: JobService, body: Body, upload: Upload) -> None:
    rows = [{"utterance": row["text"], "intent": n % 2, "text": 3} for n, row in enumerate(ROWS)]
    named = changed(changed(body, "data.text", "utterance"), "data.label", "intent")
    assert service.validate(changed(named, "data.training_file", upload(rows)))["valid"]
    rows[5]["utterance"] = ""
    error = fault(service, changed(named, "data.training_file", upload(rows)))
    assert [(d["line"], d["column"], d["code"]) for d in error["details"]] == [(6, "utterance", "empty")]


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_label_only_in_another_file_is_refused(service: JobService, body: Body, upload: Upload, role: str) -> None:
    strange = upload([*ROWS[:4], {"text": "fly me", "label": "travel"}])
    error = fault(service, changed(body, f"data.{role}_file", strange))
    assert (error["code"], error["param"]) == ("dataset_invalid", f"data.{role}_file")
    assert "'travel'" in error["message"]
    assert error["details"] == [{"label": "travel", "rows": 1}]


def test_one_label_is_no_task(service: JobService, body: Body, upload: Upload) -> None:
    error = fault(service, changed(body, "data.training_file", upload([r for r in ROWS if r["label"] == "card"])))
    assert (error["code"], error["param"]) == ("dataset_invalid", "data.label")


def test_free_text_is_no_label(service: JobService, body: Body, upload: Upload) -> None:
    rows = [{"text": "a", "label": f"a value of its own {n}"} for n in range(1200)]
    error = fault(service, changed(body, "data.training_file", upload(rows)))
    assert (error["code"], error["param"]) == ("dataset_invalid", "data.label")


def test_unlabelled_rows_are_allowed(service: JobService, body: Body, upload: Upload) -> None:
    rows = [*ROWS, {"text": "no label here"}, {"text": "nor here", "label": None}]
    assert service.validate(changed(body, "data.training_file", upload(rows)))["valid"]


def test_files_of_another_project_do_not_exist(service: JobService, body: Body, upload: Upload) -> None:
    foreign = fault(service, changed(body, "data.training_file", upload(project=OTHER_PROJECT)))
    unknown = fault(service, changed(body, "data.training_file", "file-" + "0" * 26))
    assert foreign["code"] == unknown["code"] == "file_not_found"
    assert foreign["param"] == "data.training_file"


# -- models ----------------------------------------------------------------------------------------------------------


def test_models_of_another_project_do_not_exist(service: JobService, body: Body, register: Callable[..., str]) -> None:
    register("theirs", project=OTHER_PROJECT)
    assert fault(service, changed(body, "teacher.model", "theirs"))["code"] == "model_not_found"


def test_a_teacher_with_a_head_needs_these_labels(service: JobService, body: Body, register: Callable[..., str]) -> None:
    register("same", labels=["card", "parcel"])
    register("other", labels=["no", "yes"])
    ready = changed(body, "teacher.finetune", ...)
    assert service.validate(changed(ready, "teacher.model", "same"))["valid"]
    error = fault(service, changed(ready, "teacher.model", "other"))
    assert (error["code"], error["param"]) == ("incompatible_models", "teacher.model")
    assert "finetune" in error["hint"]
    assert service.validate(changed(body, "teacher.model", "other"))["valid"], "fitted first, it gets a new head"


def test_a_writing_teacher_is_the_wrong_pair(service: JobService, body: Body, register: Callable[..., str]) -> None:
    register("writer", architectures=["LlamaForCausalLM"], model_type="llama")
    error = fault(service, changed(body, "teacher.model", "writer"))
    assert (error["code"], error["param"]) == ("unsupported_method", "teacher.model")


def test_local_models(service: JobService, body: Body, settings: Settings) -> None:
    local = changed(body, "teacher", {"source": "local", "model": "mine", "finetune": {}})
    assert fault(service, local)["code"] == "model_not_found"
    assert settings.models_dir is not None
    folder = model_folder(settings.models_dir / "mine")
    assert service.validate(local)["valid"]
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    error = fault(service, local)
    assert (error["code"], error["param"]) == ("model_not_allowed", "teacher.model")
    assert "pytorch_model.bin" in error["message"]
    assert str(settings.models_dir) not in json.dumps(error)


@pytest.mark.parametrize("name", ["..", "../mine", "/etc", "a\\b", "a\0b", ".git", "é" * 150])
def test_a_local_model_is_never_a_path(service: JobService, body: Body, name: str) -> None:
    error = fault(service, changed(body, "teacher", {"source": "local", "model": name, "finetune": {}}))
    assert error["param"] == "teacher.model"


def test_the_hub_is_asked_later_or_never(service: JobService, body: Body, settings: Settings) -> None:
    hub = changed(body, "teacher", {"source": "hub", "model": "owner/name", "revision": "main", "finetune": {}})
    said = service.validate(hub)
    assert said["valid"], said["errors"]
    assert "checked_later" in {w["code"] for w in said["warnings"]}
    assert fault(service, changed(hub, "teacher.model", "../../etc"))["param"] == "teacher.model"
    service.limits = settings.model_copy(update={"hub_offline": True})
    error = fault(service, hub)
    assert (error["code"], error["param"]) == ("model_not_allowed", "teacher.source")


def test_a_pretrained_student(service: JobService, body: Body, register: Callable[..., str]) -> None:
    register("small", num_hidden_layers=1)
    pretrained = changed(body, "student", {"init": "pretrained", "model": "small"})
    job = service.prepare(pretrained)
    assert job.inputs["student"]["ref"] == "small:1"
    assert job.spec["student"]["model"] == "small:1"
    assert fault(service, changed(pretrained, "student.model", "none"))["param"] == "student.model"
    assert fault(service, changed(pretrained, "student.model", ...))["param"] == "student.model"


def test_a_model_whose_files_are_gone_is_said(service: JobService, body: Body, blobs: BlobStore) -> None:
    shutil.rmtree(blobs.root / "artifacts")
    assert fault(service, body)["code"] == "artifact_corrupt"


# -- creating --------------------------------------------------------------------------------------------------------


def test_a_job_its_first_event_and_its_hint_are_one_transaction(service: JobService, body: Body, sessions: Sessions) -> None:
    job = service.prepare(body)

    def fails() -> None:
        with transaction(sessions) as session:
            service.insert(session, job)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with reading(sessions) as session:
        assert [session.query(table).count() for table in (Job, JobEvent, Outbox)] == [0, 0, 0]
    with transaction(sessions) as session:
        shown = service.insert(session, service.prepare(body))
    with reading(sessions) as session:
        assert [session.query(table).count() for table in (Job, JobEvent, Outbox)] == [1, 1, 1]
    assert (shown["status"], shown["queue"]["jobs_ahead"], shown["model_name"]) == ("queued", 0, "support-intents")
    assert service.show(shown["id"])["provenance"]["dataset"]["training"]["rows"] == 40


def test_too_many_queued_jobs(service: JobService, body: Body, sessions: Sessions, settings: Settings) -> None:
    service.limits = settings.model_copy(update={"max_queued_jobs": 2})
    for _ in range(2):
        with transaction(sessions) as session:
            service.insert(session, service.prepare(body))
    assert fault(service, body)["code"] == "quota_exceeded"


def test_a_clone_is_the_old_body_with_changes(service: JobService, body: Body, sessions: Sessions) -> None:
    with transaction(sessions) as session:
        old = service.insert(session, service.prepare(body))["id"]
    merged = service.clone_of(old, {"seed": 9, "teacher": {"finetune": {"epochs": 2}}, "recipe": None})
    assert merged["teacher"] == {"source": "registry", "model": "minilm", "finetune": {"epochs": 2}}
    assert "recipe" not in merged
    job = service.prepare(merged, parent_job_id=old)
    with transaction(sessions) as session:
        assert service.insert(session, job)["provenance"]["parent_job_id"] == old


def test_a_nul_in_a_new_name_is_refused(service: JobService, body: Body, sessions: Sessions) -> None:
    with transaction(sessions) as session:
        job_id = service.insert(session, service.prepare(body))["id"]
    for name, metadata in (("a\0b", None), (None, {"k": "\0"})):
        with pytest.raises(errors.InvalidRequest):
            service.update(job_id, name, metadata, None)


def test_another_project_sees_no_job(service: JobService, body: Body, sessions: Sessions) -> None:
    with transaction(sessions) as session:
        job_id = service.insert(session, service.prepare(body))["id"]
    other = JobService(sessions, service.blobs, service.limits, OTHER_PROJECT, "key_other")
    assert other.page(10, None, None, "desc") == ([], False)
    for act in (
        other.show,
        other.spec,
        other.cancel,
        other.pause,
        other.resume,
        other.delete,
        other.events,
        other.metrics,
        other.artifacts,
    ):
        with pytest.raises(errors.NotFound):
            act(job_id)
    assert service.project_id == PROJECT
