"""What a plan says against itself, found without looking at a model: fields, objectives, stages and targets that do not fit."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.domain import catalog, tasks
from app.domain.errors import DatasetInvalid, InvalidRequest, UnsupportedMethod
from app.domain.spec import JobSpec, Objective, Stage

_DOCUMENTS = "documents"  # data.documents unless it is set
_COMPARED = frozenset({"hidden", "qkv", "embedding"})  # of one sequence, so both must read the same ones
_PROBABILITIES = ("single_label", "multi_label", "tokens")  # problems whose answers have a confidence
Fault = InvalidRequest


@dataclass(frozen=True)
class Planned:
    """A job as it was sent, with its recipe written out, and what its training rows hold (None: not known)."""

    spec: JobSpec
    full: JobSpec
    usable: int | None = None
    labelled: int | None = None
    labels: list[str] | None = None

    def at(self, stage: int, field: str = "") -> str:
        """Where to look for a fault of a stage: the caller may have written a recipe."""
        if self.spec.stages is None:
            return "recipe"
        return f"stages[{stage}]" + (f".{field}" if field else "")

    def objectives(self) -> Iterator[tuple[int, Stage, int, Objective, dict[str, Any]]]:
        """(stage's number, stage, objective's number, objective, its catalogue entry); those of weight 0 are left out."""
        entries = catalog.room("objectives")
        for i, stage in enumerate(self.full.stages or []):
            for j, objective in enumerate(stage.objectives):
                if objective.weight.bounds != (0.0, 0.0):
                    yield i, stage, j, objective, entries[objective.type]


def check(plan: Planned) -> list[Fault]:
    return [
        *_fields(plan.full),
        *_routes(plan.full),
        *_objectives(plan),
        *_values(plan),
        *_labels(plan),
        *_teachers(plan),
        *_stages(plan),
        *_augmentation(plan.full),
        *_calibration(plan),
        *_target(plan.full),
    ]


def warnings(plan: Planned) -> list[dict[str, Any]]:
    found = []
    if (plan.full.stages or [])[0].restart:
        message = "The first stage begins from the student's first weights anyway."
        found.append({"code": "pointless_restart", "message": message, "param": plan.at(0, "restart")})
    target, alias = plan.full.target, plan.full.output.alias
    if target is not None and target.serve_best and alias is not None:
        message = f"With 'serve_best' the alias '{alias}' may move to a student that misses its target."
        found.append({"code": "alias_without_target", "message": message, "param": "target.serve_best"})
    return found


# -- fields that belong to other tasks -------------------------------------------------------------------------------


def _fields(spec: JobSpec) -> Iterator[Fault]:
    def of(param: str, task: str) -> Fault:
        return InvalidRequest(f"'{param}' belongs to the task {task}, not to {spec.task}.", param=param, hint="Leave it out.")

    data = spec.data
    if data.text_b is not None and spec.task not in ("text-classification", "embedding"):
        yield of("data.text_b", "text-classification or embedding")
    if data.documents != _DOCUMENTS and spec.task != "ranking":
        yield of("data.documents", "ranking")
    if data.problem != "single_label" and spec.task != "text-classification":
        yield of("data.problem", "text-classification")
    if spec.ranking is not None and spec.task != "ranking":
        yield of("ranking", "ranking")


def _routes(spec: JobSpec) -> Iterator[Fault]:
    """Either every row is answered by all teachers, or a column says by which."""
    routes = {"teacher.route": spec.teacher.route}
    routes |= {f"teacher.ensemble[{n}].route": member.route for n, member in enumerate(spec.teacher.ensemble)}
    given = [param for param, route in routes.items() if route is not None]
    if given and spec.data.route is None:
        hint = "Set data.route to the column whose value chooses the teacher."
        yield InvalidRequest(f"'{given[0]}' is set, but no column says which rows it answers.", param=given[0], hint=hint)
    if spec.data.route is not None and not given:
        hint = 'Give each teacher its "route", the value of the column whose rows it answers; or leave data.route out.'
        yield InvalidRequest("'data.route' is set, but no teacher has a route.", param="data.route", hint=hint)


# -- objectives ------------------------------------------------------------------------------------------------------


def _objectives(plan: Planned) -> Iterator[Fault]:
    spec, task, problem = plan.full, tasks.task_of(plan.full), tasks.problem_of(plan.full)
    for i, stage, j, objective, entry in plan.objectives():
        where, missing = plan.at(i, f"objectives[{j}]"), set(entry.get("needs", ())) - task.offers
        if missing:
            yield UnsupportedMethod(
                f"Objective '{objective.type}' of stage '{stage.name}' reads {_list(missing)}, which the task {spec.task} does not "
                f"have: it has {_list(task.offers - {'teacher', 'labels'})}.",
                param=where,
                hint=_others(task.offers, problem),
            )
        elif (known := entry.get("problems")) and problem not in known:
            yield UnsupportedMethod(
                f"Objective '{objective.type}' of stage '{stage.name}' is for {_list(known)}; this job's targets are {problem}.",
                param=where,
                hint=_others(task.offers, problem),
            )
        elif _of_two_scorers(spec, stage, entry):
            yield UnsupportedMethod(
                f"Objective '{objective.type}' compares states of the same sequences, but the teacher is a "
                f"{_scorer(spec, 'teacher')} and the student a {_scorer(spec, 'student')}: they read different ones.",
                param=where,
                hint="Compare their scores, or set ranking.teacher and ranking.student to the same.",
            )


def _values(plan: Planned) -> Iterator[Fault]:
    """Values of a parameter that say nothing of this job's targets: `x-problems` and `x-least-classes` of the catalogue."""
    problem, classes = tasks.problem_of(plan.full), len(plan.labels) if plan.labels is not None else None
    for i, stage, j, objective, entry in plan.objectives():
        for name, described in entry["schema"].get("properties", {}).items():
            known, value = described.get("x-problems", {}), objective.params.get(name)
            word = _word(value)
            where = f"'{name}': {json.dumps(value)} of objective '{objective.type}' in stage '{stage.name}'"
            at = plan.at(i, f"objectives[{j}].{name}")
            if problem not in (possible := known.get(word, [problem])):
                fit = [json.dumps(v) for v in _values_of(described) if problem in known.get(_word(v), [problem])]
                message = f"{where} is for {_list(possible)}; this job's targets are {problem}."
                yield InvalidRequest(message, param=at, hint=f"Use {' or '.join(fit)}.")
            elif classes is not None and classes < (least := described.get("x-least-classes", {}).get(word, 0)):
                message = f"{where} needs {least} labels; the training rows have {classes}."
                yield InvalidRequest(message, param=at, hint="Leave it out.")


def _word(value: Any) -> str:
    """As a key of `x-problems`."""
    return value if isinstance(value, str) else json.dumps(value)


def _values_of(described: dict[str, Any]) -> list[Any]:
    return [True, False] if described.get("type") == "boolean" else list(described.get("enum", ()))


def _of_two_scorers(spec: JobSpec, stage: Stage, entry: dict[str, Any]) -> bool:
    needs = set(entry.get("needs", ()))
    different = spec.task == "ranking" and _scorer(spec, "teacher") != _scorer(spec, "student")
    return different and stage.teacher.type == catalog.MAIN and "teacher" in needs and bool(needs & _COMPARED)


def _scorer(spec: JobSpec, role: str) -> str:
    return "cross_encoder" if spec.ranking is None else str(getattr(spec.ranking, role))


def _others(offers: frozenset[str], problem: str) -> str:
    fitting = [
        name
        for name, entry in sorted(catalog.room("objectives").items())
        if set(entry.get("needs", ())) <= offers and problem in (entry.get("problems") or [problem])
    ]
    return f"Objectives for it: {', '.join(fitting)}." if fitting else "GET /v1/catalog lists the objectives."


def _labels(plan: Planned) -> Iterator[Fault]:
    """Something that learns from labels, and no row has any."""
    if plan.labelled != 0 or tasks.task_of(plan.full).labels != "optional":
        return
    hint = f"Add rows with a '{plan.full.data.label[:80]}', or leave it to the teacher."
    if plan.full.task == "embedding" and plan.full.data.text_b is None:
        hint = "A score is one of two texts: name the second one's column in data.text_b, and the score's in data.label."
    for i, stage, j, objective, entry in plan.objectives():
        if "labels" in entry.get("needs", ()):
            message = f"Objective '{objective.type}' of stage '{stage.name}' learns from labels, and no training row has one."
            yield DatasetInvalid(message, param=plan.at(i, f"objectives[{j}]"), hint=hint)
    models = {"teacher": plan.full.teacher.finetune}
    models |= {f"teacher.ensemble[{n}]": member.finetune for n, member in enumerate(plan.full.teacher.ensemble)}
    for at, finetune in models.items():
        if finetune is not None:
            message = "The teacher is to be fitted to labelled rows, and no training row has a label."
            yield DatasetInvalid(message, param=f"{at}.finetune", hint=hint)


# -- stages ----------------------------------------------------------------------------------------------------------


def _teachers(plan: Planned) -> Iterator[Fault]:
    """Who teaches in a stage, and whether they say what its objectives read."""
    entries, problem = catalog.room("teachers"), tasks.problem_of(plan.full)
    for i, stage in enumerate(plan.full.stages or []):
        entry = entries.get(stage.teacher.type, {})
        where = plan.at(i, "teacher")
        if stage.teacher.type == "previous" and i == 0:
            hint = 'Use {"type": "previous"} from the second stage on.'
            yield InvalidRequest("A first stage has no stage before it that could teach.", param=where, hint=hint)
        if (known := entry.get("problems")) and problem not in known:
            message = (
                f"Teacher '{stage.teacher.type}' of stage '{stage.name}' is for {_list(known)}; this job's targets are {problem}."
            )
            yield UnsupportedMethod(message, param=where, hint='Use {"type": "main"}.')
        if not (offers := entry.get("offers")):
            continue
        for k, _, j, objective, needs in plan.objectives():
            missing = set(needs.get("needs", ())) - {*offers, "labels", "teacher"}
            if k == i and "teacher" in needs.get("needs", ()) and missing:
                message = f"'{stage.teacher.type}' gives {_list(offers)}; objective '{objective.type}' reads {_list(missing)}."
                yield UnsupportedMethod(
                    message, param=plan.at(i, f"objectives[{j}]"), hint="Use another objective, or another teacher."
                )


def _stages(plan: Planned) -> Iterator[Fault]:
    for i, stage in enumerate(plan.full.stages or []):
        if stage.train == "adapter" and plan.full.student.adapter is None:
            hint = 'Add "adapter": {"type": "lora"} to the student.'
            yield InvalidRequest(
                f"Stage '{stage.name}' trains the adapter, and the student has none.", param=plan.at(i, "train"), hint=hint
            )
        for n, pattern in enumerate(stage.train if isinstance(stage.train, list) else []):
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                hint = r"Write it as for Python's re.search on parameter names, such as layer\.[01]\."
                message = f"'{pattern[:80]}' is not a regular expression: {error}."
                yield InvalidRequest(message, param=plan.at(i, f"train[{n}]"), hint=hint)


def _augmentation(spec: JobSpec) -> Iterator[Fault]:
    entries, problem = catalog.room("augmenters"), tasks.problem_of(spec)
    for n, made in enumerate(spec.augmentation):
        entry = entries.get(made.type, {})
        if ((known := entry.get("problems")) and problem not in known) or ((fit := entry.get("tasks")) and spec.task not in fit):
            message = f"Augmentation '{made.type}' makes no rows for {spec.task} ({problem})."
            yield UnsupportedMethod(message, param=f"augmentation[{n}]", hint=f"It is for {_list(known or fit)}.")
            continue
        if made.params.get("min_confidence") is not None and problem not in _PROBABILITIES:
            message = f"The teacher's answers to {problem} are no probabilities: none can be too low."
            yield UnsupportedMethod(message, param=f"augmentation[{n}].min_confidence", hint="Leave it out.")
        if made.params.get("keep_label") and problem not in entry.get("meant", ()):
            message = f"Rows that '{made.type}' makes for {problem} have no label that they were made for."
            yield UnsupportedMethod(message, param=f"augmentation[{n}].keep_label", hint="Leave it out.")


def _calibration(plan: Planned) -> Iterator[Fault]:
    least = plan.full.quantization.params.get("min_rows")
    if plan.usable is not None and isinstance(least, int) and plan.usable < least:
        yield DatasetInvalid(
            f"Quantization '{plan.full.quantization.scheme}' needs {least:,} calibration rows; the job has {plan.usable:,}.",
            param="quantization.min_rows",
            hint="Lower it, add rows, or use int8_dynamic, which needs none.",
        )


# -- targets ---------------------------------------------------------------------------------------------------------


def _target(spec: JobSpec) -> Iterator[Fault]:
    target = spec.target
    if target is None:
        return
    if target.max_size_ratio is not None and target.max_size_ratio >= 1 and (target.min_speedup or 0) > 1:
        yield InvalidRequest(
            f"The target lets the student be as large as the teacher ({target.max_size_ratio:g}) and wants it "
            f"{target.min_speedup:g} times as fast.",
            param="target.max_size_ratio",
            hint="Choose a ratio below 1, or leave it out.",
        )


def _list(names: Any) -> str:
    return ", ".join(sorted(names))
