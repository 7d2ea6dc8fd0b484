"""Heads and widths that an objective cannot compare: refused from the configs alone, exactly where the objective itself would."""

from typing import Any

import pytest

from app.domain import catalog, shape_checks
from app.domain.errors import InvalidRequest
from app.domain.ids import FILE, new_id
from app.domain.model_checks import Models
from app.domain.modelfiles import ModelInfo
from app.domain.plan_checks import Planned
from app.domain.spec import JobSpec
from tests.unit.objectives.made import catalogue
from worker.signals import Shape

LAYERS = {"init": "teacher_layers", "layers": 2}
CONFIG = {"init": "config"}
OTHER = {"init": "pretrained", "model": "small"}


def info(hidden: int | None, heads: int | None) -> ModelInfo:
    nothing: dict[str, Any] = dict.fromkeys(("intermediate_size", "vocab_size", "max_positions", "num_labels", "labels"))
    told = {"has_tokenizer": True, "params": 1, "bytes": 4}
    return ModelInfo("bert", ["BertModel"], hidden_size=hidden, num_layers=6, num_heads=heads, **nothing, **told)


TEACHER = info(384, 12)


def faults(
    student: dict[str, Any],
    *objectives: dict[str, Any],
    own: ModelInfo | None = None,
    teacher: ModelInfo | None = TEACHER,
    **more: Any,
) -> list[InvalidRequest]:
    stage = {"name": "one", "objectives": list(objectives), **more.pop("stage", {})}
    body = {
        "name": "intents",
        "task": "text-classification",
        "teacher": {"source": "registry", "model": "minilm"},
        "student": student,
        "data": {"training_file": new_id(FILE)},
        "stages": [stage],
        **more,
    }
    full = catalog.expand(JobSpec.model_validate(body))
    return shape_checks.check(Planned(full, full), Models(teacher, own))


MINILM, V2 = {"type": "minilm"}, {"type": "minilmv2"}


@pytest.mark.parametrize(
    ("student", "own", "objective", "measures"),
    [
        (LAYERS, None, MINILM, (384, 12)),
        (LAYERS | {"hidden_size": 192}, None, MINILM, (192, 6)),
        (LAYERS | {"hidden_size": 192, "num_attention_heads": 12}, None, MINILM, (192, 12)),
        (LAYERS | {"num_attention_heads": 6}, None, MINILM, (384, 6)),
        (CONFIG, None, MINILM, (128, 2)),
        (CONFIG | {"hidden_size": 240, "num_attention_heads": 12}, None, MINILM, (240, 12)),
        (OTHER, info(256, 12), MINILM, (256, 12)),
        (OTHER, info(256, 4), MINILM, (256, 4)),
        (LAYERS | {"hidden_size": 192}, None, V2 | {"relation_heads": 48}, (192, 6)),
        (LAYERS | {"hidden_size": 128}, None, V2 | {"relation_heads": 48}, (128, 4)),
        (CONFIG | {"hidden_size": 100}, None, V2 | {"relation_heads": 4}, (100, 2)),
        (CONFIG | {"hidden_size": 100}, None, V2 | {"relation_heads": 5}, (100, 2)),
        (CONFIG | {"hidden_size": 100}, None, V2, (100, 2)),
        (OTHER, info(256, 4), V2 | {"relation_heads": 12}, (256, 4)),
        (OTHER, info(256, 4), {"type": "attention_mse"}, (256, 4)),
    ],
)
def test_it_refuses_what_the_objective_would(
    student: dict[str, Any], own: ModelInfo | None, objective: dict[str, Any], measures: tuple[int, int]
) -> None:
    width, heads = measures
    asked = catalogue()[objective["type"]](**{k: v for k, v in objective.items() if k != "type"})
    said = None
    try:
        asked.setup(Shape(2, width, heads, width), Shape(6, 384, 12, 384))
    except InvalidRequest as error:
        said = error
    found = faults(student, {"type": "response"}, objective, own=own)
    assert [fault.code for fault in found] == ([] if said is None else [said.code])
    for fault in found:
        assert fault.param == "stages[0].objectives[1]" + (".relation_heads" if objective["type"] == "minilmv2" else "")
        assert fault.hint
        if objective["type"] == "minilm":
            assert f"has {heads}, the teacher 12" in fault.message
        else:
            assert said is not None
            assert fault.hint == said.hint


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_the_catalogue_says_which_objectives_need_equal_heads(name: str) -> None:
    """And no other refuses them."""
    if "qkv" not in catalogue()[name].needs:
        assert not catalogue()[name].equal
        return
    refused = False
    try:
        catalogue()[name]().setup(Shape(2, 384, 6, 384), Shape(6, 384, 12, 384))
    except InvalidRequest:
        refused = True
    assert refused == ("heads" in catalog.room("objectives")[name].get("equal", ()))


def test_the_way_out_is_one_that_works() -> None:
    (fault,) = faults(LAYERS | {"hidden_size": 192}, MINILM)
    assert "student.num_attention_heads to 12" in str(fault.hint)
    (fault,) = faults(CONFIG, MINILM)  # 128 cannot be shared by 12
    assert "num_attention_heads" not in str(fault.hint)
    assert "minilmv2" in str(fault.hint)


def test_every_student_of_a_search_must_fit() -> None:
    assert not faults(LAYERS, MINILM, target={"min_speedup": 2, "hidden_sizes": [384]})
    for widths in ([192, 384], None):
        (fault,) = faults(LAYERS, MINILM, target={"min_speedup": 2, "hidden_sizes": widths})
        assert fault.code == "incompatible_models"
    assert not faults(LAYERS | {"num_attention_heads": 12}, MINILM, target={"min_speedup": 2, "hidden_sizes": [192, 384]})


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert not faults(LAYERS | {"hidden_size": 192}, MINILM, teacher=None)
    assert not faults(OTHER, MINILM, own=None)
    assert not faults(CONFIG, MINILM, teacher=info(8, 100))  # a config that says nonsense
    assert not faults(LAYERS | {"hidden_size": 192}, MINILM, stage={"teacher": {"type": "ema"}})


def test_a_recipe_is_named_where_it_was_written() -> None:
    body = {
        "name": "intents",
        "task": "text-classification",
        "teacher": {"source": "registry", "model": "minilm"},
        "student": LAYERS | {"hidden_size": 192},
        "data": {"training_file": new_id(FILE)},
        "recipe": "minilm",
    }
    spec = JobSpec.model_validate(body)
    (fault,) = shape_checks.check(Planned(spec, catalog.expand(spec)), Models(TEACHER, None))
    assert fault.param == "recipe"
