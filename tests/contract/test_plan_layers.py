"""Layers, heads and projections that a plan pairs, over HTTP: refused where they do not exist, told before the job runs."""

from typing import Any

import pytest

from tests.contract.test_plan_checks import accepted, refused, stage
from tests.contract.test_tasks import ROWS, URL, VALIDATE, spec, teacher
from tests.fixtures.api import Api


@pytest.mark.parametrize(
    ("objective", "params", "name"),
    [
        ("hidden_mse", {"layers": [[1, 3], [2, 3]]}, "layers"),  # the student has one layer
        ("hidden_mse", {"layers": [[1, 4]]}, "layers"),  # the teacher three
        ("attention_mse", {"layers": [[0, 0]]}, "layers"),  # the embeddings have no queries
        ("minilmv2", {"teacher_layer": 4}, "teacher_layer"),
    ],
)
def test_layers_that_do_not_exist(api: Api, objective: str, params: dict[str, Any], name: str) -> None:
    body = spec(api, "text-classification", ROWS["single"], stages=[stage("response", (objective, params))])
    refused(api, body, "invalid_parameter", f"stages[0].objectives[1].{name}")


def test_layers_that_do_exist(api: Api) -> None:
    pairs = ("hidden_mse", {"layers": [[0, 0], [1, 3]]})
    accepted(api, spec(api, "text-classification", ROWS["single"], stages=[stage("response", pairs)]))
    generations = [
        stage("response", name="a"),
        stage("response", ("hidden_mse", {"layers": [[1, 3]]}), name="b", teacher={"type": "ema"}),
    ]
    body = spec(api, "text-classification", ROWS["single"], stages=generations)
    error = refused(api, body, "invalid_parameter", "stages[1].objectives[1].layers")
    assert "the teacher has no layer 3" in error["message"], "the average of the student has the student's one layer"


def test_layers_and_projections_are_told_before_the_job_runs(api: Api) -> None:
    made = {"init": "teacher_layers", "layers": 2, "hidden_size": 8}
    objectives = ["response", ("hidden_mse", {"include_embeddings": True}), "attention_mse", "embedding_cosine"]
    measured = ("hidden_cosine", {"layers": "block_influence"})
    stages = [stage(*objectives, name="a"), stage(measured, "hard_label", name="b")]
    task = "text-classification"
    large = teacher(api, task, hidden_size=16)  # of three layers
    body = spec(api, task, ROWS["single"], teacher=large, student=made, stages=stages)
    told = accepted(api, body)["alignment"]
    assert told[:3] == [
        {
            "stage": "a",
            "objective": "hidden_mse",
            "layers": [[0, 0], [1, 2], [2, 3]],
            "projections": {"layer_0_0": [8, 16], "layer_1_2": [8, 16], "layer_2_3": [8, 16]},
        },
        {"stage": "a", "objective": "attention_mse", "layers": [[1, 2], [2, 3]]},
        {"stage": "a", "objective": "embedding_cosine", "projections": {"embedding": [8, 16]}},
    ]
    assert (told[3]["stage"], told[3]["objective"], told[3]["layers"], told[3]["projections"]) == ("b", "hidden_cosine", None, None)
    assert "block_influence" in told[3]["reason"]
    assert len(told) == 4
    assert accepted(api, body | {"target": {"min_retention": 0.9}})["alignment"] == [], "the student is yet to be found"
    by_itself = body | {"stages": [stage("response", name="a"), stage("response", measured, name="b", teacher={"type": "ema"})]}
    error = refused(api, by_itself, "invalid_parameter", "stages[1].objectives[1].layers")
    assert "was not measured" in error["message"]
    assert api.client.post(VALIDATE, json=by_itself).json()["alignment"] is None
    job = api.client.post(URL, json=body).json()
    assert api.client.get(f"{URL}/{job['id']}/spec").json()["alignment"] == told


def test_where_queries_keys_and_values_lie_must_be_known(api: Api) -> None:
    body = spec(api, "masked-lm", ROWS["masked"], stages=[stage("response", "attention_mse")])
    body["teacher"] = teacher(api, "masked-lm", model_type="mpnet")
    body["student"] = {"init": "config"}
    refused(api, body, "unsupported_method", "stages[0].objectives[1]")
    body["stages"] = [stage("response", "hidden_mse")]
    accepted(api, body)


def test_heads_that_cannot_be_compared_one_by_one(api: Api) -> None:
    task, rows = "text-classification", ROWS["single"]  # the teacher is 8 wide and has 2 heads
    made = {"init": "teacher_layers", "layers": 1, "num_attention_heads": 4}
    body = spec(api, task, rows, student=made, stages=[stage("response", "minilm")])
    error = refused(api, body, "incompatible_models", "stages[0].objectives[1]")
    assert "the student has 4, the teacher 2" in error["message"]
    accepted(api, body | {"stages": [stage("response", "minilmv2")]})
    accepted(api, body | {"student": made | {"num_attention_heads": 2}})
    body["stages"] = [stage("response", ("minilmv2", {"relation_heads": 3}))]
    assert "1, 2, 4, 8" in refused(api, body, "incompatible_models", "stages[0].objectives[1].relation_heads")["hint"]
