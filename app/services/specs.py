"""From the body of a request to a JobSpec, with every fault named by field and with a hint."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from app.domain.errors import DomainError, InvalidRequest, MissingParameter, UnknownParameter
from app.domain.spec import JobSpec

DEPTH = 32  # levels of a body


def parse(body: dict[str, Any]) -> tuple[JobSpec | None, list[DomainError]]:
    try:
        refuse_unstorable(body)
    except InvalidRequest as error:
        return None, [error]
    try:
        return _with_teacher(JobSpec.model_validate(body)), []
    except ValidationError as error:
        return None, [_explained(dict(e), body) for e in error.errors(include_url=False)]
    except InvalidRequest as error:
        return None, [error]


def _with_teacher(spec: JobSpec) -> JobSpec:
    """Teacher `self` written out as the student's own model; what is wrong with that one's name, the catalogue says."""
    if spec.teacher.source != "self":
        return spec
    if spec.student.init != "pretrained":
        message = (
            f"teacher.source 'self' is the model that the student starts from; a student '{spec.student.init}' starts from none."
        )
        hint = "Set student.init to 'pretrained' with a model, or name another teacher."
        raise InvalidRequest(message, param="teacher.source", hint=hint)
    own = {"source": "registry", **spec.student.params}
    named = {key: own[key] for key in ("source", "model", "revision") if isinstance(own.get(key), str)}
    return spec.model_copy(update={"teacher": spec.teacher.model_copy(update=named)})


_Place = tuple[Any, str | int]  # (place of what holds it, key or index): a path that costs nothing until it is shown


def refuse_unstorable(body: Any) -> None:
    """A NUL, which PostgreSQL cannot store, and nesting so deep that JSON tools give up. Not recursive itself."""
    waiting: list[tuple[Any, Any, int]] = [(None, body, 0)]
    while waiting:
        place, value, depth = waiting.pop()
        if isinstance(value, str) and "\0" in value:
            raise _unstorable(place, "holds a NUL character", "Remove it.")
        if depth > DEPTH:
            raise _unstorable(place, f"is nested deeper than {DEPTH} levels", "No field of a job is.")
        if isinstance(value, list):
            waiting += [((place, n), item, depth + 1) for n, item in enumerate(value)]
        elif isinstance(value, dict):
            waiting += [(place, key, depth) for key in value]
            waiting += [((place, key), item, depth + 1) for key, item in value.items()]


def _unstorable(place: _Place | None, what: str, hint: str) -> InvalidRequest:
    steps: list[str] = []
    while place is not None:
        place, step = place
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step[:40]}")
    path = "".join(reversed(steps)).lstrip(".")[:200].replace("\0", "?")
    return InvalidRequest(f"'{path}' {what}." if path else f"The body {what}.", param=path or None, hint=hint)


def as_json(error: DomainError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "param": error.param, "hint": error.hint, "details": error.details}


def raise_first(errors: list[DomainError]) -> None:
    """The first one speaks for all; the others are in its details, unless it has places of its own to show."""
    if not errors:
        return
    first = errors[0]
    if not first.details and len(errors) > 1:
        first.details = [{"param": e.param, "code": e.code, "message": e.message, "hint": e.hint} for e in errors]
    raise first


def _explained(error: dict[str, Any], body: Any) -> DomainError:
    kind, loc = str(error["type"]), tuple(error["loc"])
    path = _path(loc, body, kind)
    if kind == "extra_forbidden":
        known = _known_fields(loc)
        near = difflib.get_close_matches(str(loc[-1]), known, 1)
        hint = (f"Did you mean '{near[0]}'? " if near else "") + f"Known here: {', '.join(known)}."
        return UnknownParameter(f"'{path}' is not a known parameter.", param=path, hint=hint)
    if kind == "missing":
        return MissingParameter(f"'{path}' is missing.", param=path, hint=f"Add '{path}'; docs/submit.md shows a whole job.")
    said = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    given = error.get("input")
    shown = f", not {given!r:.60}" if isinstance(given, str | int | float | bool) and said.startswith("should") else ""
    message = f"'{path}' {said}{shown}." if said.startswith("should") else f"{path or 'The job'}: {said}."
    return InvalidRequest(message, param=path or None, hint=_hint(path))


def _hint(path: str) -> str:
    if path.endswith("_file"):
        return "Give the id that POST /v1/files returned, such as file-01J…"
    if path.endswith(("model_name", "alias")):
        return "1 to 63 of a-z, 0-9, '.', '_', '-'; the first a letter or digit."
    return "docs/submit.md explains each field; GET /v1/catalog has the schemas."


def _path(loc: tuple[str | int, ...], body: Any, kind: str) -> str:
    """`stages[0].epochs`; names of union members that pydantic puts in between are left out."""
    path, here = "", body
    for n, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
            here = here[part] if isinstance(here, list) and part < len(here) else None
        elif isinstance(here, dict) and (part in here or (kind == "missing" and n == len(loc) - 1)):
            path += f".{part}"
            here = here.get(part)
    return path.lstrip(".")


def _known_fields(loc: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = JobSpec
    for part in loc[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return [*model.model_fields]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
