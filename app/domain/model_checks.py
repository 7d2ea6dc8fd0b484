"""What a plan asks of teacher and student that their configs and weight headers deny."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.domain import catalog, tasks
from app.domain.errors import IncompatibleModels, InvalidRequest, UnsupportedMethod
from app.domain.modelfiles import ModelInfo
from app.domain.plan_checks import Planned
from app.domain.spec import Objective, Stage

Fault = InvalidRequest
_INHERITS = "teacher_layers"  # the student's head and weights are the teacher's
_PER_WEIGHT = {"none": 4}  # bytes; every other scheme: 1
_BODY = frozenset({"hidden", "qkv"})


@dataclass(frozen=True)
class Models:
    """None where it is not known: a model of the hub, a student that is made from nothing."""

    teacher: ModelInfo | None
    student: ModelInfo | None  # of a pretrained one
    same_vocabulary: bool | None = None  # of student and teacher, where it was asked for


def check(plan: Planned, models: Models) -> list[Fault]:
    return [
        *_families(plan, models),
        *_layers(plan, models),
        *_vocabulary(plan, models),
        *_untrained_head(plan, models),
        *_adapter(plan, models),
        *_speed(plan, models),
    ]


def warnings(plan: Planned, models: Models) -> list[dict[str, Any]]:
    found = []
    if models.same_vocabulary is None and (place := next(_token_by_token(plan, models), None)) is not None:
        message = f"Whether both tokenizers are the same, as '{place[3].type}' needs, is looked at when the job starts."
        found.append({"code": "checked_later", "message": message, "param": plan.at(place[0], f"objectives[{place[2]}]")})
    found += _size(plan, models)
    return found


def compares_tokens(plan: Planned, models: Models) -> bool:
    """Whether student and teacher must read the same tokens."""
    return next(_token_by_token(plan, models), None) is not None


# -- what objectives compare -----------------------------------------------------------------------------------------


def _families(plan: Planned, models: Models) -> Iterator[Fault]:
    for i, stage, j, objective, entry in plan.objectives():
        if "qkv" not in entry.get("needs", ()):
            continue
        kinds = {"student": _student_type(plan, models)}
        if stage.teacher.type == catalog.MAIN and models.teacher is not None:
            kinds["teacher"] = models.teacher.model_type
        for role, kind in kinds.items():
            if kind is not None and kind not in tasks.FAMILIES:
                yield UnsupportedMethod(
                    f"Objective '{objective.type}' reads queries, keys and values; where they lie in a {role} of type '{kind}' "
                    "is not known.",
                    param=plan.at(i, f"objectives[{j}]"),
                    hint=f"Known types: {', '.join(tasks.FAMILIES)}. Compare hidden states or logits instead.",
                )
                break


def _student_type(plan: Planned, models: Models) -> str | None:
    student = plan.full.student
    if models.student is not None:
        return models.student.model_type
    if student.init == _INHERITS:
        return models.teacher.model_type if models.teacher is not None else None
    if student.params.get("model"):
        return None
    return str(student.params.get("model_type") or student.init)  # made to measure; a static student has no such parts


def _layers(plan: Planned, models: Models) -> Iterator[Fault]:
    """Layers that are named: 1 to the depth, 0 for the embeddings' output where states are compared."""
    student = student_depth(plan, models)
    for i, stage, j, objective, entry in plan.objectives():
        main = stage.teacher.type == catalog.MAIN
        depths = {"student": student, "teacher": (models.teacher.num_layers if models.teacher else None) if main else student}
        lowest = 1 if "qkv" in entry.get("needs", ()) else 0
        for name, who, layer in _named_layers(objective.params):
            if (depth := depths[who]) is not None and not lowest <= layer <= depth:
                yield InvalidRequest(
                    f"Objective '{objective.type}' of stage '{stage.name}': the {who} has no layer {layer}.",
                    param=plan.at(i, f"objectives[{j}].{name}"),
                    hint=f"Its layers are 1 to {depth}" + ("; 0 is the embeddings' output." if lowest == 0 else "."),
                )
                break


def _named_layers(params: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(parameter, whose layer, which): pairs [student, teacher], the student's own, or one of the teacher's."""
    named = params.get("layers")
    for entry in named if isinstance(named, list) else []:
        if isinstance(entry, list | tuple) and len(entry) == 2:
            yield "layers", "student", int(entry[0])
            yield "layers", "teacher", int(entry[1])
        elif type(entry) is int:
            yield "layers", "student", entry
    if type(one := params.get("teacher_layer")) is int:
        yield "teacher_layer", "teacher", one


def student_depth(plan: Planned, models: Models) -> int | None:
    layers = plan.full.student.params.get("layers", plan.full.student.params.get("num_hidden_layers"))
    if isinstance(layers, list):
        return len(layers)
    if isinstance(layers, int):
        return layers
    return models.student.num_layers if models.student is not None else None


Place = tuple[int, Stage, int, Objective, dict[str, Any]]


def _token_by_token(plan: Planned, models: Models) -> Iterator[Place]:
    """Objectives that set the student's tokens beside the teacher's, when the student brings a tokenizer of its own."""
    if not plan.full.student.params.get("model"):
        return
    words = {"logits"} if plan.full.task == "masked-lm" else set()
    for place in plan.objectives():
        needs = set(place[4].get("needs", ()))
        if "teacher" in needs and needs & (_BODY | words) and place[1].teacher.type == catalog.MAIN:
            yield place


def _vocabulary(plan: Planned, models: Models) -> Iterator[Fault]:
    if models.same_vocabulary is not False:
        return
    for i, _, j, objective, _ in _token_by_token(plan, models):
        yield IncompatibleModels(
            f"Objective '{objective.type}' compares token by token, and student and teacher have different tokenizers.",
            param=plan.at(i, f"objectives[{j}]"),
            hint="Take a student with the teacher's tokenizer, such as init teacher_layers; or compare logits or embeddings.",
        )


# -- the student's own parts -----------------------------------------------------------------------------------------


def _untrained_head(plan: Planned, models: Models) -> Iterator[Fault]:
    """A head that starts from random numbers and that no objective ever reaches."""
    if not _new_head(plan, models):
        return
    if any({"logits", "scores", "labels"} & set(entry.get("needs", ())) for *_, entry in plan.objectives()):
        return
    stages = plan.full.stages or []
    yield UnsupportedMethod(
        f"The student's head is new, and no stage trains it: the objectives of '{stages[-1].name}' read its states only.",
        param=plan.at(len(stages) - 1, "objectives"),
        hint="End with a stage that has an objective on the task's answers, such as response.",
    )


def _new_head(plan: Planned, models: Models) -> bool:
    suffix, student = tasks.task_of(plan.full).head, plan.full.student
    if not suffix or (plan.full.ranking is not None and plan.full.ranking.student == "bi_encoder"):
        return False  # any encoder does it: there is no head
    if student.init == _INHERITS:
        return "head" not in student.params.get("keep", ["head"])
    if not student.params.get("model"):
        return True
    info = models.student
    if info is None:
        return False  # looked at when the job starts
    own = any(name.endswith(suffix) for name in info.architectures)
    if tasks.problem_of(plan.full) in ("regression", "ranking"):
        own = own and (info.num_labels or 1) == 1
    return not own or (plan.labels is not None and info.labels != plan.labels)


def _adapter(plan: Planned, models: Models) -> Iterator[Fault]:
    adapter, info = plan.full.student.adapter, models.student or models.teacher
    if adapter is None or adapter.target_modules == "auto" or info is None or not info.matrices:
        return
    if plan.full.student.init != _INHERITS and models.student is None:
        return  # made from nothing: its modules have names once it exists
    for n, name in enumerate(adapter.target_modules):
        if not any(module == name or module.endswith(f".{name}") for module in info.matrices):
            names = sorted({module.rpartition(".")[2] for module in info.matrices})
            near = difflib.get_close_matches(name, names, 1)
            yield InvalidRequest(
                f"No weight matrix of the student is called '{name[:80]}'.",
                param=f"student.adapter.target_modules[{n}]",
                hint=(f"Did you mean '{near[0]}'? " if near else "") + f'There are {", ".join(names[:20])}; or use "auto".',
            )


# -- targets ---------------------------------------------------------------------------------------------------------


def _speed(plan: Planned, models: Models) -> Iterator[Fault]:
    target, teacher, student = plan.full.target, models.teacher, models.student
    if target is None or teacher is None or student is None or (target.min_speedup or 0) <= 1:
        return
    if body(student) >= body(teacher):
        yield InvalidRequest(
            f"The student has {body(student):,} weights beside its embeddings, the teacher {body(teacher):,}: it cannot be "
            f"{target.min_speedup:g} times as fast.",
            param="target.min_speedup",
            hint="Choose a smaller student.model, or student.init = teacher_layers.",
        )


def body(info: ModelInfo) -> int:
    """Weights that every token passes: all but the embedding table."""
    return max(1, info.params - (info.vocab_size or 0) * (info.hidden_size or 0))


def _size(plan: Planned, models: Models) -> list[dict[str, Any]]:
    target, teacher = plan.full.target, models.teacher
    if target is None or target.max_size_ratio is None or teacher is None:
        return []
    smallest = _smallest(plan, models, teacher) * _PER_WEIGHT.get(plan.full.quantization.scheme, 1) / 4 / max(1, teacher.params)
    if smallest <= target.max_size_ratio:
        return []
    message = (
        f"The smallest student of this kind has about {smallest:.0%} of the teacher's bytes; wanted: {target.max_size_ratio:.0%}."
        + (" INT8 takes a quarter of the bytes of float." if plan.full.quantization.scheme == "none" else "")
    )
    return [{"code": "target_out_of_reach", "message": message, "param": "target.max_size_ratio"}]


def _smallest(plan: Planned, models: Models, teacher: ModelInfo) -> int:
    """Weights: of the pretrained student, or of one layer and the embedding table at the width that is asked for."""
    if models.student is not None:
        return models.student.params
    asked = plan.full.student.params
    if plan.full.student.init != _INHERITS or not teacher.hidden_size or asked.get("trim_vocabulary"):
        return 0
    width = int(asked.get("hidden_size") or teacher.hidden_size)
    wide = int(asked.get("intermediate_size") or (teacher.intermediate_size or 0) * width // teacher.hidden_size)
    return (teacher.vocab_size or 0) * width + 4 * width**2 + 2 * width * wide
