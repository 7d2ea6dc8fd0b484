"""How a recipe's templates become the stages of a job, and what is refused on the way."""

from typing import Any

import pytest

from app.domain import catalog, recipes
from app.domain.errors import InvalidRequest, UnsupportedMethod
from app.domain.ids import FILE, new_id
from app.domain.plan_checks import Planned
from app.domain.plan_checks import check as check_plan
from app.domain.spec import JobSpec

FILE_ID = new_id(FILE)
PROBLEMS = {  # kind of target → what of a job says so
    "single_label": {},
    "multi_label": {"data": {"training_file": FILE_ID, "problem": "multi_label"}},
    "regression": {"data": {"training_file": FILE_ID, "problem": "regression"}},
    "tokens": {"task": "token-classification"},
    "embedding": {"task": "embedding"},
    "ranking": {"task": "ranking"},
    "masked_lm": {"task": "masked-lm"},
}


def job(**changes: Any) -> JobSpec:
    body: dict[str, Any] = {
        "name": "intents",
        "task": "text-classification",
        "teacher": {"source": "registry", "model": "minilm"},
        "student": {"init": "teacher_layers", "layers": 2},
        "data": {"training_file": FILE_ID},
    }
    return JobSpec.model_validate(body | changes)


def entry(
    *objectives: Any, params: dict[str, Any] | None = None, stage: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A recipe of one stage; `params` are its parameters' defaults."""
    described = {name: {"default": value} for name, value in (params or {}).items()}
    return {"schema": {"properties": described}, "stages": [{"name": "one", "objectives": [*objectives], **(stage or {})}], **more}


def written(made: dict[str, Any], spec: JobSpec | None = None, **given: Any) -> list[dict[str, Any]]:
    return recipes.write_out("made", given, spec or job(), made)


SOFT = {"$soft": {"temperature": {"$param": "tau"}, "weight": {"$param": "alpha"}}}
HARD = {"$hard": {"weight": {"$one_minus": "alpha"}}}


@pytest.mark.parametrize(
    ("problem", "soft", "hard"),
    [
        ("single_label", [(1, {"type": "response", "temperature": 3.0})], "hard_label"),
        ("multi_label", [(1, {"type": "response", "temperature": 3.0})], "hard_label"),
        ("regression", [(1, {"type": "response", "divergence": "logit_mse"})], "hard_label"),
        ("tokens", [(1, {"type": "response", "temperature": 3.0})], "hard_label"),
        (
            "embedding",
            [(1, {"type": "embedding_cosine"}), (400, {"type": "similarity_kl", "temperature": 0.05})],
            "hard_similarity",
        ),
        ("ranking", [(1, {"type": "listnet"})], "hard_rank"),
        ("masked_lm", [(1, {"type": "response", "temperature": 3.0})], "masked_lm"),
    ],
)
def test_soft_and_hard_are_those_of_the_task(problem: str, soft: list[tuple[int, dict[str, Any]]], hard: str) -> None:
    made = entry(SOFT, HARD, params={"tau": 3.0, "alpha": 0.9})
    (stage,) = written(made, job(**PROBLEMS[problem]))
    assert stage["objectives"] == [*({**o, "weight": w * 0.9} for w, o in soft), {"type": hard, "weight": 0.1}]
    mine = job(**PROBLEMS[problem], stages=[stage])
    assert not [f for f in check_plan(Planned(mine, catalog.expand(mine), 100, 100)) if f.param and "objectives" in f.param]


def test_a_scheduled_weight_is_scaled_as_a_whole() -> None:
    made = entry(
        {"$soft": {"weight": {"$param": "w"}}}, params={"w": {"schedule": "step", "start": 1, "at": [0.5], "values": [0.25]}}
    )
    (stage,) = written(made, job(task="embedding"))
    assert stage["objectives"][1]["weight"] == {"schedule": "step", "start": 400, "at": [0.5], "values": [100]}
    assert JobSpec.model_validate(job().model_dump() | {"stages": [stage]}).stages


def test_an_objective_without_weight_is_left_out() -> None:
    made = entry(SOFT, HARD, {"type": "pkd", "weight": {"$param": "beta"}}, params={"tau": 1, "alpha": 0.5, "beta": 0})
    assert [o["type"] for o in written(made)[0]["objectives"]] == ["response", "hard_label"]
    assert [o["type"] for o in written(made, alpha=1, beta=2)[0]["objectives"]] == ["response", "pkd"]
    assert [o["type"] for o in written(made, alpha=0)[0]["objectives"]] == ["hard_label"]


def test_parameters_stand_in_at_any_depth_and_keep_their_type() -> None:
    schedule = {"schedule": "cosine", "start": 8, "end": 1}
    made = entry(
        {"type": "response", "temperature": {"$param": "tau"}, "layers": [[1, {"$param": "layer"}]]},
        params={"tau": 2.0, "layer": 3, "peers": None},
        stage={"teacher": {"type": "mutual", "peers": {"$param": "peers"}}, "restart": True},
    )
    assert written(made, tau=schedule) == [
        {
            "name": "one",
            "objectives": [{"type": "response", "temperature": schedule, "layers": [[1, 3]]}],
            "teacher": {"type": "mutual", "peers": None},
            "restart": True,
        }
    ]
    assert list(written(made)[0]) == ["name", "objectives", "teacher", "restart"], "in the template's order"


@pytest.mark.parametrize(
    ("epochs", "share", "parts"),
    [(10, 0.5, (5, 5)), (10, 0.3, (3, 7)), (2, 0.99, (1, 1)), (3, 0.01, (1, 2)), (7, 0.9, (6, 1)), (1000, 0.001, (1, 999))],
)
def test_two_stages_share_the_epochs(epochs: int, share: float, parts: tuple[int, int]) -> None:
    made = entry(params={"epochs": epochs, "share": share})
    made["stages"] = [
        {"name": name, "objectives": [{"type": "minilm"}], "epochs": {key: ["epochs", "share"]}}
        for name, key in (("first", "$first"), ("second", "$rest"))
    ]
    assert tuple(stage["epochs"] for stage in written(made)) == parts


def test_a_stage_is_repeated_under_names_of_its_own() -> None:
    made = entry({"type": "minilm"}, params={"times": 2}, stage={"name": {"$repeat": ["again", {"$param": "times"}]}, "epochs": 4})
    assert [(s["name"], s["epochs"]) for s in written(made)] == [("again-1", 4), ("again-2", 4)]
    stages = written(made, times=3)
    assert [s["name"] for s in stages] == ["again-1", "again-2", "again-3"]
    stages[0]["objectives"][0]["weight"] = 5
    assert "weight" not in stages[1]["objectives"][0], "no two stages are one object"


def test_defaults_of_a_task_give_way_to_what_is_given() -> None:
    made = entry(SOFT, HARD, params={"tau": 2, "alpha": 0.9}, task_defaults={"embedding": {"alpha": 1.0}})
    vectors = job(task="embedding")
    assert [(o["type"], o["weight"]) for o in written(made, vectors)[0]["objectives"]] == [
        ("embedding_cosine", 1.0),
        ("similarity_kl", 400.0),
    ]
    assert [o["weight"] for o in written(made, vectors, alpha=0.25)[0]["objectives"]] == [0.25, 100.0, 0.75]
    assert written(made)[0]["objectives"][0]["weight"] == 0.9


def test_a_parameter_that_says_nothing_about_the_job_is_refused() -> None:
    made = entry(SOFT, HARD, params={"tau": 2, "alpha": 1.0})
    assert written(made, tau=5)[0]["objectives"][0]["temperature"] == 5
    with pytest.raises(InvalidRequest) as caught:
        written(made, job(task="embedding"), tau=5)
    assert (caught.value.param, caught.value.hint) == ("recipe.tau", "Leave it out.")
    assert "embedding" in caught.value.message


# -- against the real catalogue --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "scheme", "epochs"),
    [
        ({}, "int8_qat", None),
        ({"quantization": {}}, "int8_qat", None),
        ({"quantization": {"epochs": 5}}, "int8_qat", 5),
        ({"quantization": {"scheme": "int8_qat", "epochs": 5}}, "int8_qat", 5),
        ({"quantization": {"scheme": "none"}}, "none", None),
        ({"quantization": {"scheme": "int8_dynamic"}}, "int8_dynamic", None),
    ],
)
def test_a_recipe_fills_in_blocks_that_were_left_out(given: dict[str, Any], scheme: str, epochs: int | None) -> None:
    full = catalog.expand(job(recipe="qad", **given))
    assert full.quantization.scheme == scheme
    if epochs is not None:
        assert full.quantization.params["epochs"] == epochs
    assert catalog.expand(job(recipe="response", quantization={"scheme": scheme})).quantization.scheme == scheme


def test_stages_written_by_hand_have_no_recipe_to_fill_in() -> None:
    spec = job(stages=[{"name": "a", "objectives": [{"type": "hard_label"}]}])
    assert recipes.with_defaults(spec, catalog.room("recipes")) is spec
    assert catalog.expand(spec).quantization.scheme == "int8_dynamic"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "response"),
        ({"task": "token-classification"}, "response"),
        ({"task": "embedding"}, "embedding"),
        ({"task": "ranking"}, "ranker"),
        ({"task": "masked-lm"}, "distilbert"),
        ({"student": {"init": "static"}}, "static"),
        ({"student": {"init": "static"}, "task": "embedding"}, "static"),
        ({"student": {"init": "static"}, "task": "masked-lm"}, "distilbert"),
        ({"recipe": "tinybert"}, "tinybert"),
    ],
)
def test_without_a_recipe_that_of_the_student_or_the_task(changes: dict[str, Any], name: str) -> None:
    assert recipes.chosen(job(**changes), catalog.room("recipes")) == (name, {})


@pytest.mark.parametrize(
    ("recipe", "changes", "others"),
    [
        ("pkd", {"task": "embedding"}, {"embedding", "response", "tinybert"}),
        ("ranker", {}, {"pkd", "response"}),
        ("embedding", {"task": "ranking"}, {"ranker"}),
        ("self_mutual", PROBLEMS["regression"], {"response", "qad"}),
        ("static", {}, {"response"}),
    ],
)
def test_a_recipe_for_something_else_is_refused_with_those_that_fit(recipe: str, changes: dict[str, Any], others: set[str]) -> None:
    with pytest.raises(UnsupportedMethod) as caught:
        catalog.expand(job(recipe=recipe, **changes))
    assert caught.value.param == "recipe"
    assert recipe in caught.value.message
    offered = str(caught.value.hint).removeprefix("Recipes for this job: ").rstrip(".").split(", ")
    assert others <= set(offered)
    assert recipe not in offered
    for other in offered:
        assert catalog.expand(job(recipe=other, **changes)).stages


@pytest.mark.parametrize(
    ("recipe", "param"),
    [
        ({"type": "response", "temperature": -1}, "recipe.temperature"),
        ({"type": "response", "temperature": {"schedule": "cosine", "start": 8, "end": 0}}, "recipe.temperature"),
        ({"type": "response", "alpha": 2}, "recipe.alpha"),
        ({"type": "response", "generations": 2}, "recipe.generations"),
        ({"type": "tinybert", "epochs": 1}, "recipe.epochs"),
        ({"type": "tinybert", "feature_share": 1}, "recipe.feature_share"),
        ({"type": "self_mutual", "alpha": 1}, "recipe.alpha"),
        ({"type": "born_again", "generations": 16}, "recipe.generations"),
        ({"type": "distilbert", "soft_weight": 0, "hard_weight": 0, "cosine_weight": 0}, "recipe"),
    ],
)
def test_wrong_parameters_are_named(recipe: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        catalog.expand(job(recipe=recipe))
    assert caught.value.param == param, caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("task", ["embedding", "ranking"])
def test_rows_without_labels_need_a_recipe_without_them(task: str) -> None:
    def faults(recipe: Any) -> list[Any]:
        spec = job(task=task, recipe=recipe)
        return list(check_plan(Planned(spec, catalog.expand(spec), usable=100, labelled=0)))

    assert faults("response") == []
    (fault,) = faults({"type": "response", "alpha": 0.5})
    assert (fault.code, fault.param) == ("dataset_invalid", "recipe")
    assert fault.hint


def test_a_written_out_recipe_resolves_to_itself() -> None:
    full = catalog.expand(job(recipe={"type": "born_again", "generations": 1}))
    assert full.recipe is None
    again = catalog.expand(JobSpec.model_validate(full.resolved()))
    assert again.resolved() == full.resolved()
    assert [(s.name, s.teacher.type, s.restart) for s in again.stages or []] == [
        ("generation-0", "main", False),
        ("generation-1", "previous", True),
    ]
