"""A data file's validation report and column profile, in one pass with flat memory.

The report is kept with the file, and what a job asks of its columns later is answered from the profile, without
reading the file again: see `rowfaults.py`.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from app.domain.columns import SHOWN, CellColumn, Column
from app.domain.errors import DatasetInvalid
from app.domain.manifest import sha256_file
from app.domain.rows import COLUMNS, Format, Row, RowError, detect_format, excerpt, read_rows, records
from app.domain.values import MISSING, Kind, fault

__all__ = ["DatasetReport", "Format", "Row", "RowError", "detect_format", "inspect", "read_rows"]

_REPORTED_VALUES = 4000  # over all columns
_RESERVOIR = 4096  # rows whose length the percentiles are of
_DUPLICATES = 2**18  # rows that are remembered, 8 bytes of hash each
_LIST_COLUMNS = 8  # whose lengths are compared with each other, row by row
_TEXT, _LABEL = "text", "label"  # the columns that a job takes by default


@dataclass(frozen=True)
class DatasetReport:
    """See `GET /v1/files/{id}/validation`. `malformed_rows` are no rows at all; `invalid_rows` adds those whose `text` or
    `label` no task can use, or that are of another kind than the rows before, when the file has columns of these names."""

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
    unequal_lists: list[dict[str, Any]]  # {"columns": [a, b], "rows", "lines"}: lists that differ in length in some rows
    errors: list[dict[str, Any]]
    errors_truncated: bool
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Unequal:
    rows: int = 0
    lines: list[int] = field(default_factory=list)


class _Usual:
    """What a column of a usual name holds: of the kinds that all rows so far agree on."""

    def __init__(self, name: str, kinds: Sequence[Kind]) -> None:
        self.name, self.kinds = name, list(kinds)
        self.plain = False  # a text was seen
        self.bad = 0

    def judge(self, line: int, sort: str, row: Row) -> RowError | None:
        if self.plain:
            self.kinds, self.plain = self.kinds[:1], False
        fitting = [kind for kind in self.kinds if fault(kind, sort) is None]
        if fitting:
            self.kinds = fitting if sort != MISSING else self.kinds
            return None
        code, reason = fault(self.kinds[0], sort) or ("wrong_type", "cannot be used")
        return self.error(line, code, reason, row)

    def error(self, line: int, code: str, reason: str, row: Row) -> RowError:
        self.bad += 1
        shown = excerpt(orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS))
        return RowError(line, self.name, code, f"'{self.name}' {reason}.", shown)


class _Profile:
    """Everything that one pass collects."""

    def __init__(self, format: str) -> None:
        self.rows = self.malformed = self.duplicates = self.remembered = 0
        self.columns: dict[str, Column] = {}
        self.good = 0
        self._new = CellColumn if format == "csv" else Column
        self._first_lines: list[int] = []
        self.errors: list[RowError] = []
        self.repeated: list[RowError] = []
        self.unusable: list[tuple[RowError | None, RowError | None]] = []
        self.text, self.label = _Usual(_TEXT, ("text", "words")), _Usual(_LABEL, ("label", "number", "tags", "relevance"))
        self.bad_both = 0
        self.unequal: dict[tuple[str, str], _Unequal] = {}
        self._lists: set[str] = set()
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
        lists: list[tuple[str, int]] = []
        for name, value in row.items():
            column = columns.get(name)
            if column is None:
                if len(columns) >= COLUMNS:
                    continue
                column = columns[name] = self._new_column(line)
            length = column.add(line, value)
            if length > longest:
                longest = length
            if column.items >= 0:
                lists.append((name, column.items))
        if len(row) != len(columns):
            for name, column in columns.items():
                if name not in row:
                    column.lack(line)
        if len(lists) > 1:
            self._compare_lists(line, lists)
        self._measure(longest)
        self._check(line, row)
        self._compare(line, content)

    def _new_column(self, line: int) -> Column:
        """It was absent from every row before this one."""
        column = self._new()
        column.absent_before(self.good - 1, [n for n in self._first_lines if n != line])
        return column

    def _compare_lists(self, line: int, lists: list[tuple[str, int]]) -> None:
        for n, (name, length) in enumerate(lists):
            if name not in self._lists:
                if len(self._lists) >= _LIST_COLUMNS:
                    continue
                self._lists.add(name)
            for other, its in lists[:n]:
                if its != length and other in self._lists:
                    pair = (name, other) if name < other else (other, name)
                    found = self.unequal.setdefault(pair, _Unequal())
                    found.rows += 1
                    if len(found.lines) < SHOWN:
                        found.lines.append(line)

    def _measure(self, length: int) -> None:
        if len(self._lengths) < _RESERVOIR:
            self._lengths.append(length)
        elif (place := int(self._random.random() * self.good)) < _RESERVOIR:
            self._lengths[place] = length

    def _check(self, line: int, row: Row) -> None:
        value, name = row.get(_TEXT), row.get(_LABEL)
        if type(value) is str and type(name) is str and value and name and not value.isspace() and not name.isspace():
            self.text.plain = self.label.plain = True
            return  # as nearly every row is
        text, label = self._judge(self.text, line, row), self._judge(self.label, line, row)
        if text or label:
            self.bad_both += text is not None and label is not None
            if len(self.unusable) < SHOWN:
                self.unusable.append((text, label))

    def _judge(self, usual: _Usual, line: int, row: Row) -> RowError | None:
        column = self.columns.get(usual.name) if usual.name in row else None
        sort = MISSING if column is None else column.last
        if sort == MISSING and usual is self.text:
            return usual.error(line, "missing_field", "is missing", row)
        return usual.judge(line, sort, row)

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
        """Values, and elements of lists, of the columns with the fewest first, so that labels are among them."""
        counted = [(len(c.values), n, "values") for n, c in self.columns.items() if c.values is not None]
        counted += [(len(c.elements), n, "elements") for n, c in self.columns.items() if c.elements is not None]
        kept, room = set(), _REPORTED_VALUES
        for size, name, what in sorted(counted):
            if size <= room:
                kept.add((name, what))
                room -= size
        return {n: c.to_json((n, "values") in kept, (n, "elements") in kept) for n, c in self.columns.items()}


def inspect(path: Path, format: str, digest: str | None = None) -> DatasetReport:
    """Read the file once. `digest`: its sha256, when it is known already. Never raises for what the file holds."""
    profile = _Profile(format)
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
    unusable = has_text * profile.text.bad + has_label * profile.label.bad - (has_text and has_label) * profile.bad_both
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
        unequal_lists=[{"columns": [*pair], "rows": u.rows, "lines": u.lines} for pair, u in sorted(profile.unequal.items())],
        errors=[*fatal, *(error.to_json() for error in errors)][:SHOWN],
        errors_truncated=invalid + profile.duplicates + len(fatal) > SHOWN,
        digest=f"sha256:{digest}",
    )
