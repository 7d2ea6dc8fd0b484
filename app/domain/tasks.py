"""What a task is to everyone who loads no model: its columns, what objectives may read, when labels are needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from app.domain.spec import Data, JobSpec
from app.domain.values import Kind

# Encoders whose parts are known by name: queries, keys and values can be read, layers and widths inherited.
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")

Labels = Literal["needed", "optional", "own"]  # own: the task makes them from the texts


@dataclass(frozen=True)
class Task:
    """`problem` is None where `data.problem` says it; `head` ends the architecture of a model that has this task's head."""

    name: str
    problem: str | None
    offers: frozenset[str]  # what objectives may read
    labels: Labels
    metric: str
    recipe: str  # taken when a job names neither recipe nor stages
    head: str


@dataclass(frozen=True)
class Column:
    """A column that a job reads: `name` in the file, `field` under `data` in the spec."""

    name: str
    field: str
    kind: Kind
    required: bool  # a row without a value cannot be used


_STATES = frozenset({"hidden", "qkv", "labels", "teacher"})
TASKS = {
    task.name: task
    for task in (
        Task(
            "text-classification", None, _STATES | {"logits", "embedding"}, "needed", "accuracy", "response",
            "ForSequenceClassification",
        ),
        Task("token-classification", "tokens", _STATES | {"logits"}, "needed", "entity_f1", "response", "ForTokenClassification"),
        Task("embedding", "embedding", _STATES | {"embedding"}, "optional", "spearman", "embedding", ""),
        Task(
            "ranking", "ranking", _STATES | {"scores", "embedding"}, "optional", "ndcg_at_10", "ranker", "ForSequenceClassification"
        ),
        Task("masked-lm", "masked_lm", _STATES | {"logits"}, "own", "mlm_accuracy", "distilbert", "ForMaskedLM"),
    )
}  # fmt: skip
_METRICS = {"multi_label": "micro_f1", "regression": "spearman"}  # where a problem of text-classification has its own
_LABEL_KINDS: dict[str, Kind] = {
    "single_label": "label",
    "multi_label": "labels",
    "regression": "number",
    "tokens": "tags",
    "embedding": "number",
    "ranking": "relevance",
}


def task_of(spec: JobSpec) -> Task:
    return TASKS[spec.task]


def problem_of(spec: JobSpec) -> str:
    """The kind of target: single_label, multi_label, regression, tokens, embedding, ranking or masked_lm."""
    return TASKS[spec.task].problem or spec.data.problem


def metric_of(spec: JobSpec) -> str:
    return _METRICS.get(problem_of(spec), task_of(spec).metric)


def columns(spec: JobSpec) -> list[Column]:
    """In the order in which a row is checked."""
    return [*_columns(spec, spec.data, problem_of(spec))]


def _columns(spec: JobSpec, data: Data, problem: str) -> Iterator[Column]:
    yield Column(data.text, "text", "words" if problem == "tokens" else "text", required=True)
    if data.text_b is not None and problem not in ("tokens", "ranking", "masked_lm"):
        yield Column(data.text_b, "text_b", "text", required=problem != "embedding")
    if problem == "ranking":
        yield Column(data.documents, "documents", "documents", required=True)
    if problem in _LABEL_KINDS and not (problem == "embedding" and data.text_b is None):  # a score is one of two texts
        yield Column(data.label, "label", _LABEL_KINDS[problem], required=False)
    if data.route is not None:
        yield Column(data.route, "route", "label", required=False)


def same_length(problem: str) -> tuple[str, str] | None:
    """Fields whose lists pair off, element by element."""
    return {"tokens": ("text", "label"), "ranking": ("documents", "label")}.get(problem)
