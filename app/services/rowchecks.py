"""What a job needs of its data files, answered from their stored reports: the files are not read again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.domain import rowfaults, tasks
from app.domain.errors import DatasetInvalid, DomainError
from app.domain.models import File
from app.domain.spec import JobSpec
from app.domain.tasks import Column
from app.domain.values import LISTS
from app.services import labelchecks

ROLES = ("training", "validation", "test")
_SHOWN = 100
_UNKNOWN = {"text", "numeral"}  # sorts that a CSV file has where lists are wanted


@dataclass
class Rows:
    """What the files give. `labels` is None where they are not known, or where the task has none."""

    usable: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    labels: list[str] | None = None
    characters: float = 0.0  # mean of a sequence's own text
    sequences: float = 1.0  # mean of what a model reads per row: 1, two of a pair, or a query's documents
    errors: list[DomainError] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)


def check(files: Mapping[str, File], spec: JobSpec) -> Rows:
    found, columns = Rows(), tasks.columns(spec)
    reports: dict[str, Mapping[str, Any]] = {}
    for role, file in files.items():
        try:
            _exist(role, file, spec, columns)
            found.usable[role] = _usable(role, file, spec, columns, found.warnings)
            found.labelled[role] = _labelled(file.report, columns)
            reports[role] = file.report
        except DatasetInvalid as error:
            found.errors.append(error)
    found.errors += _nowhere(reports, files, columns)
    if "training" in reports:
        _measure(reports["training"], columns, found)
        found.errors += [*_too_few(found, spec), *_unanswered(reports["training"], spec)]
        judged = labelchecks.check(reports, spec)
        found.labels = judged.labels
        found.errors += judged.errors
        found.warnings += judged.warnings
    return found


def _exist(role: str, file: File, spec: JobSpec, columns: list[Column]) -> None:
    """Every column that rows cannot do without, in this file."""
    report = file.report
    rows, malformed = int(report["rows"]), int(report["malformed_rows"])
    if rows <= malformed:
        reason = report["errors"][0]["message"] if report["errors"] else "it holds none"
        more = f"GET /v1/files/{file.id}/validation lists the faults."
        shown = report["errors"][:_SHOWN]
        raise DatasetInvalid(f"The {role} file has no usable rows: {reason}", param=f"data.{role}_file", hint=more, details=shown)
    needed = tasks.task_of(spec).labels == "needed"
    for column in columns:
        wanted = column.required or (column.field == "label" and needed) or (column.field == "route" and role == "training")
        if wanted and not rowfaults.exists(report, column.name):
            raise DatasetInvalid(
                f"The {role} file has no values in a column '{column.name[:80]}'.",
                param=f"data.{column.field}",
                hint=f"Its columns are {_some_columns(report)}; set data.{column.field} to one of them.",
            )


def _nowhere(reports: Mapping[str, Any], files: Mapping[str, File], columns: list[Column]) -> list[DatasetInvalid]:
    """A second text that was named but is in no file."""
    if not reports or len(reports) < len(files):
        return []
    report = reports.get("training") or next(iter(reports.values()))
    return [
        DatasetInvalid(
            f"No file has values in a column '{column.name[:80]}'.",
            param=f"data.{column.field}",
            hint=f"The columns are {_some_columns(report)}; leave data.{column.field} out when texts are not compared in pairs.",
        )
        for column in columns
        if column.field == "text_b" and not any(rowfaults.exists(r, column.name) for r in reports.values())
    ]


def _some_columns(report: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name[:40]}'" for name in list(report["columns"])[:10])


def _usable(role: str, file: File, spec: JobSpec, columns: list[Column], warnings: list[dict[str, Any]]) -> int:
    report, param = file.report, f"data.{role}_file"
    rows, malformed = int(report["rows"]), int(report["malformed_rows"])
    more = f"GET /v1/files/{file.id}/validation lists the faults."
    faults = [rowfaults.in_column(report, column) for column in columns]
    pair = tasks.same_length(tasks.problem_of(spec))
    if pair is not None:
        faults.append(rowfaults.in_pair(report, columns, pair))
    bad = malformed + sum(f.rows for f in faults)
    if bad and spec.data.on_bad_row == "fail":
        own = [e for e in report["errors"] if _of_whole_row(e)]
        details = sorted([*own, *(e for f in faults for e in f.details)], key=lambda e: e["line"])[:_SHOWN]
        first = f"; first: line {details[0]['line']}: {details[0]['message']}" if details else "."
        hint = _list_hint(file, columns) or f'Mend them, or set data.on_bad_row to "skip". {more}'
        message = f"{min(bad, rows):,} of {rows:,} rows of the {role} file are not valid{first}"
        raise DatasetInvalid(message, param=param, hint=hint, details=details)
    if any(malformed + f.rows >= rows for f in faults):  # of several faults a row may have more than one
        raise DatasetInvalid(f"No row of the {role} file is usable.", param=param, hint=_list_hint(file, columns) or more)
    if bad:
        warnings.append(warning("rows_skipped", f"{bad:,} of {rows:,} rows of the {role} file will be skipped.", param))
    if duplicates := int(report["duplicate_rows"]):
        warnings.append(warning("duplicate_rows", f"{duplicates:,} rows of the {role} file occur more than once.", param))
    if any(f.unknown for f in faults):
        message = f"The {role} file was uploaded before lists were looked into: its rows are checked when the job starts."
        warnings.append(warning("checked_later", message, param))
    return max(1, rows - bad)


def _of_whole_row(error: Mapping[str, Any]) -> bool:
    """Not a fault of one column: those are counted anew for the columns that this job uses."""
    one_column = ("duplicate", "missing_field", "wrong_type", "wrong_element", "wrong_length")
    return error["code"] not in one_column and not (error["code"] == "empty" and error["column"])


def _list_hint(file: File, columns: list[Column]) -> str | None:
    """CSV has no lists: say how to bring them."""
    for column in columns:
        sorts = file.report["columns"].get(column.name, {}).get("sorts", {})
        if file.format == "csv" and column.kind in LISTS and _UNKNOWN & sorts.keys():
            return (
                f"A CSV file cannot hold lists: upload JSON Lines or Parquet, or write data.{column.field} as JSON in the cell, "
                'such as ["a","b"].'
            )
    return None


def _labelled(report: Mapping[str, Any], columns: list[Column]) -> int:
    return sum(rowfaults.present(report, column.name) for column in columns if column.field == "label")


def _too_few(found: Rows, spec: JobSpec) -> list[DatasetInvalid]:
    """Where validation rows are split off, one row is none."""
    usable, most = found.usable["training"], spec.data.max_examples
    if spec.data.validation_file is not None or min(usable, most or usable) >= 2:
        return []
    param = "data.training_file" if usable < 2 else "data.max_examples"
    hint = "Add rows, or give a validation file." if usable < 2 else "Raise it, or give a validation file."
    return [
        DatasetInvalid("One training row cannot be split into rows to train on and rows to validate with.", param=param, hint=hint)
    ]


def _unanswered(report: Mapping[str, Any], spec: JobSpec) -> list[DatasetInvalid]:
    """Training rows whose route belongs to no teacher. One without a route answers the rows without a value."""
    routes = {spec.teacher.route, *(member.route for member in spec.teacher.ensemble)}
    if spec.data.route is None or routes == {None}:
        return []
    profile = report["columns"][spec.data.route]
    strange = sorted((profile["values"] or {}).keys() - routes)
    if strange:
        told = f"No teacher has the route '{strange[0][:60]}', which rows of the training file have in '{spec.data.route[:60]}'."
    elif profile["missing"] and None not in routes:
        told = f"{profile['missing']:,} training rows have nothing in '{spec.data.route[:60]}': no teacher answers them."
    else:
        return []
    hint = "Give every value that occurs to one teacher's 'route'; a teacher without one answers the rows that have none."
    return [DatasetInvalid(told, param="data.route", hint=hint)]


def _measure(report: Mapping[str, Any], columns: list[Column], found: Rows) -> None:
    """How much a model reads per row, for the estimate."""
    by_field = {column.field: report["columns"].get(column.name, {}) for column in columns}
    text = by_field["text"]
    items = text.get("items")
    found.characters = items["mean"] * (items["characters"] + 1) if items else float(text["characters"]["mean"])
    if documents := by_field.get("documents", {}).get("items"):
        found.sequences = documents["mean"]
        found.characters += documents["characters"]
    elif second := by_field.get("text_b"):
        found.characters += float(second["characters"]["mean"])


def warning(code: str, message: str, param: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param}
