"""A recipe's templates written out as the stages of one job. `entry` is the recipe's entry in the catalogue: no torch here.

A template is a stage of the spec that may hold, in place of a value:
    {"$param": name}               the parameter's value
    {"$one_minus": name}           one minus it
    {"$first": [epochs, share]}    the first stage's part of the epochs; {"$rest": [epochs, share]} is what remains, both 1 at least
in place of an objective:
    {"$soft": {…}}                 learning from whoever teaches, in the way of the job's task: one objective or several
    {"$hard": {…}}                 learning from labels, likewise
and in place of a stage's name:
    {"$repeat": [name, count]}     the stage `count` times, as name-1, name-2, …
An objective whose weight is 0 is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.domain.errors import InvalidRequest, UnsupportedMethod
from app.domain.spec import JobSpec
from app.domain.tasks import TASKS, problem_of

Entries = Mapping[str, Mapping[str, Any]]  # name → entry, as in the catalogue

# By kind of target: objectives, which fields of the template they take beside the weight, and by how much that is multiplied.
_Way = tuple[dict[str, Any], frozenset[str], float]
_CLASSES: list[_Way] = [({"type": "response"}, frozenset({"temperature"}), 1.0)]
_SOFT: dict[str, list[_Way]] = {
    "single_label": _CLASSES,
    "multi_label": _CLASSES,
    "tokens": _CLASSES,
    "masked_lm": _CLASSES,
    "regression": [({"type": "response", "divergence": "logit_mse"}, frozenset(), 1.0)],
    # A narrower student's cosine is one of projected vectors; the similarities are of those that it serves. 400: 1 / tau².
    "embedding": [
        ({"type": "embedding_cosine"}, frozenset(), 1.0),
        ({"type": "similarity_kl", "temperature": 0.05}, frozenset(), 400.0),
    ],
    "ranking": [({"type": "listnet"}, frozenset(), 1.0)],
}
_HARD: dict[str, dict[str, Any]] = {
    "single_label": {"type": "hard_label"},
    "multi_label": {"type": "hard_label"},
    "regression": {"type": "hard_label"},
    "tokens": {"type": "hard_label"},
    "embedding": {"type": "hard_similarity"},
    "ranking": {"type": "hard_rank"},
    "masked_lm": {"type": "masked_lm"},
}
_KINDS = ("type", "init", "scheme")  # what a block's other fields belong to


def chosen(spec: JobSpec, entries: Entries) -> tuple[str, dict[str, Any]]:
    """The recipe and the parameters that were given for it; without one, that of the student's kind or of the task."""
    if spec.recipe is None:
        fitting = (n for n, entry in sorted(entries.items()) if spec.student.init in entry.get("students", ()))
        return next((n for n in fitting if _misfit(spec, entries[n]) is None), TASKS[spec.task].recipe), {}
    return (spec.recipe, {}) if isinstance(spec.recipe, str) else (spec.recipe.type, spec.recipe.params)


def with_defaults(spec: JobSpec, entries: Entries) -> JobSpec:
    """The spec with the recipe's defaults for other blocks, each where the caller left it out."""
    if spec.stages is not None:
        return spec
    body = spec.model_dump(mode="json", exclude_unset=True)
    found = {}
    for name, wanted in entries.get(chosen(spec, entries)[0], {}).get("defaults", {}).items():
        given = body.get(name) or {}
        if all(given.get(kind, wanted.get(kind)) == wanted.get(kind) for kind in _KINDS):
            found[name] = {**wanted, **given}
    return JobSpec.model_validate(body | found) if found else spec


def misuse(name: str, spec: JobSpec, entries: Entries) -> Iterator[InvalidRequest]:
    """A recipe for other tasks, targets or students than this job's."""
    misfit = _misfit(spec, entries[name])
    if misfit is not None:
        others = [other for other, entry in sorted(entries.items()) if _misfit(spec, entry) is None]
        hint = f"Recipes for this job: {', '.join(others)}." if others else "Write the stages out."
        yield UnsupportedMethod(f"Recipe '{name}' is {misfit}.", param="recipe", hint=hint)


def _misfit(spec: JobSpec, entry: Mapping[str, Any]) -> str | None:
    for wanted, actual, what in (
        (entry.get("tasks"), spec.task, "the task"),
        (entry.get("problems"), problem_of(spec), "targets of the kind"),
        (entry.get("students"), spec.student.init, "student.init"),
    ):
        if wanted and actual not in wanted:
            return f"for {what} {', '.join(wanted)}, not {actual}"
    return None


def write_out(name: str, given: Mapping[str, Any], spec: JobSpec, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages. Raises InvalidRequest for a parameter that says nothing about this job."""
    schema = entry["schema"].get("properties", {})
    defaults = {key: described["default"] for key, described in schema.items() if "default" in described}
    writer = _Writer({**defaults, **entry.get("task_defaults", {}).get(spec.task, {}), **given}, problem_of(spec))
    stages = [stage for template in entry["stages"] for stage in writer.stages(template)]
    if idle := sorted(given.keys() - writer.used):
        raise InvalidRequest(
            f"Parameter '{idle[0]}' of recipe '{name}' says nothing about this job: its targets are {writer.problem}.",
            param=f"recipe.{idle[0]}",
            hint="Leave it out.",
        )
    return stages


@dataclass
class _Writer:
    values: Mapping[str, Any]
    problem: str
    used: set[str] = field(default_factory=set)

    def stages(self, template: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        objectives = [made for o in template["objectives"] for made in self._objectives(o) if made.get("weight") != 0]
        if not objectives:
            message = "Every objective of the recipe has weight 0."
            raise InvalidRequest(message, param="recipe", hint="Give one a weight > 0.")
        filled = self._values({key: value for key, value in template.items() if key != "objectives"})
        name, count = (filled["name"], None) if isinstance(filled["name"], str) else filled["name"]["$repeat"]
        for n in range(1, (count or 1) + 1):
            own = {"name": name if count is None else f"{name}-{n}", "objectives": [dict(o) for o in objectives]}
            yield {key: own.get(key, filled.get(key)) for key in template}

    def _objectives(self, template: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if "$soft" in template:
            asked = template["$soft"]
            for objective, takes, times in _SOFT[self.problem]:
                taken = self._values({key: value for key, value in asked.items() if key in takes})
                yield {**objective, **taken, "weight": _scaled(self._values(asked["weight"]), times)}
        elif "$hard" in template:
            yield {**_HARD[self.problem], **self._values(template["$hard"])}
        else:
            yield self._values(dict(template))

    def _values(self, template: Any) -> Any:
        if isinstance(template, list):
            return [self._values(item) for item in template]
        if not isinstance(template, dict):
            return template
        match template:
            case {"$param": name}:
                return self._value(name)
            case {"$one_minus": name}:
                return round(1 - self._value(name), 12)  # 1 - 0.9 reads 0.1
            case {"$first": [name, share]}:
                return self._first(name, share)
            case {"$rest": [name, share]}:
                return self._value(name) - self._first(name, share)
        return {key: self._values(value) for key, value in template.items()}

    def _value(self, name: str) -> Any:
        self.used.add(name)
        return self.values[name]

    def _first(self, name: str, share: str) -> int:
        whole, part = int(self._value(name)), float(self._value(share))
        return min(max(1, round(whole * part)), whole - 1)


def _scaled(value: Any, times: float) -> Any:
    """A weight, number or schedule, `times` as large."""
    if isinstance(value, list):
        return [_scaled(item, times) for item in value]
    if isinstance(value, dict):
        return {key: _scaled(item, times) if key in ("start", "end", "values") else item for key, item in value.items()}
    return None if value is None else value * times
