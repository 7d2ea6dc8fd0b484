"""Layers and projections as a plan tells them before the job runs: those that the objectives then set up for themselves."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from app.domain import catalog, plan_maps, shape_checks
from app.domain.errors import IncompatibleModels, InvalidRequest
from app.domain.ids import FILE, new_id
from app.domain.model_checks import Models
from app.domain.modelfiles import check_model_dir
from app.domain.plan_checks import Planned
from app.domain.spec import JobSpec
from app.domain.student_checks import static_width
from tests.fixtures.encoders import head_of, make_origin, make_teacher
from tests.unit.objectives.made import catalogue, variants
from worker import plugins
from worker.phases import stages
from worker.signals import Shape
from worker.training.plan import Plan

STUDENTS: dict[str, dict[str, Any]] = {
    "shallow": {"init": "teacher_layers", "layers": 2},
    "narrow": {"init": "teacher_layers", "layers": [0, 2, 5], "hidden_size": 16, "width": "importance"},
    "config": {"init": "config", "num_hidden_layers": 4, "hidden_size": 24, "num_attention_heads": 3},
    "static": {"init": "static"},
    "narrow static": {"init": "static", "hidden_size": 16},
    "pretrained": {"init": "pretrained", "source": "local", "model": "another"},
}
HEAD = head_of("single_label")
Block = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A teacher of six layers, 32 wide, and students: shapes as the worker reads them, models as the API does."""

    models: dict[str, Models]
    shapes: dict[str, Shape]
    teacher: Shape


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    origin = make_origin(folder / "origin", "bert", num_hidden_layers=6)
    other = make_teacher(folder / "another", "distilbert", "single_label")
    teacher, own = check_model_dir(origin.teacher_dir), check_model_dir(other)
    models, shapes = {}, {}
    for name, block in STUDENTS.items():
        pretrained = block["init"] == "pretrained"
        init = plugins.get("students", block["init"])(**{k: v for k, v in block.items() if k != "init"})
        torch.manual_seed(0)
        shapes[name] = HEAD.shape(HEAD.load(other) if pretrained else init.build(origin))
        models[name] = Models(teacher, own if pretrained else None)
    return Made(models, shapes, HEAD.shape(HEAD.load(origin.teacher_dir)))


def planned(student: Block, *objectives: Block, by: str = "main", **more: Any) -> Planned:
    body = {
        "name": "intents",
        "task": "text-classification",
        "teacher": {"source": "local", "model": "t"},
        "student": student,
        "data": {"training_file": new_id(FILE)},
        "stages": [{"name": "one", "objectives": list(objectives), "teacher": {"type": by}}],
        **more,
    }
    full = catalog.expand(JobSpec.model_validate(body))
    return Planned(full, full)


def reported(plan: Planned, student: Shape, teacher: Shape) -> list[Block]:
    """What the objectives of the plan's one stage tell of layers and projections once they are set up, as the report has it."""
    (stage,) = plan.full.stages or []
    found = []
    for name, objective, _ in Plan(stage.name, stages.objectives(stage), 1, 1e-4, 8, 7).named:
        objective.setup(student, teacher if "teacher" in objective.needs else None)
        told = {key: value for key, value in objective.plan().items() if key in ("layers", "projections")}
        if told and "teacher" in objective.needs:
            found.append({"stage": stage.name, "objective": name, **told})
    return list(json.loads(json.dumps(found)))


def asked(name: str, depth: int) -> list[Block]:
    """Every choice of every parameter, and pairs by hand where there are layers to name."""
    found = [{"type": name, **params} for params in variants(name) if "block_influence" not in params.values()]
    if catalog.room("objectives")[name].get("compares") == "map":
        found += [{"type": name, "layers": [[1, depth]]}, {"type": name, "layers": [[1, 1], [1, depth]]}]
    return found[:16]  # of a stage


TAUGHT = sorted(name for name, cls in catalogue().items() if "teacher" in cls.needs)


@pytest.mark.parametrize("by", ["main", "ema"])
@pytest.mark.parametrize("student", sorted(STUDENTS))
def test_it_is_what_the_report_will_say(made: Made, student: str, by: str) -> None:
    shape, models = made.shapes[student], made.models[student]
    told_of = set()
    for name in TAUGHT:
        plan = planned(STUDENTS[student], *asked(name, 6 if by == "main" else shape.layers), by=by)
        try:
            expected = reported(plan, shape, made.teacher if by == "main" else shape)
        except IncompatibleModels:
            assert name == "minilm"
            assert shape_checks.check(plan, models) or "static" in student
            continue
        told, faults = plan_maps.resolve(plan, models)
        assert not faults
        assert told == expected
        told_of |= {name for _ in told}
    layered = {name for name in TAUGHT if "layers" in catalogue()[name].Params.model_fields}
    assert layered | {"embedding_mse", "minilmv2"} <= told_of


@pytest.mark.parametrize("student", sorted(STUDENTS))
def test_measured_maps_are_told_when_they_are_measured(made: Made, student: str) -> None:
    names = [name for name in TAUGHT if {"layers": "block_influence"} in variants(name)]
    assert len(names) > 3
    blocks = [{"type": name, "layers": "block_influence"} for name in names]
    told, faults = plan_maps.resolve(planned(STUDENTS[student], *blocks), made.models[student])
    assert not faults
    teacher = Shape(6, 32, 4, 32, influence=(0.1,) * 6)
    for entry, later in zip(told, reported(planned(STUDENTS[student], *blocks), made.shapes[student], teacher), strict=True):
        assert entry["layers"] is None
        assert "block_influence" in entry["reason"]
        assert entry.keys() - {"reason"} == later.keys()
        if "projections" in later:
            assert entry["projections"] == (None if later["projections"] else {})


def _refused(made: Made, student: str, objective: Block, by: str = "main") -> tuple[InvalidRequest, InvalidRequest]:
    """By the plan, and by the objective itself."""
    plan = planned(STUDENTS[student], {"type": "response"}, objective, by=by)
    told, (fault,) = plan_maps.resolve(plan, made.models[student])
    assert told == []
    with pytest.raises(InvalidRequest) as caught:
        reported(plan, made.shapes[student], made.teacher if by == "main" else made.shapes[student])
    return fault, caught.value


@pytest.mark.parametrize(
    ("student", "objective", "by"),
    [
        ("shallow", {"type": "hidden_mse", "layers": [[3, 1]]}, "main"),
        ("shallow", {"type": "hidden_mse", "layers": [[1, 7]]}, "main"),
        ("shallow", {"type": "hidden_mse", "layers": [[1, 3]]}, "ema"),
        ("static", {"type": "hidden_mse", "layers": [[2, 6]]}, "main"),
        ("shallow", {"type": "attention_mse", "layers": [[0, 0]]}, "main"),
        ("shallow", {"type": "minilmv2", "teacher_layer": 7}, "main"),
        ("shallow", {"type": "hidden_mse", "layers": "block_influence"}, "ema"),  # nobody measures an average of the student
    ],
)
def test_it_refuses_what_the_objective_would(made: Made, student: str, objective: Block, by: str) -> None:
    fault, said = _refused(made, student, objective, by)
    assert fault.message.endswith(said.message)
    assert (fault.code, fault.hint) == (said.code, said.hint)
    assert fault.param == f"stages[0].objectives[1].{said.param}"


def test_what_is_not_known_is_left_out(made: Made) -> None:
    block = {"type": "hidden_mse"}
    known = made.models["shallow"]

    def tell(student: str, models: Models, **more: Any) -> list[Block]:
        return plan_maps.resolve(planned(STUDENTS[student], block, **more), models)[0]

    assert tell("shallow", known)
    assert tell("shallow", known, target={"min_speedup": 2}) == []
    assert tell("shallow", Models(None, None)) == []
    assert tell("pretrained", Models(known.teacher, None)) == []
    assert tell("config", Models(None, None)) == []
    assert tell("config", Models(None, None), by="ema"), "its teacher has its own measures, which the plan gives"


def test_a_static_student_is_as_wide_as_it_is_told() -> None:
    assert [static_width(None, most) for most in (384, 128)] == [256, 128]
    assert static_width(64, 384) == 64


def test_a_second_objective_of_a_kind_has_a_name_of_its_own(made: Made) -> None:
    blocks: list[Block] = [{"type": "hidden_mse", "layers": "last"}, {"type": "response"}, {"type": "hidden_mse", "weight": 0}]
    told, _ = plan_maps.resolve(planned(STUDENTS["narrow"], *blocks), made.models["narrow"])
    assert told == [
        {"stage": "one", "objective": "hidden_mse", "layers": [[3, 6]], "projections": {"layer_3_6": [16, 32]}},
        {
            "stage": "one",
            "objective": "hidden_mse-2",
            "layers": [[1, 2], [2, 4], [3, 6]],
            "projections": {"layer_1_2": [16, 32], "layer_2_4": [16, 32], "layer_3_6": [16, 32]},
        },
    ]
