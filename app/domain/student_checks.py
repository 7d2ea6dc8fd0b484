"""Whether a student can be made as asked: an impossible layer, a width that does not divide, a task that its kind cannot do."""

from collections.abc import Iterator
from typing import Any, Protocol

from app.domain import tasks
from app.domain.errors import InvalidRequest, UnsupportedMethod
from app.domain.spec import JobSpec

Fault = InvalidRequest
_STATIC = "static"
_STATIC_WIDTH = 256


class TeacherShape(Protocol):
    """What of a model's config decides whether a student can be made from it."""

    @property
    def model_type(self) -> str: ...
    @property
    def num_layers(self) -> int | None: ...
    @property
    def hidden_size(self) -> int | None: ...
    @property
    def num_heads(self) -> int | None: ...
    @property
    def intermediate_size(self) -> int | None: ...


def check(spec: JobSpec, params: dict[str, Any], teacher: TeacherShape | None) -> list[Fault]:
    """Faults of `spec.student`, whose parameters with their defaults are `params`; `teacher` is None while it is not known."""
    found = list(_frozen(spec, params)) + list(_trimmed(spec, params))
    if spec.student.init == "teacher_layers":
        found += _cut(params, teacher)
    elif spec.student.init == "config":
        found += _measures(params)
    elif spec.student.init == _STATIC:
        found += _static(spec, params, teacher)
    return found


# -- whatever the kind -------------------------------------------------------------------------------------------------


def _frozen(spec: JobSpec, params: dict[str, Any]) -> Iterator[Fault]:
    frozen = set(params.get("freeze") or [])
    there = {"embeddings", "attention", "ffn", "head"} - ({"attention", "ffn"} if spec.student.init == _STATIC else set())
    if not has_head(spec):
        there -= {"head"}
    if missing := sorted(frozen - there):
        yield InvalidRequest(
            f"student.freeze names '{missing[0]}', but this student has no such part.",
            param="student.freeze",
            hint=f"It has {', '.join(sorted(there))}.",
        )
    elif frozen >= there and spec.student.init != _STATIC:  # a static student's weighing and residual layer still train
        yield InvalidRequest(
            "student.freeze leaves nothing of the student to train.", param="student.freeze", hint="Freeze fewer parts."
        )


def has_head(spec: JobSpec) -> bool:
    """Whether the student has weights behind its encoder: one that gives vectors has none."""
    compares_vectors = spec.ranking is not None and spec.ranking.student == "bi_encoder"
    return bool(tasks.task_of(spec).head) and not compares_vectors


def _trimmed(spec: JobSpec, params: dict[str, Any]) -> Iterator[Fault]:
    if params.get("trim_vocabulary") and spec.task == "masked-lm":
        yield UnsupportedMethod(
            "A masked language model answers with its whole vocabulary, which must be its teacher's.",
            param="student.trim_vocabulary",
            hint="Leave trim_vocabulary out; the task's own student may be trimmed in a later job.",
        )


# -- teacher_layers ----------------------------------------------------------------------------------------------------


def _cut(params: dict[str, Any], teacher: TeacherShape | None) -> Iterator[Fault]:
    layers = params["layers"]
    if isinstance(layers, list) and layers != sorted(set(layers)):
        yield InvalidRequest("student.layers must rise, each layer once.", param="student.layers", hint="Such as [0, 2, 5].")
        return
    if isinstance(layers, list) and params.get("choose", "uniform") != "uniform":
        yield InvalidRequest(
            "student.choose chooses layers when student.layers is a number; a list has chosen already.",
            param="student.choose",
            hint=f"Leave choose out, or set layers to {len(layers)}.",
        )
    if teacher is None:
        return
    if teacher.model_type not in tasks.FAMILIES:
        yield UnsupportedMethod(
            f"student.init = teacher_layers knows {', '.join(tasks.FAMILIES)}, not '{teacher.model_type}'.",
            param="student.init",
            hint="Use student.init = pretrained with a smaller model of that family.",
        )
    elif not teacher.num_layers or not teacher.hidden_size or not 0 < (teacher.num_heads or 0) <= teacher.hidden_size:
        yield UnsupportedMethod(
            "The teacher's config does not say its layers, width and heads.",
            param="student.init",
            hint="Use a BERT-like teacher, or student.init = pretrained.",
        )
    else:
        yield from _depth(layers, teacher.num_layers)
        yield from _width(params, teacher.hidden_size, teacher.num_heads or 1, teacher.intermediate_size)


def _depth(layers: int | list[int], depth: int) -> Iterator[Fault]:
    if isinstance(layers, int) and layers > depth:
        yield InvalidRequest(
            f"student.layers is {layers}, but the teacher has {depth} layers.", param="student.layers", hint=f"Choose 1 to {depth}."
        )
    if isinstance(layers, list) and (bad := [n for n in layers if n >= depth]):
        yield InvalidRequest(
            f"The teacher has no layer {bad[0]}; it has {depth}, counted from 0.",
            param="student.layers",
            hint=f"Choose from 0 to {depth - 1}.",
        )


def _width(params: dict[str, Any], width: int, heads: int, neurons: int | None) -> Iterator[Fault]:
    hidden, head_size = params.get("hidden_size") or width, width // heads
    if hidden > width:
        yield InvalidRequest(
            f"student.hidden_size is {hidden}, the teacher's is {width}: weights cannot be inherited into more.",
            param="student.hidden_size",
            hint=f"Choose at most {width}, or student.init = pretrained.",
        )
    elif not params.get("num_attention_heads") and hidden % head_size:
        yield InvalidRequest(
            f"student.hidden_size {hidden} is no multiple of the teacher's head size {head_size}.",
            param="student.hidden_size",
            hint=f"Choose {max(head_size, hidden // head_size * head_size)}, or give num_attention_heads.",
        )
    elif params.get("num_attention_heads") and hidden % params["num_attention_heads"]:
        yield InvalidRequest(
            f"student.hidden_size {hidden} cannot be shared by {params['num_attention_heads']} heads.",
            param="student.num_attention_heads",
            hint="hidden_size must be a multiple of num_attention_heads.",
        )
    if neurons and (params.get("intermediate_size") or 0) > neurons:
        yield InvalidRequest(
            f"student.intermediate_size is {params['intermediate_size']}, the teacher's {neurons}.",
            param="student.intermediate_size",
            hint=f"Choose at most {neurons}.",
        )


# -- config and static ---------------------------------------------------------------------------------------------------


def _measures(params: dict[str, Any]) -> Iterator[Fault]:
    if params["hidden_size"] % params["num_attention_heads"]:
        yield InvalidRequest(
            f"student.hidden_size {params['hidden_size']} cannot be shared by {params['num_attention_heads']} heads.",
            param="student.num_attention_heads",
            hint="hidden_size must be a multiple of num_attention_heads.",
        )
    if params.get("embedding_size") is not None and params["model_type"] != "electra":
        yield InvalidRequest(
            "Only an electra student has an embedding_size of its own.",
            param="student.embedding_size",
            hint='Leave it out, or set student.model_type to "electra".',
        )


def static_width(wanted: int | None, teacher: int) -> int:
    """Of a static student's vectors, where it is not asked for: 256, or the teacher's."""
    return wanted or min(_STATIC_WIDTH, teacher)


def _static(spec: JobSpec, params: dict[str, Any], teacher: TeacherShape | None) -> Iterator[Fault]:
    cross = spec.task == "ranking" and has_head(spec)
    if cross or spec.task in ("token-classification", "masked-lm") or (spec.task == "text-classification" and spec.data.text_b):
        reason = (
            "it knows no neighbours of a word"
            if spec.task in ("token-classification", "masked-lm")
            else "two texts in one sequence are one bag of words to it"
        )
        yield UnsupportedMethod(
            f"student.init = static averages token vectors: {reason}.",
            param="student.init",
            hint='Set ranking.student to "bi_encoder".' if cross else "Use teacher_layers, pretrained or config.",
        )
    if spec.student.adapter is not None:
        yield UnsupportedMethod(
            "A static student has no layers that an adapter could go beside.",
            param="student.adapter",
            hint="Leave student.adapter out: what trains is its table of token vectors.",
        )
    if teacher is not None and teacher.hidden_size and (params.get("hidden_size") or 0) > teacher.hidden_size:
        yield InvalidRequest(
            f"student.hidden_size is {params['hidden_size']}, the teacher's vectors have {teacher.hidden_size} numbers.",
            param="student.hidden_size",
            hint=f"Choose at most {teacher.hidden_size}.",
        )
