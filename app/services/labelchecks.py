"""Whether the labels of a job's files can teach and measure anything, answered from their stored reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.domain import rowfaults, tasks
from app.domain.errors import DatasetInvalid, DomainError
from app.domain.spec import JobSpec

_SHOWN = 100
Report = Mapping[str, Any]
Counts = dict[str, int]  # rows by label
_COUNTED = {"single_label": "values", "multi_label": "elements", "tokens": "elements"}


@dataclass
class Judged:
    labels: list[str] | None = None
    errors: list[DomainError] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)

    def error(self, message: str, param: str, hint: str, details: list[dict[str, Any]] | None = None) -> None:
        self.errors.append(DatasetInvalid(message, param=param, hint=hint, details=details or []))

    def warn(self, code: str, message: str, param: str) -> None:
        self.warnings.append({"code": code, "message": message, "param": param})


def check(reports: Mapping[str, Report], spec: JobSpec) -> Judged:
    """`reports` by role, training among them; every one has the columns that the job needs."""
    judged, problem = Judged(), tasks.problem_of(spec)
    if problem in _COUNTED:
        _names(reports, spec, _COUNTED[problem], judged)
    elif any(column.field == "label" for column in tasks.columns(spec)):
        _numbers(reports, spec, problem, judged)
    return judged


# -- names: single_label, multi_label, tokens ------------------------------------------------------------------------


def _names(reports: Mapping[str, Report], spec: JobSpec, what: str, judged: Judged) -> None:
    column, counts = spec.data.label, dict[str, Counts | None]()
    for role, report in reports.items():
        profile = report["columns"][column]
        many = profile["distinct"] if what == "values" else profile.get("distinct_elements", 0)
        if many is None:
            judged.error(
                f"Column '{column[:80]}' of the {role} file has over 1,000 different values, or long ones: no labels.",
                "data.label",
                "Set data.label to the column that holds the classes.",
            )
        else:
            counts[role] = profile.get(what)
    if (training := counts.get("training")) is None:
        return
    judged.labels = sorted(training)
    if _too_few(training, spec, judged):
        return
    for role in counts.keys() - {"training"}:
        _strangers(role, counts[role], training, judged)
    _rare(training, reports["training"], spec, judged)


def _too_few(counts: Counts, spec: JobSpec, judged: Judged) -> bool:
    problem = tasks.problem_of(spec)
    least = 1 if problem == "multi_label" else 2
    if len(counts) >= least:
        return False
    only = f"only the label '{next(iter(counts))[:60]}'" if counts else "no label"
    needs = {"multi_label": "one label that some rows have", "tokens": "two tags"}.get(problem, "two")
    judged.error(
        f"The training file has {only}; a classifier needs at least {needs}.",
        "data.label",
        "Add rows of another label, or set data.label to the right column.",
    )
    return True


def _strangers(role: str, counts: Counts | None, training: Counts, judged: Judged) -> None:
    strange = sorted((counts or {}).keys() - training.keys())
    if not strange:
        return
    more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
    judged.error(
        f"The label '{strange[0][:60]}'{more} occurs in the {role} file but in no row of the training file.",
        f"data.{role}_file",
        f"Add rows with it to the training file, or take it out of the {role} file.",
        [{"label": label, "rows": (counts or {})[label]} for label in strange[:_SHOWN]],
    )


def _rare(counts: Counts, report: Report, spec: JobSpec, judged: Judged) -> None:
    alone = [label for label in sorted(counts) if counts[label] == 1]
    split = spec.data.validation_file is None and tasks.problem_of(spec) == "single_label"
    if split and len(alone) == len(counts):
        judged.error(
            "Every label has a single training row: none is left to validate with.",
            "data.label",
            "Set data.label to the right column, add rows, or give a validation file.",
        )
    elif alone and split:
        message = f"{len(alone)} labels have a single training row, such as '{alone[0][:60]}': none is left to validate them."
        judged.warn("rare_labels", message, "data.training_file")
    everywhere = [label for label in sorted(counts) if counts[label] == rowfaults.present(report, spec.data.label)]
    if everywhere and tasks.problem_of(spec) == "multi_label":
        message = f"Every labelled row has the label '{everywhere[0][:60]}': there is nothing to tell apart."
        judged.warn("constant_label", message, "data.label")


# -- numbers: regression, embedding, ranking -------------------------------------------------------------------------


def _numbers(reports: Mapping[str, Report], spec: JobSpec, problem: str, judged: Judged) -> None:
    """One number everywhere teaches nothing, and correlates with nothing."""
    name = spec.data.label
    measured = {"regression": reports, "embedding": reports, "ranking": {"training": reports["training"]}}[problem]
    what = {"regression": "label", "embedding": "score", "ranking": "relevance"}[problem]
    for role, report in measured.items():
        profile = report["columns"].get(name) or {}
        span = profile.get("numbers")
        if span is not None and span["min"] == span["max"] and rowfaults.present(report, name):
            param = "data.label" if role == "training" else f"data.{role}_file"
            message = f"Every {what} of the {role} file is {span['min']:g}: there is nothing to learn or to measure."
            judged.error(message, param, "Set data.label to the right column, or leave the labels out where none are needed.")
        elif span is not None and problem == "embedding" and not 0 <= span["min"] <= span["max"] <= 1:
            message = f"Scores of the {role} file run from {span['min']:g} to {span['max']:g}: all are rescaled to 0 … 1."
            judged.warn("scores_rescaled", message, "data.label")
