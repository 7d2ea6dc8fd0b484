"""What keeps a row from being used by a job: judged on the row itself, or counted from the file's stored profile."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.domain.columns import SHOWN
from app.domain.rows import Row, RowError, excerpt
from app.domain.tasks import Column
from app.domain.values import LISTS, MISSING, fault, read_cell, sort_of

Pair = tuple[str, str]  # fields whose lists have one element for each of the other's


def read_cells(row: Row, columns: Sequence[Column]) -> Row:
    """A row of a CSV file as its columns are meant: numbers and lists that are written in cells."""
    return {**row, **{c.name: read_cell(c.kind, row[c.name]) for c in columns if c.name in row}}


def check_row(line: int, row: Row, columns: Sequence[Column], pair: Pair | None = None) -> RowError | None:
    """The first fault, in the columns' order."""
    for column in columns:
        value = row.get(column.name)
        if value is None:
            if column.required:
                return _error(line, row, column.name, "missing_field", "is missing")
        elif found := fault(column.kind, sort_of(value)):
            return _error(line, row, column.name, *found)
    if pair is not None:
        values = {c.field: row.get(c.name) for c in columns}
        one, other = (values.get(field) for field in pair)
        if one is not None and other is not None and len(one) != len(other):
            name = next(c.name for c in columns if c.field == pair[1])
            return _error(line, row, name, "wrong_length", _unequal(columns, pair, len(one), len(other)))
    return None


def _unequal(columns: Sequence[Column], pair: Pair, one: int | None = None, other: int | None = None) -> str:
    name = next(c.name for c in columns if c.field == pair[0])
    if one is None:
        return f"must have one value for each of '{name}'"
    return f"must have one value for each of '{name}': {other} for {one}"


def _error(line: int, row: Row, column: str, code: str, reason: str) -> RowError:
    shown = excerpt(orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS))
    return RowError(line, column, code, f"'{column}' {reason}.", shown)


@dataclass(frozen=True)
class Found:
    """What a profile knows of one column, or of a pair. `unknown`: rows that it cannot judge, of a report from before."""

    rows: int
    details: list[dict[str, Any]]
    unknown: int = 0


def exists(report: Mapping[str, Any], name: str) -> bool:
    """Whether any row has a value there."""
    profile = report["columns"].get(name)
    return profile is not None and bool(profile["missing"] < report["rows"] - report["malformed_rows"])


def present(report: Mapping[str, Any], name: str) -> int:
    """Rows that have a value there, good or bad."""
    profile = report["columns"].get(name)
    return 0 if profile is None else int(report["rows"] - report["malformed_rows"] - profile["missing"])


def in_column(report: Mapping[str, Any], column: Column) -> Found:
    """From a stored report: the rows in which `check_row` would find a fault of this column."""
    profile = report["columns"].get(column.name)
    if profile is None:
        return Found(report["rows"] if column.required else 0, [])
    rows, unknown = 0, 0
    errors: list[RowError] = []
    for sort, count, lines in _sorts(profile):
        if sort == "list" and column.kind in LISTS:
            unknown += count
            continue
        found = ("missing_field", "is missing") if sort == MISSING and column.required else fault(column.kind, sort)
        if found is not None:
            rows += count
            errors += [RowError(line, column.name, found[0], f"'{column.name}' {found[1]}.") for line in lines]
    errors.sort(key=lambda error: error.line)
    return Found(rows, [error.to_json() for error in errors[:SHOWN]], unknown)


def in_pair(report: Mapping[str, Any], columns: Sequence[Column], pair: Pair) -> Found:
    """Rows whose two lists differ in length."""
    names = {c.field: c.name for c in columns}
    if "unequal_lists" not in report:
        return Found(0, [], report["rows"])
    entry = next((e for e in report["unequal_lists"] if set(e["columns"]) == {names[field] for field in pair}), None)
    if entry is None:
        return Found(0, [])
    message = f"'{names[pair[1]]}' {_unequal(columns, pair)}."
    return Found(entry["rows"], [RowError(n, names[pair[1]], "wrong_length", message).to_json() for n in entry["lines"]])


def _sorts(profile: Mapping[str, Any]) -> Iterator[tuple[str, int, list[int]]]:
    """(sort, rows, first lines), also of a report that was made before sorts were counted."""
    if "sorts" in profile:
        yield from ((sort, found["rows"], found["lines"]) for sort, found in profile["sorts"].items())
        return
    yield MISSING, profile["missing"], profile["missing_lines"]
    yield "empty", profile["empty"], profile["empty_lines"]
    for kind, count in profile["types"].items():
        if kind == "string":
            yield "text", count - profile["empty"], []
        else:
            yield kind, count, profile["type_lines"].get(kind, [])
