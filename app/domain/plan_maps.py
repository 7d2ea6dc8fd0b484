"""Which layers every objective of a plan will compare and what it will project, told before the job runs.

By the same rules as the objectives set themselves up (`layer_maps`), from the catalogue's facts and the models' configs. What is
not known before the job runs is left out: a model of the hub, a student that a target has searched for.
"""

from dataclasses import dataclass
from typing import Any

from app.domain import catalog
from app.domain.errors import InvalidRequest
from app.domain.layer_maps import MEASURED, Rule
from app.domain.model_checks import Models, student_depth
from app.domain.modelfiles import ModelInfo
from app.domain.plan_checks import Planned
from app.domain.spec import Objective, Stage, numbered
from app.domain.student_checks import static_width

_REASON = f"'{MEASURED}' is measured on the job's texts when it starts."


@dataclass(frozen=True)
class Measures:
    layers: int
    hidden: int
    influence: tuple[float, ...] = ()

    @property
    def embedding(self) -> int:
        return self.hidden


def resolve(plan: Planned, models: Models) -> tuple[list[dict[str, Any]], list[InvalidRequest]]:
    """(an entry for every objective that compares layers or projects, what the objective itself would refuse)."""
    told: list[dict[str, Any]] = []
    faults: list[InvalidRequest] = []
    student, main = student_of(plan, models), _own(models.teacher)
    for i, stage in enumerate(plan.full.stages or []):
        teacher = main if stage.teacher.type == catalog.MAIN else student  # whoever else teaches has the student's measures
        if student is None or teacher is None:
            continue
        names = numbered([objective.type for objective in stage.objectives])
        for j, (objective, name) in enumerate(zip(stage.objectives, names, strict=True)):
            rule = Rule.told(catalog.room("objectives")[objective.type])
            if rule.compares is None and rule.projects is None:
                continue
            try:
                told.append({"stage": stage.name, "objective": name, **_entry(rule, stage, objective, student, teacher)})
            except InvalidRequest as error:
                message = f"Objective '{objective.type}' of stage '{stage.name}': {error.message}"
                faults.append(InvalidRequest(message, param=plan.at(i, f"objectives[{j}].{error.param}"), hint=error.hint))
    return told, faults


def _entry(rule: Rule, stage: Stage, objective: Objective, student: Measures, teacher: Measures) -> dict[str, Any]:
    """As the objective's `plan` tells it in the report; null where it is decided when the job starts."""
    if rule.compares == "map" and objective.params["layers"] == MEASURED and stage.teacher.type == catalog.MAIN:
        mapped: dict[str, Any] = {"projections": None if student.hidden != teacher.hidden else {}} if rule.projects else {}
        return {"layers": None, **mapped, "reason": _REASON}
    pairs = rule.pairs(objective.params, student, teacher)
    entry: dict[str, Any] = {"layers": [[*pair] for pair in pairs]} if rule.compares else {}
    if rule.projects:
        entry["projections"] = {name: [*widths] for name, widths in rule.projections(pairs, student, teacher).items()}
    return entry


def student_of(plan: Planned, models: Models) -> Measures | None:
    """Of the student that the job will train; None while it is not known."""
    asked, teacher, depth = plan.full.student.params, _own(models.teacher), student_depth(plan, models)
    if plan.full.target is not None:
        return None  # one of many, found by searching
    match plan.full.student.init:
        case "teacher_layers":
            width = asked.get("hidden_size") or (teacher.hidden if teacher else None)
        case "config":
            width = asked["hidden_size"]
        case "static":
            width, depth = static_width(asked.get("hidden_size"), teacher.hidden) if teacher else None, 1
        case "pretrained":
            return _own(models.student)
        case _:
            return None  # an operator's own kind
    return Measures(depth, width) if depth and width else None


def _own(info: ModelInfo | None) -> Measures | None:
    if info is None or not info.num_layers or not info.hidden_size or min(info.num_layers, info.hidden_size) < 1:
        return None  # the config does not say, or says nonsense
    return Measures(info.num_layers, info.hidden_size)
