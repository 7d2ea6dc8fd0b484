"""A data file's validation report and column profile, in one pass with flat memory.

The report is kept with the file, and what a job asks of its columns later is answered from the profile, without
reading the file again: `column_errors`.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from app.domain.errors import DatasetInvalid
from app.domain.manifest import sha256_file
from app.domain.rows import COLUMNS, Format, Row, RowError, detect_format, excerpt, read_rows, records

__all__ = [
    "ColumnErrors",
    "DatasetReport",
    "Format",
    "Row",
    "RowError",
    "check_row",
    "column_errors",
    "detect_format",
    "inspect",
    "read_rows",
]

SHOWN = 100  # errors, and lines per kind of fault of a column
DISTINCT = 1000  # values that are counted per column
_VALUE_CHARACTERS = 128
_REPORTED_VALUES = 4000  # over all columns
_RESERVOIR = 4096  # rows whose length the percentiles are of
_DUPLICATES = 2**18  # rows that are remembered, 8 bytes of hash each
_TEXT, _LABEL = "text", "label"  # the columns that a job takes by default

_NAMES: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean", list: "list", dict: "object"}
_LABEL_TYPES = ("string", "integer")


@dataclass(frozen=True)
class DatasetReport:
    """See `GET /v1/files/{id}/validation`. `malformed_rows` are no rows at all; `invalid_rows` adds those whose `text` or
    `label` cannot be used, when the file has columns of these names."""

    status: Literal["ok", "warnings", "invalid"]
    format: str
    rows: int
    valid_rows: int
    invalid_rows: int
    malformed_rows: int
    duplicate_rows: int
    duplicates_checked: int  # rows that were compared; later ones of a long file are not
    characters: dict[str, int]
    columns: dict[str, dict[str, Any]]
    errors: list[dict[str, Any]]
    errors_truncated: bool
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_row(line: int, row: Row, text: str = _TEXT, label: str = _LABEL) -> RowError | None:
    """What keeps a row from being used: text that is absent, no text or blank; a label that is no text or whole number.

    A label may be absent: such a row is taught by the teacher alone.
    """
    return _check_text(line, row, text) or _check_label(line, row, label)


def _check_text(line: int, row: Row, column: str) -> RowError | None:
    value = row.get(column)
    if value is None:
        return RowError(line, column, "missing_field", f"'{column}' is missing.", _shown(row))
    if not isinstance(value, str):
        return RowError(line, column, "wrong_type", f"'{column}' must be a text, not {_name(value)}.", _shown(row))
    if not value or value.isspace():
        return RowError(line, column, "empty", f"'{column}' is empty.", _shown(row))
    return None


def _check_label(line: int, row: Row, column: str) -> RowError | None:
    value = row.get(column)
    if value is None or type(value) is int:
        return None
    if not isinstance(value, str):
        return RowError(
            line, column, "wrong_type", f"'{column}' must be a text or a whole number, not {_name(value)}.", excerpt(row)
        )
    if not value or value.isspace():
        return RowError(line, column, "empty", f"'{column}' is empty; leave it out when the row has no label.", _shown(row))
    return None


def _shown(row: Row) -> str:
    return excerpt(orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS))


def _name(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


@dataclass
class _Column:
    seen: int = 0  # rows that have a value
    missing: int = 0
    empty: int = 0
    characters: int = 0
    longest: int = 0
    types: Counter[type] = field(default_factory=Counter)
    missing_lines: list[int] = field(default_factory=list)
    empty_lines: list[int] = field(default_factory=list)
    type_lines: dict[type, list[int]] = field(default_factory=dict)
    values: dict[Any, int] | None = field(default_factory=dict)

    def add(self, line: int, value: Any) -> int:
        """Count a value; its length when it is a text."""
        if value is None:
            self.lack(line)
            return 0
        self.seen += 1
        kind = type(value)
        self.types[kind] += 1
        if kind is not str:
            lines = self.type_lines.setdefault(kind, [])
            if len(lines) < SHOWN:
                lines.append(line)
            if kind is int or kind is bool:
                self._count(value)
            return 0
        length = len(value)
        self.characters += length
        if length > self.longest:
            self.longest = length
        if length == 0 or value.isspace():
            self.empty += 1
            if len(self.empty_lines) < SHOWN:
                self.empty_lines.append(line)
        elif length > _VALUE_CHARACTERS:
            self.values = None
        else:
            self._count(value)
        return length

    def lack(self, line: int) -> None:
        self.missing += 1
        if len(self.missing_lines) < SHOWN:
            self.missing_lines.append(line)

    def _count(self, value: Any) -> None:
        values = self.values
        if values is not None:
            values[value] = values.get(value, 0) + 1
            if len(values) > DISTINCT:
                self.values = None

    def to_json(self, with_values: bool) -> dict[str, Any]:
        counted: Counter[str] = Counter()
        for value, count in (self.values or {}).items():
            counted[str(value)] += count
        strings = self.types.get(str, 0)
        return {
            "types": {_NAMES.get(kind, kind.__name__): count for kind, count in self.types.items()},
            "missing": self.missing,
            "empty": self.empty,
            "missing_lines": self.missing_lines,
            "empty_lines": self.empty_lines,
            "type_lines": {_NAMES.get(kind, kind.__name__): lines for kind, lines in self.type_lines.items()},
            "characters": {"mean": round(self.characters / strings, 1) if strings else 0.0, "max": self.longest},
            "distinct": None if self.values is None else len(self.values),
            "values": dict(counted) if with_values else None,
        }


class _Profile:
    """Everything that one pass collects."""

    def __init__(self) -> None:
        self.rows = self.malformed = self.duplicates = self.remembered = 0
        self.columns: dict[str, _Column] = {}
        self.good = 0
        self._first_lines: list[int] = []
        self.errors: list[RowError] = []
        self.repeated: list[RowError] = []
        self.unusable: list[tuple[RowError | None, RowError | None]] = []
        self.bad_text = self.bad_label = self.bad_both = 0
        self._hashes: set[int] = set()
        self._lengths: list[int] = []
        self._random = random.Random(0)

    def bad(self, error: RowError) -> None:
        self.rows += 1
        self.malformed += 1
        if len(self.errors) < SHOWN:
            self.errors.append(error)

    def add(self, line: int, row: Row, content: int) -> None:
        self.rows += 1
        self.good += 1
        if len(self._first_lines) < SHOWN:
            self._first_lines.append(line)
        columns, longest = self.columns, 0
        for name, value in row.items():
            column = columns.get(name)
            if column is None:
                if len(columns) >= COLUMNS:
                    continue
                column = columns[name] = self._new_column(line)
            length = column.add(line, value)
            if length > longest:
                longest = length
        if len(row) != len(columns):
            for name, column in columns.items():
                if name not in row:
                    column.lack(line)
        self._measure(longest)
        self._check(line, row)
        self._compare(line, content)

    def _new_column(self, line: int) -> _Column:
        """It was absent from every row before this one."""
        before = self.good - 1
        return _Column(missing=before, missing_lines=[n for n in self._first_lines if n != line][:SHOWN])

    def _measure(self, length: int) -> None:
        if len(self._lengths) < _RESERVOIR:
            self._lengths.append(length)
        elif (place := int(self._random.random() * self.good)) < _RESERVOIR:
            self._lengths[place] = length

    def _check(self, line: int, row: Row) -> None:
        value, name = row.get(_TEXT), row.get(_LABEL)
        if type(value) is str and type(name) is str and value and name and not value.isspace() and not name.isspace():
            return  # as nearly every row is
        text, label = _check_text(line, row, _TEXT), _check_label(line, row, _LABEL)
        if text or label:
            self.bad_text += text is not None
            self.bad_label += label is not None
            self.bad_both += text is not None and label is not None
            if len(self.unusable) < SHOWN:
                self.unusable.append((text, label))

    def _compare(self, line: int, content: int) -> None:
        if content in self._hashes:
            self.duplicates += 1
            self.remembered += 1
            if len(self.repeated) < SHOWN:
                self.repeated.append(RowError(line, None, "duplicate", "The row occurs before."))
        elif len(self._hashes) < _DUPLICATES:
            self._hashes.add(content)
            self.remembered += 1

    def percentiles(self) -> dict[str, int]:
        lengths = sorted(self._lengths)
        at = {
            name: lengths[min(len(lengths) - 1, int(share * len(lengths)))] if lengths else 0
            for name, share in (("p50", 0.5), ("p95", 0.95))
        }
        return {**at, "max": max((c.longest for c in self.columns.values()), default=0)}

    def reported_columns(self) -> dict[str, dict[str, Any]]:
        """Values of the columns with the fewest first, so that labels are among them."""
        counted = sorted((len(c.values), n) for n, c in self.columns.items() if c.values is not None)
        kept, room = set(), _REPORTED_VALUES
        for size, name in counted:
            if size <= room:
                kept.add(name)
                room -= size
        return {name: column.to_json(name in kept) for name, column in self.columns.items()}


def inspect(path: Path, format: str, digest: str | None = None) -> DatasetReport:
    """Read the file once. `digest`: its sha256, when it is known already. Never raises for what the file holds."""
    profile = _Profile()
    fatal: list[dict[str, Any]] = []
    try:
        for line, row, content in records(path, format):
            if isinstance(row, RowError):
                profile.bad(row)
            else:
                profile.add(line, row, content)
    except DatasetInvalid as error:
        fatal = error.details or [RowError(profile.rows + 1, None, f"invalid_{format}", error.message).to_json()]
        fatal[0]["message"] = error.message
    if not profile.rows and not fatal:
        fatal = [RowError(1, None, "empty", "The file holds no rows.").to_json()]
    return _report(profile, format, fatal, digest or sha256_file(path))


def _report(profile: _Profile, format: str, fatal: list[dict[str, Any]], digest: str) -> DatasetReport:
    has_text, has_label = _TEXT in profile.columns, _LABEL in profile.columns
    unusable = has_text * profile.bad_text + has_label * profile.bad_label - (has_text and has_label) * profile.bad_both
    invalid = profile.malformed + unusable
    found = [error for text, label in profile.unusable for error in (has_text and text, has_label and label) if error]
    errors = sorted([*profile.errors, *found], key=lambda e: e.line)[:SHOWN]
    errors = sorted([*errors, *profile.repeated[: SHOWN - len(errors)]], key=lambda e: e.line)
    worst = "invalid" if invalid or fatal else "warnings" if profile.duplicates else "ok"
    return DatasetReport(
        status=worst,  # type: ignore[arg-type]
        format=format,
        rows=profile.rows,
        valid_rows=0 if fatal else profile.rows - invalid,
        invalid_rows=profile.rows if fatal else invalid,
        malformed_rows=profile.rows if fatal else profile.malformed,
        duplicate_rows=profile.duplicates,
        duplicates_checked=profile.remembered,
        characters=profile.percentiles(),
        columns=profile.reported_columns(),
        errors=[*fatal, *(error.to_json() for error in errors)][:SHOWN],
        errors_truncated=invalid + profile.duplicates + len(fatal) > SHOWN,
        digest=f"sha256:{digest}",
    )


@dataclass(frozen=True)
class ColumnErrors:
    """Rows whose text or label cannot be used, as the profile knows them."""

    rows: int
    details: list[dict[str, Any]]
    exists: bool  # the column occurs at all


def column_errors(report: Mapping[str, Any], column: str, role: Literal["text", "label"]) -> ColumnErrors:
    """From a stored report: what `check_row` would find in this column."""
    profile = report["columns"].get(column)
    if profile is None or profile["missing"] == report["rows"] - report["malformed_rows"]:
        return ColumnErrors(report["rows"], [], exists=False)
    faults = [*_faults(profile, column, role)]
    details = sorted((error for _, errors in faults for error in errors), key=lambda e: e.line)
    return ColumnErrors(sum(count for count, _ in faults), [e.to_json() for e in details[:SHOWN]], exists=True)


def _faults(profile: Mapping[str, Any], column: str, role: str) -> Iterator[tuple[int, list[RowError]]]:
    allowed = ("string",) if role == "text" else _LABEL_TYPES
    wanted = "a text" if role == "text" else "a text or a whole number"
    if role == "text":
        message = f"'{column}' is missing."
        yield profile["missing"], [RowError(n, column, "missing_field", message) for n in profile["missing_lines"]]
    yield profile["empty"], [RowError(n, column, "empty", f"'{column}' is empty.") for n in profile["empty_lines"]]
    for kind, count in profile["types"].items():
        if kind not in allowed:
            message = f"'{column}' must be {wanted}, not {kind}."
            yield count, [RowError(n, column, "wrong_type", message) for n in profile["type_lines"].get(kind, [])]
