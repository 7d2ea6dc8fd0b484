"""Objectives that compare head by head, or split both widths anew: whether student and teacher have the heads and widths for it.

What an objective asks for is in the catalogue: `equal` (a fact of its class) and `x-divides` (of a parameter).
"""

from collections.abc import Iterator
from typing import Any

from app.domain import catalog
from app.domain.errors import IncompatibleModels, InvalidRequest
from app.domain.model_checks import Models
from app.domain.plan_checks import Planned

Measures = tuple[int, int]  # width, heads


def check(plan: Planned, models: Models) -> list[InvalidRequest]:
    teacher = _own(models.teacher)
    found: list[InvalidRequest] = []
    if teacher is None:
        return found
    students = _students(plan, models, teacher)
    for i, stage, j, objective, entry in plan.objectives():
        if stage.teacher.type != catalog.MAIN:
            continue  # whoever teaches has the student's own measures
        where = f"objectives[{j}]"
        odd = next((heads for _, heads in students if heads != teacher[1]), None)
        if "heads" in entry.get("equal", ()) and odd is not None:
            found.append(
                IncompatibleModels(
                    f"Objective '{objective.type}' compares head by head: the student has {odd}, the teacher {teacher[1]}.",
                    param=plan.at(i, where),
                    hint=_way_out(plan, students, teacher),
                )
            )
        for name, parts in _divisors(entry["schema"], objective.params):
            width = next((width for width, _ in students if width % parts or teacher[0] % parts), None)
            if width is not None:
                fitting = [n for n in range(1, teacher[0] + 1) if not (teacher[0] % n or any(w % n for w, _ in students))]
                message = f"'{name}' of '{objective.type}', {parts}, does not divide the widths {width} and {teacher[0]}."
                hint = f"Use one of {', '.join(map(str, fitting))}, or leave it out."
                found.append(IncompatibleModels(message, param=plan.at(i, f"{where}.{name}"), hint=hint))
    return found


def _divisors(schema: dict[str, Any], params: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, described in schema.get("properties", {}).items():
        if described.get("x-divides") == "hidden_size" and type(params.get(name)) is int:
            yield name, params[name]


def _way_out(plan: Planned, students: list[Measures], teacher: Measures) -> str:
    hint = 'Use "minilmv2", which splits both into the same number of relation heads'
    settable = plan.full.student.init in ("teacher_layers", "config")
    if settable and all(width % teacher[1] == 0 for width, _ in students):
        hint += f"; or set student.num_attention_heads to {teacher[1]}"
    return f"{hint}."


def _students(plan: Planned, models: Models, teacher: Measures) -> list[Measures]:
    """Of every student that the job may train; empty while they are not known, or where none can be made."""
    asked = plan.full.student.params
    match plan.full.student.init:
        case "teacher_layers":
            widths = plan.full.target.hidden_sizes if plan.full.target else None
            made = [_cut(width, asked, teacher) for width in widths or [asked.get("hidden_size") or teacher[0]]]
            if plan.full.target and not widths:  # the search tries narrower ones than the teacher too
                made.append(_cut(teacher[0] // teacher[1], asked, teacher))
            return [measures for measures in made if measures is not None]
        case "config":
            width, heads = asked["hidden_size"], asked["num_attention_heads"]
            return [] if width % heads else [(width, heads)]
    own = _own(models.student)
    return [] if own is None else [own]


def _cut(width: int, asked: dict[str, Any], teacher: Measures) -> Measures | None:
    heads = asked.get("num_attention_heads") or width // (teacher[0] // teacher[1])
    return None if width > teacher[0] or heads < 1 or width % heads else (width, heads)


def _own(info: Any) -> Measures | None:
    if info is None or info.hidden_size is None or info.num_heads is None or not 0 < info.num_heads <= info.hidden_size:
        return None  # the config does not say, or says nonsense
    return info.hidden_size, info.num_heads
