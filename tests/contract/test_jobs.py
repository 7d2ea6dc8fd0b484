"""/v1/distillation over HTTP: what a job may ask for, and what may be asked of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.api import TEACHER, Api, problem
from tests.fixtures.modeldirs import write_model_dir

URL = "/v1/distillation/jobs"


def changed(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(spec))
    *parents, last = path.split(".")
    here = found
    for name in parents:
        here = here.setdefault(name, {})
    here[last] = value
    return dict(found)


def test_create_and_look(api: Api) -> None:
    spec = api.spec(metadata={"team": "support"}, output={"alias": "production"})
    answer = api.client.post(URL, json=spec)
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"{URL}/{job['id']}"
    assert job["object"] == "distillation.job"
    assert (job["status"], job["is_terminal"], job["phase"], job["attempt"]) == ("queued", False, None, 0)
    assert job["queue"]["jobs_ahead"] == 0
    assert job["metadata"] == {"team": "support"}
    assert [p["name"] for p in job["phases"]] == ["preparing", "labelling", "training", "quantizing", "evaluating", "packaging"]
    assert job["provenance"]["dataset"]["training"]["rows"] == 40
    assert job["estimate"]["steps"] > 0
    assert job["estimate"]["assumptions"]
    assert {s["objectives"][0]["type"] for s in job["stages"]} == {"response"}
    assert api.client.get(f"{URL}/{job['id']}").json() == job
    said = api.client.get(f"{URL}/{job['id']}/spec").json()
    assert said["submitted"] == spec
    again = api.client.post(URL, json=said["resolved"])
    assert again.status_code == 201, "posting the resolved spec is the same job again"
    assert again.json()["provenance"]["config_hash"] == job["provenance"]["config_hash"]
    events = api.client.get(f"{URL}/{job['id']}/events").json()
    assert [(e["seq"], e["type"]) for e in events["data"]] == [(1, "status")]
    assert api.client.get(f"{URL}/{job['id']}/events", params={"after": 1}).json()["data"] == []


def test_validate_starts_nothing(api: Api) -> None:
    answer = api.client.post("/v1/distillation/validate", json=api.spec())
    assert answer.status_code == 200
    body = answer.json()
    assert body["valid"] is True
    assert body["errors"] == []
    assert body["config_hash"].startswith("sha256:")
    assert body["resolved_spec"]["stages"]
    wrong = api.client.post("/v1/distillation/validate", json=api.spec(sead=1, seed=-1)).json()
    assert wrong["valid"] is False
    assert {e["param"] for e in wrong["errors"]} == {"sead", "seed"}
    assert all(e["hint"] for e in wrong["errors"])
    assert api.client.get(URL).json()["data"] == []


FIELDS: list[tuple[str, Any, str, str]] = [
    ("sead", 1, "unknown_parameter", "sead"),
    ("task", "summarisation", "invalid_parameter", "task"),
    ("name", None, "invalid_parameter", "name"),
    ("name", "", "invalid_parameter", "name"),
    ("seed", "seven", "invalid_parameter", "seed"),
    ("teacher", None, "invalid_parameter", "teacher"),
    ("teacher.source", "ftp", "invalid_parameter", "teacher.source"),
    ("teacher.revision", "main", "invalid_parameter", "teacher.revision"),
    ("teacher.model", "../../etc", "model_not_allowed", "teacher.model"),
    ("teacher.model", "nope", "model_not_found", "teacher.model"),
    ("teacher.finetune", None, "unsupported_method", "teacher.model"),
    ("student.layer", 2, "unknown_parameter", "student.layer"),
    ("student.layers", 5, "invalid_parameter", "student.layers"),
    ("student.layers", [0, 4], "invalid_parameter", "student.layers"),
    ("student.layers", [2, 1], "invalid_parameter", "student.layers"),
    ("student.layers", 0, "invalid_parameter", "student.layers"),
    ("student.hidden_size", 32, "invalid_parameter", "student.hidden_size"),
    ("student.init", "magic", "invalid_parameter", "student.init"),
    ("data.text", "body", "dataset_invalid", "data.text"),
    ("data.label", "class", "dataset_invalid", "data.label"),
    ("data.training_file", "file-nope", "invalid_parameter", "data.training_file"),
    ("data.training_file", "file-" + "0" * 26, "file_not_found", "data.training_file"),
    ("data.max_length", 1, "invalid_parameter", "data.max_length"),
    ("data.max_length", 65, "invalid_parameter", "data.max_length"),
    ("recipe", "alchemy", "invalid_parameter", "recipe"),
    ("quantization.scheme", "int2", "invalid_parameter", "quantization.scheme"),
    ("output.model_name", "Not A Name", "invalid_parameter", "output.model_name"),
    ("compute.priority", 1000, "invalid_parameter", "compute.priority"),
    ("metadata", {"k": 5}, "invalid_parameter", "metadata.k"),
]


@pytest.mark.parametrize(("path", "value", "code", "param"), FIELDS, ids=[f"{p}={v!r}"[:40] for p, v, _, _ in FIELDS])
def test_a_wrong_field_is_named_with_a_hint(api: Api, path: str, value: Any, code: str, param: str) -> None:
    answer = api.client.post(URL, json=changed(api.spec(), path, value))
    error = problem(answer, 404 if code.endswith("_not_found") else 400, code)
    assert error["param"] == param, error
    assert error["hint"], error
    assert api.client.get(URL).json()["data"] == []


def stage(**objective: Any) -> dict[str, Any]:
    return {"name": "one", "objectives": [{"type": "response", **objective}]}


@pytest.mark.parametrize(
    ("stages", "param"),
    [
        ([stage(temprature=2)], "stages[0].objectives[0].temprature"),
        ([stage(temperature=-1)], "stages[0].objectives[0].temperature"),
        ([stage(temperature={"schedule": "linear", "start": 4, "end": 200})], "stages[0].objectives[0].temperature"),
        ([stage(temperature={"schedule": "linear", "start": 4})], "stages[0].objectives[0].temperature"),
        ([stage(weight=0)], "stages[0].objectives"),
        ([stage(), stage()], "stages"),
        ([{"name": "one", "objectives": [{"type": "nope"}]}], "stages[0].objectives[0].type"),
        ([{**stage(), "epochs": 0}], "stages[0].epochs"),
        ([{**stage(), "learning_rate": 1e999}], None),
        ([], "stages"),
    ],
)
def test_a_wrong_stage_is_named(api: Api, stages: Any, param: str | None) -> None:
    spec = {k: v for k, v in api.spec().items() if k != "recipe"} | {"stages": stages}
    answer = api.client.post(URL, content=json.dumps(spec))
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"{}", b'{"name": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_job_is_a_400(api: Api, body: bytes) -> None:
    answer = api.client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["hint"]


def test_a_body_that_is_too_large(api: Api) -> None:
    problem(api.client.post(URL, content=b'{"name": "' + b"a" * 5 * 2**20 + b'"}'), 413, "file_too_large")


def test_rows_that_do_not_fit_the_job(api: Api) -> None:
    post: Callable[[dict[str, Any]], Any] = lambda spec: api.client.post(URL, json=spec)  # noqa: E731
    good = '{"text": "a b", "label": "x"}\n{"text": "c d", "label": "y"}\n'
    bad = api.upload(good + '{"text": "", "label": "x"}\n{"label": "y"}\n').json()["id"]
    error = problem(post(api.spec(bad)), 400, "dataset_invalid")
    assert error["param"] == "data.training_file"
    assert [(d["line"], d["code"]) for d in error["details"]] == [(3, "empty"), (4, "missing_field")]
    assert "on_bad_row" in error["hint"]
    skipped = post(changed(api.spec(bad), "data.on_bad_row", "skip"))
    assert skipped.status_code == 201
    assert [w["code"] for w in skipped.json()["warnings"]][:1] == ["rows_skipped"]

    one_label = api.upload('{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n').json()["id"]
    assert problem(post(api.spec(one_label)), 400, "dataset_invalid")["param"] == "data.label"

    stranger = api.upload('{"text": "a", "label": "unheard of"}').json()["id"]
    error = problem(post(changed(api.spec(), "data.test_file", stranger)), 400, "dataset_invalid")
    assert error["param"] == "data.test_file"
    assert "unheard of" in error["message"]
    broken = api.upload("{nope").json()["id"]
    assert problem(post(api.spec(broken)), 400, "dataset_invalid")["param"] == "data.training_file"


POISON: dict[str, Callable[[Any], object]] = {
    "pickle weights": lambda folder: (folder / "pytorch_model.bin").write_bytes(b"\x80\x04x."),
    "code": lambda folder: (folder / "modeling_x.py").write_text("print(1)"),
    "auto_map": lambda folder: (folder / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}'),
    "a link": lambda folder: (folder / "vocab.txt").symlink_to("/etc/hostname"),
    "a false header": lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("kind", POISON)
def test_a_poisoned_teacher_is_refused_before_anything_starts(api: Api, kind: str) -> None:
    assert api.settings.models_dir is not None
    folder = write_model_dir(api.settings.models_dir / "poisoned", **TEACHER)
    POISON[kind](folder)
    error = problem(api.client.post(URL, json=changed(api.spec(), "teacher.model", "poisoned")), 400, "model_not_allowed")
    assert error["param"] == "teacher.model"
    assert error["hint"]
    assert str(folder.parent) not in json.dumps(error), "no path of the server leaves in an error"


def test_steering(api: Api) -> None:
    job = api.job()
    url = f"{URL}/{job['id']}"
    post = api.client.post
    assert post(f"{url}/pause").json()["status"] == "paused"
    assert post(f"{url}/resume").json()["status"] == "queued"
    patched = api.client.patch(url, json={"name": "renamed", "priority": 5, "metadata": {"a": "b"}}).json()
    assert (patched["name"], patched["priority"], patched["metadata"]) == ("renamed", 5, {"a": "b"})
    assert problem(api.client.patch(url, json={"status": "succeeded"}), 400, "unknown_parameter")["param"] == "status"
    problem(api.client.delete(url), 409, "invalid_state_transition")
    assert post(f"{url}/cancel").json()["status"] == "cancelled"
    again = post(f"{url}/cancel")
    assert (again.status_code, again.json()["is_terminal"]) == (200, True)
    for action in ("pause", "resume"):
        answer = post(f"{url}/{action}")
        problem(answer, 409, "invalid_state_transition")
        assert answer.headers["x-should-retry"] == "false"
    cloned = post(f"{url}/clone", json={"seed": 99})
    assert cloned.status_code == 201
    assert (cloned.json()["seed"], cloned.json()["provenance"]["parent_job_id"]) == (99, job["id"])
    assert api.client.delete(url).json()["deleted"] is True
    problem(api.client.get(url), 404, "job_not_found")


def test_lists_page_and_filter(api: Api) -> None:
    made = [api.job(name=f"job {n}", metadata={"n": str(n % 2)})["id"] for n in range(5)]
    get = api.client.get
    first = get(URL, params={"limit": 2}).json()
    assert [j["id"] for j in first["data"]] == made[:2:-1]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, made[4], made[3])
    rest = get(URL, params={"limit": 3, "after": first["last_id"]}).json()
    assert [j["id"] for j in rest["data"]] == made[2::-1]
    assert rest["has_more"] is False
    back = get(URL, params={"limit": 2, "before": rest["first_id"]}).json()
    assert [j["id"] for j in back["data"]] == made[:2:-1]
    assert [j["id"] for j in get(URL, params={"order": "asc"}).json()["data"]] == made
    assert [j["id"] for j in get(URL, params={"name": "job 3"}).json()["data"]] == [made[3]]
    assert [j["id"] for j in get(URL, params={"metadata[n]": "1"}).json()["data"]] == [made[3], made[1]]
    assert get(URL, params={"status": "running"}).json()["data"] == []
    for params, param in (
        ({"limit": 0}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"after": "djob_nope"}, "after"),
        ({"after": made[0], "before": made[1]}, "before"),
        ({"order": "up"}, "order"),
        ({"status": "odd"}, "status"),
        ({"metadata": "x"}, "metadata"),
    ):
        assert problem(get(URL, params=params), 400, "invalid_parameter")["param"] == param


def test_the_queue_of_a_project_has_an_end(api: Api) -> None:
    file_id = api.rows()
    api.app.state.settings = api.settings.model_copy(update={"max_queued_jobs": 2})
    for _ in range(2):
        assert api.client.post(URL, json=api.spec(file_id)).status_code == 201
    answer = api.client.post(URL, json=api.spec(file_id))
    problem(answer, 429, "quota_exceeded")
    assert answer.headers["x-should-retry"] == "false"


def test_a_registry_teacher_is_pinned(api: Api) -> None:
    from app.domain.db import transaction
    from app.domain.importing import register_checkpoint, store_checkpoint
    from app.domain.storage import BlobStore
    from tests.conftest import PROJECT

    assert api.settings.models_dir is not None
    stored = store_checkpoint(api.settings.models_dir / "tiny", BlobStore(api.settings.blob_root))
    with transaction(api.sessions) as session:
        register_checkpoint(session, PROJECT, "minilm", stored, base_model="tiny", provenance={})
    job = api.job(teacher={"source": "registry", "model": "minilm", "finetune": {}})
    assert job["teacher"]["model"] == "minilm:1"
    assert job["provenance"]["teacher"]["digest"] == stored.digest
    spec = api.spec(teacher={"source": "registry", "model": "minilm:7", "finetune": {}})
    error = problem(api.client.post(URL, json=spec), 404, "model_not_found")
    assert error["param"] == "teacher.model"
