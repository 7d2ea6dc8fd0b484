"""What a job needs of its data files, answered from their stored reports: the files are not read again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.domain.datasets import column_errors
from app.domain.errors import DatasetInvalid, DomainError
from app.domain.models import File
from app.domain.spec import Data

ROLES = ("training", "validation", "test")
_SHOWN = 100


@dataclass
class Rows:
    """What the files give. `labels` is None where a column has too many values to be one of labels."""

    usable: dict[str, int] = field(default_factory=dict)
    labels: list[str] | None = None
    characters: float = 0.0  # mean length of a training text
    errors: list[DomainError] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)


def check(files: Mapping[str, File], data: Data) -> Rows:
    found = Rows()
    values: dict[str, dict[str, int] | None] = {}
    for role, file in files.items():
        try:
            found.usable[role] = _usable(role, file, data, found.warnings)
            values[role] = _values(role, file, data)
        except DatasetInvalid as error:
            found.errors.append(error)
    train = files.get("training")
    if train is not None and (profile := train.report["columns"].get(data.text)):
        found.characters = float(profile["characters"]["mean"])
    if (counts := values.get("training")) is not None:
        _check_labels(counts, values, data, found)
    return found


def _usable(role: str, file: File, data: Data, warnings: list[dict[str, Any]]) -> int:
    report, param = file.report, f"data.{role}_file"
    rows, malformed = int(report["rows"]), int(report["malformed_rows"])
    more = f"GET /v1/files/{file.id}/validation lists the faults."
    if rows <= malformed:
        reason = report["errors"][0]["message"] if report["errors"] else "it holds none"
        shown = report["errors"][:_SHOWN]
        raise DatasetInvalid(f"The {role} file has no usable rows: {reason}", param=param, hint=more, details=shown)
    text, label = column_errors(report, data.text, "text"), column_errors(report, data.label, "label")
    for name, kind, column in ((data.text, "text", text), (data.label, "label", label)):
        if not column.exists:
            there = ", ".join(f"'{n[:40]}'" for n in list(report["columns"])[:10])
            raise DatasetInvalid(
                f"The {role} file has no values in a column '{name[:80]}'.",
                param=f"data.{kind}",
                hint=f"Its columns are {there}; set data.{kind} to one of them.",
            )
    bad = malformed + text.rows + label.rows
    if bad and data.on_bad_row == "fail":
        own = [e for e in report["errors"] if _of_whole_row(e)]
        details = sorted([*own, *text.details, *label.details], key=lambda e: e["line"])[:_SHOWN]
        first = f"; first: line {details[0]['line']}: {details[0]['message']}" if details else "."
        hint = f'Mend them, or set data.on_bad_row to "skip". {more}'
        message = f"{bad:,} of {rows:,} rows of the {role} file are not valid{first}"
        raise DatasetInvalid(message, param=param, hint=hint, details=details)
    if bad >= rows:
        raise DatasetInvalid(f"No row of the {role} file is usable.", param=param, hint=more)
    if bad:
        warnings.append(_warning("rows_skipped", f"{bad:,} of {rows:,} rows of the {role} file will be skipped.", param))
    if duplicates := int(report["duplicate_rows"]):
        warnings.append(_warning("duplicate_rows", f"{duplicates:,} rows of the {role} file occur more than once.", param))
    return rows - bad


def _of_whole_row(error: Mapping[str, Any]) -> bool:
    """Not a fault of one column: those are counted anew for the columns that this job uses."""
    return error["code"] not in ("duplicate", "missing_field", "wrong_type") and not (error["code"] == "empty" and error["column"])


def _values(role: str, file: File, data: Data) -> dict[str, int] | None:
    column = file.report["columns"][data.label]
    if column["distinct"] is None:
        raise DatasetInvalid(
            f"Column '{data.label[:80]}' of the {role} file has over 1,000 different values, or long ones: no labels.",
            param="data.label",
            hint="Set data.label to the column that holds the classes.",
        )
    counts: dict[str, int] | None = column["values"]
    return counts


def _check_labels(counts: dict[str, int], values: Mapping[str, dict[str, int] | None], data: Data, found: Rows) -> None:
    found.labels = sorted(counts)
    if len(counts) < 2:
        only = f"only the label '{found.labels[0][:60]}'" if counts else "no label"
        message = f"The training file has {only}; a classifier needs at least two."
        hint = "Add rows of another label, or set data.label to the right column."
        found.errors.append(DatasetInvalid(message, param="data.label", hint=hint))
        return
    for role in ROLES[1:]:
        strange = sorted((values.get(role) or {}).keys() - counts.keys())
        if strange:
            more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
            message = f"The label '{strange[0][:60]}'{more} occurs in the {role} file but in no row of the training file."
            hint = f"Add rows with it to the training file, or take it out of the {role} file."
            details = [{"label": label, "rows": (values[role] or {})[label]} for label in strange[:_SHOWN]]
            found.errors.append(DatasetInvalid(message, param=f"data.{role}_file", hint=hint, details=details))
    alone = [label for label in found.labels if counts[label] == 1]
    if alone and data.validation_file is None:
        message = f"{len(alone)} labels have a single training row, such as '{alone[0][:60]}': none is left to validate them."
        found.warnings.append(_warning("rare_labels", message, "data.training_file"))


def _warning(code: str, message: str, param: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param}
