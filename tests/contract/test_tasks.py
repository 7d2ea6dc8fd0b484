"""Five tasks over HTTP: what rows each one takes, and what is said of those that it cannot use."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.fixtures.api import Api, problem
from tests.fixtures.models import model_folder

URL = "/v1/distillation/jobs"
VALIDATE = "/v1/distillation/validate"
Rows = Sequence[dict[str, Any]]
HEADS = {
    "text-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "embedding": "BertModel",
    "ranking": "BertForSequenceClassification",
    "masked-lm": "BertForMaskedLM",
}


def texts(n: int) -> str:
    return f"message {n} of many"


ROWS: dict[str, Rows] = {
    "single": [{"text": texts(n), "label": ("card", "refund")[n % 2]} for n in range(20)],
    "multi": [{"text": texts(n), "label": (["card"], ["card", 7], [], ["refund"])[n % 4]} for n in range(20)],
    "regression": [{"text": texts(n), "label": n / 4} for n in range(20)],
    "pairs": [{"text": texts(n), "text_b": texts(n + 1), "label": ("same", "other")[n % 2]} for n in range(20)],
    "tokens": [{"text": texts(n).split(), "label": ["O", "B-N", "O", "O"]} for n in range(20)],
    "embedding": [{"text": texts(n)} for n in range(10)]
    + [{"text": texts(n), "text_b": "other", "label": n / 2} for n in range(10)],
    "ranking": [{"text": texts(n), "documents": [texts(n), "other", "more"], "label": [2, 0, 0.5]} for n in range(20)],
    "masked": [{"text": texts(n)} for n in range(20)],
}


def upload(api: Api, rows: Rows | str, name: str = "rows.jsonl") -> str:
    body = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    answer = api.upload(body, name)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def teacher(api: Api, task: str, labels: list[str] | None = None, **config: Any) -> dict[str, Any]:
    """A model of the operator's folder that has the task's head."""
    assert api.settings.models_dir is not None
    name = f"t-{len([*api.settings.models_dir.iterdir()])}"
    architectures = [HEADS[task]]
    model_folder(api.settings.models_dir / name, labels=labels, **{"architectures": architectures, **config})
    return {"source": "local", "model": name}


def spec(api: Api, task: str, rows: Rows | str, **changes: Any) -> dict[str, Any]:
    """Fitted first, but for the tasks whose teacher needs no labels."""
    data = {"training_file": rows if isinstance(rows, str) else upload(api, rows), "max_length": 32, **changes.pop("data", {})}
    made = teacher(api, task, id2label={"0": "x"} if task == "ranking" else None) | changes.pop("teacher", {})
    if task in ("text-classification", "token-classification"):
        made.setdefault("finetune", {"epochs": 1})
    return {
        "name": "a job",
        "task": task,
        "teacher": made,
        "student": {"init": "teacher_layers", "layers": 1},
        "data": data,
        **changes,
    }


VALID: list[tuple[str, str, dict[str, Any], list[str]]] = [
    ("text-classification", "single", {}, ["response", "hard_label"]),
    ("text-classification", "multi", {"problem": "multi_label"}, ["response", "hard_label"]),
    ("text-classification", "regression", {"problem": "regression"}, ["response", "hard_label"]),
    ("text-classification", "pairs", {"text_b": "text_b"}, ["response", "hard_label"]),
    ("token-classification", "tokens", {}, ["response", "hard_label"]),
    ("embedding", "embedding", {"text_b": "text_b"}, ["embedding_cosine", "similarity_kl"]),
    ("embedding", "masked", {}, ["embedding_cosine", "similarity_kl"]),
    ("ranking", "ranking", {}, ["listnet", "margin_mse"]),
    ("masked-lm", "masked", {}, ["response", "masked_lm", "hidden_cosine"]),
]


@pytest.mark.parametrize(("task", "rows", "data", "objectives"), VALID, ids=[f"{t}-{r}" for t, r, _, _ in VALID])
def test_every_task_is_accepted_by_default(api: Api, task: str, rows: str, data: dict[str, Any], objectives: list[str]) -> None:
    body = spec(api, task, ROWS[rows], data=data)
    said = api.client.post(VALIDATE, json=body).json()
    assert said["valid"], said["errors"]
    resolved = said["resolved_spec"]
    assert [o["type"] for o in resolved["stages"][0]["objectives"]] == objectives
    assert said["estimate"]["duration_seconds"]["expected"] > 0
    answer = api.client.post(URL, json=body)
    assert answer.status_code == 201, answer.text
    again = api.client.post(VALIDATE, json=resolved).json()
    assert again["valid"], again["errors"]
    assert again["config_hash"] == said["config_hash"]


def test_rows_without_labels_teach_where_the_teacher_is_enough(api: Api) -> None:
    bare = {
        "embedding": [{"text": texts(n)} for n in range(9)],
        "ranking": [{"text": texts(n), "documents": ["a", "b"]} for n in range(9)],
        "masked-lm": [{"text": texts(n)} for n in range(9)],
    }
    for task, rows in bare.items():
        said = api.client.post(VALIDATE, json=spec(api, task, rows)).json()
        assert said["valid"], (task, said["errors"])
    for task, rows in (
        ("text-classification", bare["masked-lm"]),
        ("token-classification", [{"text": ["a"]}]),
    ):
        error = problem(api.client.post(URL, json=spec(api, task, rows)), 400, "dataset_invalid")
        assert error["param"] == "data.label"
        assert error["hint"]


def test_validation_takes_less_than_a_second(api: Api) -> None:
    """However many rows: they are not read again. The bound is generous, this machine is busy."""
    many = [{"text": texts(n).split(), "label": ["O", "B-N", "O", "O"]} for n in range(20_000)]
    body = spec(api, "token-classification", many, data={"validation_file": upload(api, ROWS["tokens"])})
    api.client.post(VALIDATE, json=body)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        said = api.client.post(VALIDATE, json=body).json()
        taken.append(time.perf_counter() - began)
        assert said["valid"], said["errors"]
    assert min(taken) < 1, taken


# -- rows that a task cannot use -------------------------------------------------------------------------------------

BAD_ROWS: list[tuple[str, str, dict[str, Any], dict[str, Any], str, str]] = [
    ("text-classification", "single", {}, {"text": " ", "label": "card"}, "text", "empty"),
    ("text-classification", "single", {}, {"text": "a", "label": ["card"]}, "label", "wrong_type"),
    ("text-classification", "single", {}, {"text": "a", "label": 1.5}, "label", "wrong_type"),
    ("text-classification", "pairs", {"text_b": "text_b"}, {"text": "a", "label": "same"}, "text_b", "missing_field"),
    ("text-classification", "pairs", {"text_b": "text_b"}, {"text": "a", "text_b": "", "label": "same"}, "text_b", "empty"),
    ("text-classification", "multi", {"problem": "multi_label"}, {"text": "a", "label": "card"}, "label", "wrong_type"),
    ("text-classification", "multi", {"problem": "multi_label"}, {"text": "a", "label": [0.5]}, "label", "wrong_element"),
    ("text-classification", "multi", {"problem": "multi_label"}, {"text": "a", "label": ["card", ""]}, "label", "wrong_element"),
    ("text-classification", "regression", {"problem": "regression"}, {"text": "a", "label": "2"}, "label", "wrong_type"),
    ("text-classification", "regression", {"problem": "regression"}, {"text": "a", "label": True}, "label", "wrong_type"),
    ("token-classification", "tokens", {}, {"text": "a b", "label": ["O", "O"]}, "text", "wrong_type"),
    ("token-classification", "tokens", {}, {"text": [], "label": []}, "text", "empty"),
    ("token-classification", "tokens", {}, {"text": ["a", ""], "label": ["O", "O"]}, "text", "wrong_element"),
    ("token-classification", "tokens", {}, {"text": ["a", "b"], "label": ["O"]}, "label", "wrong_length"),
    ("token-classification", "tokens", {}, {"text": ["a"], "label": "O"}, "label", "wrong_type"),
    ("token-classification", "tokens", {}, {"text": ["a"], "label": [None]}, "label", "wrong_element"),
    ("embedding", "embedding", {"text_b": "text_b"}, {"text": "a", "text_b": 3}, "text_b", "wrong_type"),
    ("embedding", "embedding", {"text_b": "text_b"}, {"text": "a", "text_b": "b", "label": "near"}, "label", "wrong_type"),
    ("ranking", "ranking", {}, {"text": "q", "documents": ["a"]}, "documents", "wrong_length"),
    ("ranking", "ranking", {}, {"text": "q", "documents": []}, "documents", "empty"),
    ("ranking", "ranking", {}, {"text": "q", "documents": "a"}, "documents", "wrong_type"),
    ("ranking", "ranking", {}, {"text": "q", "documents": ["a", " "]}, "documents", "wrong_element"),
    ("ranking", "ranking", {}, {"text": "q"}, "documents", "missing_field"),
    ("ranking", "ranking", {}, {"text": "q", "documents": ["a", "b"], "label": [1]}, "label", "wrong_length"),
    ("ranking", "ranking", {}, {"text": "q", "documents": ["a", "b"], "label": [1, -1]}, "label", "wrong_element"),
    ("ranking", "ranking", {}, {"text": "q", "documents": ["a", "b"], "label": 1}, "label", "wrong_type"),
    ("masked-lm", "masked", {}, {"text": None}, "text", "missing_field"),
    ("masked-lm", "masked", {}, {"text": ["a"]}, "text", "wrong_type"),
]


@pytest.mark.parametrize(
    ("task", "rows", "data", "row", "column", "code"), BAD_ROWS, ids=[f"{t}-{json.dumps(r)}"[:60] for t, _, _, r, _, _ in BAD_ROWS]
)
def test_a_row_that_does_not_fit_is_named_by_its_line(
    api: Api, task: str, rows: str, data: dict[str, Any], row: dict[str, Any], column: str, code: str
) -> None:
    body = spec(api, task, [*ROWS[rows], row], data=data)
    error = problem(api.client.post(URL, json=body), 400, "dataset_invalid")
    assert error["param"] == "data.training_file"
    assert [(d["line"], d["column"], d["code"]) for d in error["details"]] == [(len(ROWS[rows]) + 1, column, code)]
    assert "on_bad_row" in error["hint"]
    body["data"]["on_bad_row"] = "skip"
    answer = api.client.post(URL, json=body)
    assert answer.status_code == 201, answer.text
    assert "rows_skipped" in {w["code"] for w in answer.json()["warnings"]}
    assert answer.json()["provenance"]["dataset"]["training"]["rows"] == len(ROWS[rows])


@pytest.mark.parametrize(
    ("task", "data", "content", "field"),
    [
        ("token-classification", {}, "text,label\na b,O O\n", "text"),
        ("text-classification", {"problem": "multi_label"}, "text,label\na,x|y\nb,x\n", "label"),
        ("ranking", {}, "text,documents,label\nq,a;b,1;0\n", "documents"),
    ],
)
def test_csv_has_no_lists(api: Api, task: str, data: dict[str, Any], content: str, field: str) -> None:
    body = spec(api, task, upload(api, content, "rows.csv"), data=data)
    for choice in ("fail", "skip"):
        body["data"]["on_bad_row"] = choice
        error = problem(api.client.post(URL, json=body), 400, "dataset_invalid")
        assert error["param"] == "data.training_file"
        assert "JSON Lines or Parquet" in error["hint"]
        assert f"data.{field}" in error["hint"]


def test_csv_cells_may_hold_numbers_and_json_lists(api: Api) -> None:
    numbers = upload(api, "text,label\n" + "".join(f"{texts(n)},{n}.5\n" for n in range(9)), "rows.csv")
    assert api.client.post(VALIDATE, json=spec(api, "text-classification", numbers, data={"problem": "regression"})).json()["valid"]
    lists = upload(api, "text;label\n" + "".join(f'{texts(n)};"[""card"", {n % 2}]"\n' for n in range(9)), "rows.csv")
    said = api.client.post(VALIDATE, json=spec(api, "text-classification", lists, data={"problem": "multi_label"})).json()
    assert said["valid"], said["errors"]
    assert "constant_label" in {w["code"] for w in said["warnings"]}


# -- labels that teach nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "data", "rows", "param"),
    [
        ("text-classification", {}, [{"text": texts(n), "label": "x"} for n in range(9)], "data.label"),
        ("text-classification", {"problem": "multi_label"}, [{"text": texts(n), "label": []} for n in range(9)], "data.label"),
        ("text-classification", {"problem": "regression"}, [{"text": texts(n), "label": 2} for n in range(9)], "data.label"),
        ("token-classification", {}, [{"text": [texts(n)], "label": ["O"]} for n in range(9)], "data.label"),
        ("embedding", {"text_b": "b"}, [{"text": texts(n), "b": "b", "label": 0.5} for n in range(9)], "data.label"),
        ("ranking", {}, [{"text": texts(n), "documents": ["a", "b"], "label": [1, 1]} for n in range(9)], "data.label"),
    ],
)
def test_labels_that_are_all_the_same_are_refused(api: Api, task: str, data: dict[str, Any], rows: Rows, param: str) -> None:
    error = problem(api.client.post(URL, json=spec(api, task, rows, data=data)), 400, "dataset_invalid")
    assert error["param"] == param
    assert error["hint"]


def test_rows_that_are_too_few_to_split(api: Api) -> None:
    one = spec(api, "masked-lm", ROWS["masked"][:1])
    assert problem(api.client.post(URL, json=one), 400, "dataset_invalid")["param"] == "data.training_file"
    few = spec(api, "masked-lm", ROWS["masked"], data={"max_examples": 1})
    assert problem(api.client.post(URL, json=few), 400, "dataset_invalid")["param"] == "data.max_examples"
    few["data"]["validation_file"] = upload(api, ROWS["masked"])
    assert api.client.post(URL, json=few).status_code == 201
    alone = spec(api, "text-classification", [{"text": texts(n), "label": n} for n in range(9)])
    assert problem(api.client.post(URL, json=alone), 400, "dataset_invalid")["param"] == "data.label"


def test_what_is_odd_about_labels_is_a_warning(api: Api) -> None:
    rows = [{"text": texts(n), "label": ["always", *(["card"] if n % 2 else [])]} for n in range(9)]
    said = api.client.post(VALIDATE, json=spec(api, "text-classification", rows, data={"problem": "multi_label"})).json()
    assert said["valid"]
    assert [w["param"] for w in said["warnings"] if w["code"] == "constant_label"] == ["data.label"]
    said = api.client.post(VALIDATE, json=spec(api, "embedding", ROWS["embedding"], data={"text_b": "text_b"})).json()
    assert "scores_rescaled" in {w["code"] for w in said["warnings"]}


@pytest.mark.parametrize(
    ("task", "rows", "data", "strange"),
    [
        ("text-classification", "multi", {"problem": "multi_label"}, {"text": "a", "label": ["card", "travel"]}),
        ("token-classification", "tokens", {}, {"text": ["a", "b"], "label": ["O", "travel"]}),
    ],
)
def test_a_label_only_in_the_test_file_is_refused(
    api: Api, task: str, rows: str, data: dict[str, Any], strange: dict[str, Any]
) -> None:
    body = spec(api, task, ROWS[rows], data={**data, "test_file": upload(api, [strange])})
    error = problem(api.client.post(URL, json=body), 400, "dataset_invalid")
    assert (error["param"], error["details"]) == ("data.test_file", [{"label": "travel", "rows": 1}])


def test_columns_that_are_nowhere(api: Api) -> None:
    for task, data, param in (
        ("ranking", {"documents": "passages"}, "data.documents"),
        ("text-classification", {"text_b": "second"}, "data.text_b"),
        ("embedding", {"text_b": "second"}, "data.text_b"),
        ("masked-lm", {"text": "body"}, "data.text"),
        ("masked-lm", {"route": "language"}, "data.route"),
    ):
        rows = ROWS[{"ranking": "ranking", "text-classification": "single"}.get(task, "masked")]
        more = {"route": "en"} if "route" in data else {}
        error = problem(api.client.post(URL, json=spec(api, task, rows, data=data, teacher=more)), 400, "dataset_invalid")
        assert error["param"] == param, error
        assert "olumns are" in error["hint"]


def test_scored_pairs_may_be_in_the_test_file_alone(api: Api) -> None:
    data = {"text_b": "text_b", "test_file": upload(api, ROWS["embedding"])}
    said = api.client.post(VALIDATE, json=spec(api, "embedding", ROWS["masked"], data=data)).json()
    assert said["valid"], said["errors"]


# -- models that do not do the task ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "rows", "data", "config", "code"),
    [
        ("text-classification", "single", {}, {"architectures": ["BertModel"]}, "unsupported_method"),
        ("text-classification", "single", {}, {"labels": ["no", "yes"]}, "incompatible_models"),
        ("text-classification", "regression", {"problem": "regression"}, {"labels": ["no", "yes"]}, "incompatible_models"),
        ("token-classification", "tokens", {}, {"architectures": ["BertForSequenceClassification"]}, "unsupported_method"),
        ("token-classification", "tokens", {}, {"labels": ["B-X", "O"]}, "incompatible_models"),
        ("ranking", "ranking", {}, {"architectures": ["BertModel"]}, "unsupported_method"),
        ("ranking", "ranking", {}, {"labels": ["no", "yes"]}, "incompatible_models"),
        ("masked-lm", "masked", {}, {"architectures": ["BertModel"]}, "unsupported_method"),
        ("masked-lm", "masked", {}, {"architectures": ["LlamaForCausalLM"]}, "unsupported_method"),
        ("embedding", "masked", {}, {"architectures": ["GPT2LMHeadModel"]}, "unsupported_method"),
    ],
)
def test_a_teacher_that_cannot_answer_is_refused(
    api: Api, task: str, rows: str, data: dict[str, Any], config: dict[str, Any], code: str
) -> None:
    body = spec(api, task, ROWS[rows], data=data)
    body["teacher"] = teacher(api, task, **config)
    error = problem(api.client.post(URL, json=body), 400, code)
    assert error["param"] == "teacher.model"
    assert error["hint"]
    if "finetune" in error["hint"]:
        body["teacher"]["finetune"] = {"epochs": 1}
        said = api.client.post(VALIDATE, json=body).json()
        assert said["valid"], said["errors"]


@pytest.mark.parametrize(
    ("task", "rows", "labels"),
    [("text-classification", "single", ["card", "refund"]), ("token-classification", "tokens", ["B-N", "O"])],
)
def test_a_teacher_that_knows_these_labels_needs_no_fitting(api: Api, task: str, rows: str, labels: list[str]) -> None:
    body = spec(api, task, ROWS[rows])
    for known in (labels, [*reversed(labels)], ["other", *labels]):
        body["teacher"] = teacher(api, task, known)
        said = api.client.post(VALIDATE, json=body).json()
        assert said["valid"], said["errors"]
        body["teacher"]["ensemble"] = [teacher(api, task, [*reversed(known)])]
        error = problem(api.client.post(URL, json=body), 400, "incompatible_models")
        assert error["param"] == "teacher.ensemble[0].model"


def test_any_encoder_is_a_bi_encoder(api: Api) -> None:
    body = spec(api, "ranking", ROWS["ranking"], ranking={"teacher": "bi_encoder", "student": "bi_encoder"})
    body["teacher"] = teacher(api, "embedding")
    said = api.client.post(VALIDATE, json=body).json()
    assert said["valid"], said["errors"]


def test_every_member_of_an_ensemble_is_looked_at(api: Api) -> None:
    body = spec(api, "text-classification", ROWS["single"])
    good, bad = teacher(api, "text-classification", ["card", "refund"]), teacher(api, "text-classification", ["no", "yes"])
    body["teacher"]["ensemble"] = [good, bad]
    error = problem(api.client.post(URL, json=body), 400, "incompatible_models")
    assert error["param"] == "teacher.ensemble[1].model"
    body["teacher"]["ensemble"] = [good, {"source": "local", "model": "nobody"}]
    assert problem(api.client.post(URL, json=body), 404, "model_not_found")["param"] == "teacher.ensemble[1].model"
    body["teacher"]["ensemble"] = [good, {**bad, "finetune": {"epochs": 1}}]
    assert api.client.post(URL, json=body).status_code == 201


def test_texts_longer_than_a_model_reads(api: Api) -> None:
    for kind, most in (("bert", 64), ("roberta", 62)):
        body = spec(api, "masked-lm", ROWS["masked"], data={"max_length": most + 1})
        body["teacher"] = teacher(api, "masked-lm", model_type=kind)
        error = problem(api.client.post(URL, json=body), 400, "invalid_parameter")
        assert error["param"] == "data.max_length"
        assert f"at most {most}" in error["hint"]
