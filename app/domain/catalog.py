"""The plug-in catalogue: what `make catalog` exported, and the check of a JobSpec against it. No torch, no worker."""

import difflib
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
from pydantic import ValidationError

from app.domain import recipes, student_checks
from app.domain.errors import InvalidRequest, MissingParameter, UnknownParameter
from app.domain.schedule import Schedule
from app.domain.spec import JobSpec

MAIN = "main"  # who teaches a stage unless it says otherwise: the job's own teacher


_path = [Path(__file__).parent / "catalog.json"]


def use(path: Path) -> None:
    """Another catalogue from now on: one that knows the operator's own plug-ins too."""
    _path[0] = path
    load.cache_clear()


@lru_cache(maxsize=1)
def load() -> dict[str, Any]:
    return dict(json.loads(_path[0].read_text(encoding="utf-8")))


def room(name: str) -> dict[str, Any]:
    """Plug-ins of one kind: name → {doc, schema, needs, problems, …}; empty while there are none."""
    return dict(load().get(name, {}))


def expand(spec: JobSpec) -> JobSpec:
    """The spec with its recipe written out as stages and every default filled in. Checks every block on the way.

    Raises InvalidRequest (with `param`, `hint` and all problems in `details`) unless every plug-in block is right.
    """
    spec = recipes.with_defaults(spec, room("recipes"))
    _raise([*_problems(spec)])
    body = spec.resolved()
    if body["stages"] is None:
        body["stages"], body["recipe"] = _written_out(spec), None
    body["student"] = _filled("students", "init", body["student"])
    body["quantization"] = _filled("quantizers", "scheme", body["quantization"])
    body["augmentation"] = [_filled("augmenters", "type", block) for block in body["augmentation"]]
    for stage in body["stages"]:
        stage["objectives"] = [_filled("objectives", "type", objective) for objective in stage["objectives"]]
        stage["teacher"] = _filled("teachers", "type", stage.get("teacher") or {"type": MAIN})
    try:
        return JobSpec.model_validate(body)
    except ValidationError as error:  # what was written by hand is valid already: a recipe's parameter went too far
        said = error.errors()[0]
        name = next((str(part) for part in reversed(said["loc"]) if isinstance(part, str)), "")
        message = f"The recipe makes a stage that is not valid: {name} {str(said['msg']).removeprefix('Value error, ')}."
        raise InvalidRequest(message, param="recipe", hint="Change the recipe's parameters, or write the stages out.") from error


def check_student(spec: JobSpec, teacher: student_checks.TeacherShape | None) -> None:
    """Raises when the student cannot be made as asked; `teacher` is None while it is not known, as a model of the hub."""
    entry = room("students")[spec.student.init]
    _raise(student_checks.check(spec, {**_defaults(entry["schema"]), **spec.student.params}, teacher))


def _raise(problems: list[InvalidRequest]) -> None:
    if problems:
        first = problems[0]
        first.details = [{"param": p.param, "code": p.code, "message": p.message} for p in problems]
        raise first


def _written_out(spec: JobSpec) -> list[dict[str, Any]]:
    """The recipe's stages with its parameters in place."""
    name, params = recipes.chosen(spec, room("recipes"))
    stages = recipes.write_out(name, params, spec, room("recipes")[name])
    problems = [p for i, stage in enumerate(stages) for p in _in_stage(stage["objectives"], stage.get("teacher"), f"stages[{i}]")]
    for problem in problems:  # the caller wrote no stage: name what they wrote
        field = str(problem.param).rpartition(".")[2]
        problem.param = f"recipe.{field}" if field in params else "recipe"
    _raise(problems)
    return stages


def _problems(spec: JobSpec) -> Iterator[InvalidRequest]:
    yield from _block("students", "init", spec.student.init, spec.student.params, "student")
    yield from _block("quantizers", "scheme", spec.quantization.scheme, spec.quantization.params, "quantization")
    for n, made in enumerate(spec.augmentation):
        yield from _block("augmenters", "type", made.type, made.params, f"augmentation[{n}]")
    if spec.stages is None:
        name, params = recipes.chosen(spec, room("recipes"))
        if spec.recipe is None and name not in room("recipes"):
            hint = f"Known recipes: {', '.join(room('recipes'))}; or write the stages out."
            yield MissingParameter(f"The task {spec.task} needs a recipe or stages.", param="recipe", hint=hint)
        else:
            faults = [*_block("recipes", "type", name, params, "recipe")]
            yield from faults or recipes.misuse(name, spec, room("recipes"))
    for i, stage in enumerate(spec.stages or []):
        objectives = [{"type": o.type, **o.params} for o in stage.objectives]
        yield from _in_stage(objectives, {"type": stage.teacher.type, **stage.teacher.params}, f"stages[{i}]")
        if all(o.weight.bounds == (0.0, 0.0) for o in stage.objectives):
            yield InvalidRequest(
                f"Every objective of stage '{stage.name}' has weight 0.",
                param=f"stages[{i}].objectives",
                hint="Give one a weight > 0.",
            )


def _in_stage(objectives: list[dict[str, Any]], teacher: dict[str, Any] | None, where: str) -> Iterator[InvalidRequest]:
    for j, objective in enumerate(objectives):
        yield from _block("objectives", "type", objective["type"], _params(objective), f"{where}.objectives[{j}]")
    if teacher is not None and (teacher["type"] != MAIN or _params(teacher) or MAIN in room("teachers")):
        yield from _block("teachers", "type", teacher["type"], _params(teacher), f"{where}.teacher")


def _params(block: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name not in ("type", "weight")}


def _block(room_name: str, key: str, name: str, params: dict[str, Any], where: str) -> Iterator[InvalidRequest]:
    entries = room(room_name)
    if name not in entries:
        yield InvalidRequest(
            f"'{name[:80]}' is not among the {room_name}.",
            param=f"{where}.{key}" if room_name != "recipes" else where,
            hint=_closest(name, list(entries)) if entries else f"There are no {room_name} here.",
        )
        return
    schema = entries[name]["schema"]
    validator = jsonschema.Draft202012Validator(schema)
    for error in sorted(validator.iter_errors(params), key=lambda e: [str(p) for p in e.absolute_path]):
        path = where + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
        if error.validator == "additionalProperties":
            known = list(schema.get("properties", {})) if not error.absolute_path else list(error.schema.get("properties", {}))
            for extra in sorted(set(error.instance) - set(known)):
                yield UnknownParameter(
                    f"'{extra}' is not a parameter of {room_name[:-1]} '{name}'.",
                    param=f"{path}.{extra}",
                    hint=_closest(extra, known),
                )
        elif error.validator == "required":
            missing = next(n for n in error.validator_value if error.message.startswith(repr(n)))
            said = error.schema.get("properties", {}).get(missing, {}).get("description", "GET /v1/catalog shows the schema.")
            yield MissingParameter(f"'{path}.{missing}' is missing.", param=f"{path}.{missing}", hint=said)
        else:
            yield InvalidRequest(f"{path}: {_reason(error)}.", param=path, hint=_expectation(error))
    if validator.is_valid(params):
        yield from _schedules(schema, params, where)


def _schedules(schema: dict[str, Any], params: dict[str, Any], where: str) -> Iterator[InvalidRequest]:
    """What a JSON Schema cannot say of a schedule: that its fields fit together, and the range of all its values."""
    for name, value in params.items():
        described = schema["properties"].get(name, {})
        if {"$ref": "#/$defs/Schedule"} not in described.get("anyOf", []):
            continue
        hint = described.get("description", "")
        try:
            schedule = Schedule(start=value) if isinstance(value, int | float) else Schedule.model_validate(value)
        except ValidationError as error:
            said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            yield InvalidRequest(f"{where}.{name}: {said}.", param=f"{where}.{name}", hint=hint)
            continue
        low, high = described.get("x-range", (-math.inf, math.inf))
        least, most = schedule.bounds
        if not low <= least <= most <= high:
            message = f"{where}.{name} must stay within {low:g} and {high:g}; this one reaches {least:g} and {most:g}."
            yield InvalidRequest(message, param=f"{where}.{name}", hint=hint)


def _reason(error: jsonschema.ValidationError) -> str:
    if error.validator in ("anyOf", "oneOf"):
        return f"{json.dumps(error.instance)[:80]} is none of the accepted forms"
    return error.message[:200]


def _expectation(error: jsonschema.ValidationError) -> str:
    schema = error.schema if isinstance(error.schema, dict) else {}
    told = {k: schema[k] for k in ("type", "enum", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if k in schema}
    return f"Accepted: {json.dumps(told)}. {schema.get('description', '')}".strip() if told else "GET /v1/catalog shows the schema."


def _closest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return (f"Did you mean '{near[0]}'? " if near else "") + (f"Known: {', '.join(known)}." if known else "It takes no parameters.")


def _filled(room_name: str, key: str, block: dict[str, Any]) -> dict[str, Any]:
    entry = room(room_name).get(block[key])
    return block if entry is None else {**_defaults(entry["schema"]), **block}


def _defaults(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: p["default"] for name, p in schema.get("properties", {}).items() if "default" in p}
