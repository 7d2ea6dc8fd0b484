"""The plug-in catalogue: what `make catalog` exported, and the check of a JobSpec against it. No torch, no worker."""

import difflib
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import jsonschema
from pydantic import ValidationError

from app.domain.errors import InvalidRequest, UnknownParameter, UnsupportedMethod
from app.domain.schedule import Schedule
from app.domain.spec import JobSpec


class TeacherShape(Protocol):
    """What of a model's config decides whether a student can be cut from it."""

    @property
    def num_layers(self) -> int | None: ...
    @property
    def hidden_size(self) -> int | None: ...
    @property
    def num_heads(self) -> int | None: ...


@lru_cache(maxsize=1)
def load() -> dict[str, Any]:
    return dict(json.loads((Path(__file__).parent / "catalog.json").read_text()))


def expand(spec: JobSpec) -> JobSpec:
    """The spec with its recipe written out as stages and every plug-in default filled in. Checks on the way."""
    problems = list(_problems(spec))
    if problems:
        first = problems[0]
        first.details = [{"param": p.param, "code": p.code, "message": p.message} for p in problems]
        raise first
    body = spec.resolved()
    if body["stages"] is None:
        recipe = {"type": "response"} if body["recipe"] is None else body["recipe"]
        recipe = {"type": recipe} if isinstance(recipe, str) else recipe
        entry = load()["recipes"][recipe["type"]]
        params = {**_defaults(entry["schema"]), **{k: v for k, v in recipe.items() if k != "type"}}
        body["stages"], body["recipe"] = _substitute(entry["stages"], params), None
    body["student"] = {**_defaults(load()["students"][body["student"]["init"]]["schema"]), **body["student"]}
    body["quantization"] = {**_defaults(load()["quantizers"][body["quantization"]["scheme"]]["schema"]), **body["quantization"]}
    for stage in body["stages"]:
        for i, objective in enumerate(stage["objectives"]):
            stage["objectives"][i] = {**_defaults(load()["objectives"][objective["type"]]["schema"]), **objective}
    return JobSpec.model_validate(body)


def check(spec: JobSpec) -> None:
    """Raises InvalidRequest (with `param`, `hint` and all problems in `details`) unless every plug-in block is right."""
    expand(spec)


def check_student(spec: JobSpec, teacher: TeacherShape) -> None:
    """Raises when the student cannot be cut from this teacher: an impossible layer, a width that does not divide."""
    if spec.student.init != "teacher_layers":
        return
    params = {**_defaults(load()["students"]["teacher_layers"]["schema"]), **spec.student.params}
    depth, width, heads = teacher.num_layers, teacher.hidden_size, teacher.num_heads
    if not depth or not width or not heads:
        raise UnsupportedMethod(
            "The teacher's config does not say its layers, width and heads.",
            param="student.init",
            hint="Use a BERT-like teacher, or student.init = pretrained.",
        )
    layers = params["layers"]
    if isinstance(layers, int) and layers > depth:
        raise InvalidRequest(
            f"student.layers is {layers}, but the teacher has {depth} layers.", param="student.layers", hint=f"Choose 1 to {depth}."
        )
    if isinstance(layers, list) and layers != sorted(set(layers)):
        raise InvalidRequest("student.layers must rise, each layer once.", param="student.layers", hint="Such as [0, 2, 5].")
    if isinstance(layers, list) and (bad := [n for n in layers if n >= depth]):
        raise InvalidRequest(
            f"The teacher has no layer {bad[0]}; it has {depth}, counted from 0.",
            param="student.layers",
            hint=f"Choose from 0 to {depth - 1}.",
        )
    hidden = params.get("hidden_size") or width
    if hidden > width:
        raise InvalidRequest(
            f"student.hidden_size is {hidden}, the teacher's is {width}: weights cannot be inherited into more.",
            param="student.hidden_size",
            hint=f"Choose at most {width}, or student.init = pretrained.",
        )
    head_size = width // heads
    if not params.get("num_attention_heads") and hidden % head_size:
        raise InvalidRequest(
            f"student.hidden_size {hidden} is no multiple of the teacher's head size {head_size}.",
            param="student.hidden_size",
            hint=f"Choose {max(head_size, hidden // head_size * head_size)}, or give num_attention_heads.",
        )
    if params.get("num_attention_heads") and hidden % params["num_attention_heads"]:
        raise InvalidRequest(
            f"student.hidden_size {hidden} cannot be shared by {params['num_attention_heads']} heads.",
            param="student.num_attention_heads",
            hint="hidden_size must be a multiple of num_attention_heads.",
        )


def _problems(spec: JobSpec) -> Iterator[InvalidRequest]:
    yield from _block("students", "init", spec.student.init, spec.student.params, "student")
    yield from _block("quantizers", "scheme", spec.quantization.scheme, spec.quantization.params, "quantization")
    if isinstance(spec.recipe, str):
        yield from _block("recipes", "type", spec.recipe, {}, "recipe")
    elif spec.recipe is not None:
        yield from _block("recipes", "type", spec.recipe.type, spec.recipe.params, "recipe")
    for i, stage in enumerate(spec.stages or []):
        for j, objective in enumerate(stage.objectives):
            yield from _block("objectives", "type", objective.type, objective.params, f"stages[{i}].objectives[{j}]")
        if all(o.weight.bounds == (0.0, 0.0) for o in stage.objectives):
            yield InvalidRequest(
                f"Every objective of stage '{stage.name}' has weight 0.",
                param=f"stages[{i}].objectives",
                hint="Give one a weight > 0.",
            )


def _block(room: str, key: str, name: str, params: dict[str, Any], where: str) -> Iterator[InvalidRequest]:
    entries = load()[room]
    if name not in entries:
        yield InvalidRequest(
            f"'{name}' is not among the {room}.",
            param=f"{where}.{key}" if room != "recipes" else where,
            hint=_closest(name, list(entries)),
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
                    f"'{extra}' is not a parameter of {room[:-1]} '{name}'.", param=f"{path}.{extra}", hint=_closest(extra, known)
                )
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


def _defaults(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: p["default"] for name, p in schema.get("properties", {}).items() if "default" in p}


def _substitute(template: Any, params: dict[str, Any]) -> Any:
    if isinstance(template, list):
        return [_substitute(item, params) for item in template]
    if isinstance(template, dict):
        if set(template) == {"$param"}:
            return params[template["$param"]]
        if set(template) == {"$one_minus"}:
            return 1 - params[template["$one_minus"]]
        return {key: _substitute(value, params) for key, value in template.items()}
    return template
