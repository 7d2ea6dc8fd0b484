"""Plans that say the wrong thing, over HTTP: each is refused by field, with a hint, before anything starts."""

from typing import Any

import pytest

from tests.contract.test_tasks import ROWS, URL, VALIDATE, spec, teacher, upload
from tests.fixtures.api import Api, problem
from tests.fixtures.models import model_folder

Stages = list[dict[str, Any]]


def stage(*objectives: Any, name: str = "one", **more: Any) -> dict[str, Any]:
    """`objectives`: names, or (name, parameters)."""
    made = [{"type": o} if isinstance(o, str) else {"type": o[0], **o[1]} for o in objectives]
    return {"name": name, "objectives": made, "epochs": 1, **more}


def refused(api: Api, body: dict[str, Any], code: str, param: str) -> dict[str, Any]:
    """The fault; validating finds the same one, and says all there are."""
    error = problem(api.client.post(URL, json=body), 400, code)
    assert error["param"] == param, error
    assert error["hint"], error
    said = api.client.post(VALIDATE, json=body).json()
    assert not said["valid"]
    assert (code, param) in {(e["code"], e["param"]) for e in said["errors"]}
    assert api.client.get(URL).json()["data"] == []
    return error


def accepted(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    said = api.client.post(VALIDATE, json=body).json()
    assert said["valid"], said["errors"]
    return dict(said)


def warned(api: Api, body: dict[str, Any], code: str) -> str:
    """The field of the one warning of this code."""
    (param,) = [w["param"] for w in accepted(api, body)["warnings"] if w["code"] == code]
    return str(param)


# -- fields of other tasks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "rows", "changes", "param"),
    [
        ("token-classification", "tokens", {"data": {"text_b": "text"}}, "data.text_b"),
        ("ranking", "ranking", {"data": {"text_b": "text"}}, "data.text_b"),
        ("masked-lm", "masked", {"data": {"text_b": "text"}}, "data.text_b"),
        ("embedding", "masked", {"data": {"documents": "docs"}}, "data.documents"),
        ("embedding", "masked", {"data": {"problem": "regression"}}, "data.problem"),
        ("embedding", "masked", {"ranking": {"student": "bi_encoder"}}, "ranking"),
    ],
)
def test_a_field_of_another_task(api: Api, task: str, rows: str, changes: dict[str, Any], param: str) -> None:
    refused(api, spec(api, task, ROWS[rows], **changes), "invalid_parameter", param)


def test_routes_need_a_column_and_a_column_needs_routes(api: Api) -> None:
    rows = [{**row, "lang": ("en", "de")[n % 2]} for n, row in enumerate(ROWS["single"])]
    task = "text-classification"
    refused(api, spec(api, task, rows, teacher={"route": "en"}), "invalid_parameter", "teacher.route")
    refused(api, spec(api, task, rows, data={"route": "lang"}), "invalid_parameter", "data.route")
    member = {**teacher(api, task), "finetune": {}, "route": "de"}
    accepted(api, spec(api, task, rows, data={"route": "lang"}, teacher={"route": "en", "ensemble": [member]}))
    alone = spec(api, task, rows, data={"route": "lang"}, teacher={"route": "en"})
    assert "'de'" in refused(api, alone, "dataset_invalid", "data.route")["message"]
    some = [row if n else {k: v for k, v in row.items() if k != "lang"} for n, row in enumerate(rows)]
    body = spec(api, task, some, data={"route": "lang"}, teacher={"route": "en", "ensemble": [member]})
    assert "1 training rows" in refused(api, body, "dataset_invalid", "data.route")["message"]
    body["teacher"]["ensemble"].append({k: v for k, v in member.items() if k != "route"})
    accepted(api, body)


# -- objectives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "rows", "objective", "code"),
    [
        ("embedding", "masked", "response", "unsupported_method"),
        ("embedding", "masked", "listnet", "unsupported_method"),
        ("ranking", "ranking", "response", "unsupported_method"),
        ("token-classification", "tokens", "embedding_cosine", "unsupported_method"),
        ("masked-lm", "masked", "rkd_distance", "unsupported_method"),
        ("masked-lm", "masked", "hard_label", "unsupported_method"),
        ("text-classification", "single", "masked_lm", "unsupported_method"),
        ("text-classification", "single", "listmle", "unsupported_method"),
        ("text-classification", "regression", "dist", "unsupported_method"),
    ],
)
def test_an_objective_that_the_task_has_nothing_for(api: Api, task: str, rows: str, objective: str, code: str) -> None:
    data = {"problem": "regression"} if rows == "regression" else {}
    body = spec(api, task, ROWS[rows], data=data, stages=[stage(objective)])
    error = refused(api, body, code, "stages[0].objectives[0]")
    assert "Objectives for it: " in error["hint"]
    assert objective not in error["hint"].split(": ")[1].split(", ")


@pytest.mark.parametrize(
    ("task", "rows", "problem", "params", "name", "use"),
    [
        ("text-classification", "regression", "regression", {}, "divergence", '"logit_mse"'),  # the default is for classes
        ("text-classification", "regression", "regression", {"divergence": "jsd"}, "divergence", '"logit_mse"'),
        ("text-classification", "multi", "multi_label", {"divergence": "decoupled_kl"}, "divergence", '"forward_kl"'),
        ("text-classification", "multi", "multi_label", {"standardize": True}, "standardize", "false"),
        ("text-classification", "single", "single_label", {"standardize": True}, "standardize", "Leave it out"),  # two labels
        ("masked-lm", "masked", "single_label", {"standardize": True}, None, ""),
        ("text-classification", "multi", "multi_label", {"divergence": "jsd"}, None, ""),
        ("text-classification", "regression", "regression", {"divergence": "logit_mse"}, None, ""),
        ("token-classification", "tokens", "single_label", {"divergence": "decoupled_kl"}, None, ""),
    ],
)
def test_values_that_say_nothing_of_the_targets(
    api: Api, task: str, rows: str, problem: str, params: dict[str, Any], name: str | None, use: str
) -> None:
    stages = [stage("hard_label" if task != "masked-lm" else "masked_lm", ("response", params))]
    body = spec(api, task, ROWS[rows], data={"problem": problem}, stages=stages)
    if name is None:
        accepted(api, body)
    else:
        assert use in refused(api, body, "invalid_parameter", f"stages[0].objectives[1].{name}")["hint"]


def test_an_objective_that_learns_from_labels_needs_some(api: Api) -> None:
    body = spec(api, "embedding", ROWS["masked"], stages=[stage("embedding_cosine", "hard_similarity")])
    assert "text_b" in refused(api, body, "dataset_invalid", "stages[0].objectives[1]")["hint"]
    rows = [{"text": row["text"], "documents": row["documents"]} for row in ROWS["ranking"]]
    refused(api, spec(api, "ranking", rows, stages=[stage("hard_rank")]), "dataset_invalid", "stages[0].objectives[0]")
    body = spec(api, "ranking", rows, recipe={"type": "ranker", "hard_weight": 0.5})
    refused(api, body, "dataset_invalid", "recipe")
    accepted(api, spec(api, "masked-lm", ROWS["masked"], stages=[stage("masked_lm")]))
    body = spec(api, "ranking", rows, teacher={"finetune": {"epochs": 1}})
    refused(api, body, "dataset_invalid", "teacher.finetune")


def test_scorers_of_two_kinds_share_scores_alone(api: Api) -> None:
    mixed = {"teacher": "cross_encoder", "student": "bi_encoder"}
    accepted(api, spec(api, "ranking", ROWS["ranking"], ranking=mixed))
    for objective in ("hidden_mse", "embedding_cosine", "attention_mse"):
        body = spec(api, "ranking", ROWS["ranking"], ranking=mixed, stages=[stage("listnet", objective)])
        assert "bi_encoder" in refused(api, body, "unsupported_method", "stages[0].objectives[1]")["message"]
        both = {"teacher": "bi_encoder", "student": "bi_encoder"}
        accepted(api, spec(api, "ranking", ROWS["ranking"], ranking=both, stages=[stage("listnet", objective)]))


# -- tokenizers ------------------------------------------------------------------------------------------------------


def student(api: Api, name: str, **more: Any) -> dict[str, Any]:
    assert api.settings.models_dir is not None
    folder = model_folder(api.settings.models_dir / name, **{"num_hidden_layers": 1, "architectures": ["BertModel"], **more})
    if "vocabulary" in name:
        (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1}}}')
    if "without" in name:
        (folder / "tokenizer.json").unlink()
        (folder / "spiece.model").write_bytes(b"pieces")
    return {"init": "pretrained", "source": "local", "model": name}


def test_tokens_are_compared_where_both_read_the_same_ones(api: Api) -> None:
    task, rows = "text-classification", ROWS["single"]
    features = [stage("response", "hidden_mse")]
    accepted(api, spec(api, task, rows, student=student(api, "same"), stages=features))
    other = student(api, "another-vocabulary")
    body = spec(api, task, rows, student=other, stages=features)
    assert "tokenizer" in refused(api, body, "incompatible_models", "stages[0].objectives[1]")["message"]
    accepted(api, spec(api, task, rows, student=other, stages=[stage("response", "embedding_cosine")]))
    accepted(api, spec(api, task, rows, student=other, stages=[stage("response", "hidden_mse", teacher={"type": "ema"})]))
    words = spec(api, "masked-lm", ROWS["masked"], student=other, stages=[stage("response", "masked_lm")])
    refused(api, words, "incompatible_models", "stages[0].objectives[0]")
    accepted(api, words | {"stages": [stage("masked_lm")]})
    unknown = spec(api, task, rows, student=student(api, "without-a-plain-one"), stages=features)
    assert warned(api, unknown, "checked_later") == "stages[0].objectives[1]"


# -- a teacher that is the student's own model ------------------------------------------------------------------------


def test_a_teacher_self_is_the_students_model(api: Api) -> None:
    task, own = "text-classification", student(api, "own")
    body = spec(api, task, ROWS["single"], student=own) | {"teacher": {"source": "self", "finetune": {"epochs": 1}}}
    said = accepted(api, body)
    teacher = said["resolved_spec"]["teacher"]
    assert (teacher["source"], teacher["model"]) == (own["source"], own["model"])
    named = {**body, "teacher": {"source": "local", "model": "own", "finetune": {"epochs": 1}}}
    assert accepted(api, named)["config_hash"] == said["config_hash"]


def test_a_teacher_self_needs_a_student_with_a_model(api: Api) -> None:
    task, own = "text-classification", student(api, "own")
    body = spec(api, task, ROWS["single"], student=own) | {"teacher": {"source": "self", "finetune": {"epochs": 1}}}
    refused(api, {**body, "student": {"init": "teacher_layers"}}, "invalid_parameter", "teacher.source")
    refused(api, {**body, "student": {"init": "pretrained"}}, "missing_parameter", "student.model")
    refused(api, {**body, "student": {**own, "source": "nowhere"}}, "invalid_parameter", "student.source")
    refused(api, {**body, "student": {**own, "model": ["own"]}}, "invalid_parameter", "student.model")
    refused(api, {**body, "teacher": {**body["teacher"], "model": "own"}}, "invalid_parameter", "teacher.model")
    refused(api, {**body, "teacher": {"source": "local", "finetune": {}}}, "missing_parameter", "teacher.model")
    refused(api, {**body, "teacher": {"source": "self"}}, "unsupported_method", "teacher.model")


# -- stages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "code", "param"),
    [
        ([stage("response", train="adapter")], "invalid_parameter", "stages[0].train"),
        ([stage("response", train=["layer.0", "("])], "invalid_parameter", "stages[0].train[1]"),
        ([stage("response", teacher={"type": "previous"})], "invalid_parameter", "stages[0].teacher"),
        ([stage("response", teacher={"type": "oracle"})], "invalid_parameter", "stages[0].teacher.type"),
        ([stage("response", teacher={"type": "ema", "momentm": 1})], "unknown_parameter", "stages[0].teacher.momentm"),
        ([stage("response", teacher={"type": "ema", "momentum": 2})], "invalid_parameter", "stages[0].teacher.momentum"),
    ],
)
def test_stages_that_cannot_run(api: Api, stages: Stages, code: str, param: str) -> None:
    refused(api, spec(api, "text-classification", ROWS["single"], stages=stages), code, param)


def test_to_restart_first_is_pointless(api: Api) -> None:
    body = spec(api, "text-classification", ROWS["single"], stages=[stage("response", restart=True)])
    assert warned(api, body, "pointless_restart") == "stages[0].restart"
    later = [stage("response", name="a"), stage("response", name="b", teacher={"type": "previous"}, restart=True)]
    assert "pointless_restart" not in {w["code"] for w in accepted(api, body | {"stages": later})["warnings"]}


def test_a_new_head_must_be_trained(api: Api) -> None:
    features = [stage("hidden_mse")]
    for made in ({"init": "config"}, student(api, "headless"), {"init": "teacher_layers", "layers": 1, "keep": ["ffn"]}):
        body = spec(api, "text-classification", ROWS["single"], student=made, stages=features)
        assert "head is new" in refused(api, body, "unsupported_method", "stages[0].objectives")["message"]
        accepted(api, body | {"stages": [stage("hidden_mse", name="a"), stage("response", name="b")]})
    accepted(api, spec(api, "text-classification", ROWS["single"], stages=features))  # inherits the teacher's head
    accepted(api, spec(api, "embedding", ROWS["masked"], student={"init": "config"}, stages=features))  # has none
    own = student(api, "with-head", architectures=["BertForSequenceClassification"], labels=["card", "refund"])
    accepted(api, spec(api, "text-classification", ROWS["single"], student=own, stages=features))
    number = {"data": {"problem": "regression"}, "stages": features}
    refused(
        api,
        spec(api, "text-classification", ROWS["regression"], student=own, **number),
        "unsupported_method",
        "stages[0].objectives",
    )
    one = student(api, "with-a-number", architectures=["BertForSequenceClassification"], labels=["LABEL_0"])
    accepted(api, spec(api, "text-classification", ROWS["regression"], student=one, **number))


@pytest.mark.parametrize(
    ("names", "wrong"), [(["dense"], None), (["output.dense"], None), (["dense", "querry"], 1), (["output"], 0)]
)
def test_an_adapter_sits_on_matrices_that_exist(api: Api, names: list[str], wrong: int | None) -> None:
    made = {"init": "teacher_layers", "layers": 1, "adapter": {"target_modules": names}}
    body = spec(api, "text-classification", ROWS["single"], student=made, stages=[stage("response", train="adapter")])
    if wrong is None:
        accepted(api, body)
    else:
        error = refused(api, body, "invalid_parameter", f"student.adapter.target_modules[{wrong}]")
        assert "dense" in error["hint"]


# -- augmentation, quantization --------------------------------------------------------------------------------------


def test_augmentation_is_checked_like_any_block(api: Api) -> None:
    task, rows = "text-classification", ROWS["single"]
    accepted(api, spec(api, task, rows, augmentation=[{"type": "mixup", "alpha": 0.2}]))
    refused(api, spec(api, task, rows, augmentation=[{"type": "mixin"}]), "invalid_parameter", "augmentation[0].type")
    body = spec(api, task, rows, augmentation=[{"type": "mixup"}, {"type": "mixup", "alpha": -1}])
    refused(api, body, "invalid_parameter", "augmentation[1].alpha")
    refused(api, spec(api, task, rows, augmentation=[{"type": "mixup", "x": 1}]), "unknown_parameter", "augmentation[0].x")
    body = spec(api, "ranking", ROWS["ranking"], augmentation=[{"type": "mixup"}])
    refused(api, body, "unsupported_method", "augmentation[0]")


def test_calibration_needs_rows(api: Api) -> None:
    body = spec(api, "text-classification", ROWS["single"], quantization={"scheme": "int8_static", "min_rows": 21})
    assert "int8_dynamic" in refused(api, body, "dataset_invalid", "quantization.min_rows")["hint"]
    body["quantization"]["min_rows"] = 20
    accepted(api, body)


# -- targets ---------------------------------------------------------------------------------------------------------


def test_targets_that_contradict_themselves(api: Api) -> None:
    task, rows = "text-classification", ROWS["single"]
    body = spec(api, task, rows, target={"max_size_ratio": 1, "min_speedup": 4})
    refused(api, body, "invalid_parameter", "target.max_size_ratio")
    large = student(api, "large", num_hidden_layers=3)
    body = spec(api, task, rows, student=large, target={"min_speedup": 2})
    refused(api, body, "invalid_parameter", "target.min_speedup")
    accepted(api, body | {"target": {"min_retention": 0.9}})


def test_targets_that_are_out_of_reach_are_told(api: Api) -> None:
    task, rows = "text-classification", ROWS["single"]
    body = spec(api, task, rows, target={"max_size_ratio": 0.2}, quantization={"scheme": "none"})
    assert warned(api, body, "target_out_of_reach") == "target.max_size_ratio"
    small = accepted(api, spec(api, task, rows, target={"max_size_ratio": 1.5}, quantization={"scheme": "none"}))
    assert "target_out_of_reach" not in {w["code"] for w in small["warnings"]}
    body = spec(api, task, rows, target={"min_retention": 0.9, "serve_best": True}, output={"alias": "production"})
    assert warned(api, body, "alias_without_target") == "target.serve_best"


# -- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "rows", "recipe", "code", "param"),
    [
        ("text-classification", "single", "ranker", "unsupported_method", "recipe"),
        ("ranking", "ranking", "pkd", "unsupported_method", "recipe"),
        ("text-classification", "single", {"type": "response", "temperature": -1}, "invalid_parameter", "recipe.temperature"),
        ("text-classification", "single", {"type": "response", "alpha": 2}, "invalid_parameter", "recipe.alpha"),
        ("text-classification", "single", {"type": "response", "alhpa": 1}, "unknown_parameter", "recipe.alhpa"),
    ],
)
def test_a_recipe_that_does_not_fit(api: Api, task: str, rows: str, recipe: Any, code: str, param: str) -> None:
    refused(api, spec(api, task, ROWS[rows], recipe=recipe), code, param)


def test_all_faults_are_told_at_once(api: Api) -> None:
    stages = [stage("listnet", "hidden_mse", train="adapter"), stage("response", name="two", teacher={"type": "previous"})]
    body = spec(api, "text-classification", ROWS["single"], stages=stages, data={"documents": "docs"})
    said = api.client.post(VALIDATE, json=body).json()
    assert {e["param"] for e in said["errors"]} == {"data.documents", "stages[0].objectives[0]", "stages[0].train"}
    details = problem(api.client.post(URL, json=body), 400, "invalid_parameter")["details"]
    assert {d["param"] for d in details} == {e["param"] for e in said["errors"]}


def test_what_files_from_before_lack_is_looked_at_later(api: Api) -> None:
    """Stored reports of earlier uploads know no lists and no sorts of values."""
    from app.domain.db import transaction
    from app.domain.models import File

    def age(file_id: str) -> None:
        with transaction(api.sessions) as session:
            file = session.get(File, file_id)
            assert file is not None
            report = dict(file.report)
            del report["unequal_lists"]
            columns = {}
            for name, column in report["columns"].items():
                kept = {k: column[k] for k in ("types", "missing", "empty", "characters", "distinct", "values")}
                columns[name] = kept | {"missing_lines": [], "empty_lines": [], "type_lines": {}}
            file.report = {**report, "columns": columns}

    single, tokens = upload(api, ROWS["single"]), upload(api, ROWS["tokens"])
    for file_id in (single, tokens):
        age(file_id)
    said = accepted(api, spec(api, "text-classification", single))
    assert not said["warnings"]
    assert warned(api, spec(api, "token-classification", tokens), "checked_later") == "data.training_file"
    body = spec(api, "text-classification", tokens)
    assert refused(api, body, "dataset_invalid", "data.training_file")
