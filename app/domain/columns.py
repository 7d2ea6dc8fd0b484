"""The profile of one column of a data file, collected value by value with flat memory."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from app.domain.values import EMPTY, MISSING, sort_of, sort_of_cell, type_name

SHOWN = 100  # lines per sort of value
DISTINCT = 1000  # values, or elements of lists, that are counted
_VALUE_CHARACTERS = 128
_NUMBERS = ("integer", "number")
_NUMERIC = ("naturals", "integers", "numbers", "negatives")
_COUNTED = ("texts", "labels", "naturals", "integers")


@dataclass
class _Sort:
    rows: int = 0
    lines: list[int] = field(default_factory=list)


class Column:
    """`last` is the sort of the newest value, `items` its length when it is a list, -1 otherwise."""

    __slots__ = (
        "characters", "elements", "high", "item_characters", "items", "last", "longest", "low", "seen_items", "sorts", "text_lines",
        "texts", "types", "values",
    )  # fmt: skip

    def __init__(self) -> None:
        self.last, self.items = MISSING, -1
        self.texts = self.characters = self.longest = self.seen_items = self.item_characters = 0
        self.text_lines: list[int] = []
        self.sorts: dict[str, _Sort] = {}
        self.types: Counter[str] = Counter()
        self.values: dict[Any, int] | None = {}
        self.elements: dict[Any, int] | None = {}
        self.low: float | None = None
        self.high: float | None = None

    def add(self, line: int, value: Any) -> int:
        """Count a value; its characters when it is a text or holds some."""
        self.items = -1
        if type(value) is str:
            return self._text(line, value)
        self.last = sort = sort_of(value)
        self._sort(line, sort)
        if sort == MISSING:
            return 0
        self.types[type_name(value)] += 1
        if type(value) is list:
            return self._list(value)
        if sort in _NUMBERS:
            self._number(value)
        if sort in ("integer", "boolean"):
            self._count(value)
        return 0

    def lack(self, line: int) -> None:
        self._sort(line, MISSING)

    def _text(self, line: int, value: str) -> int:
        length = len(value)
        if not length or value.isspace():
            self.last = EMPTY
            self._sort(line, EMPTY)
            return length
        self.last = "text"
        self.texts += 1
        if self.texts <= SHOWN:
            self.text_lines.append(line)
        self._measure(value, length)
        return length

    def _measure(self, value: str, length: int) -> None:
        self.characters += length
        if length > self.longest:
            self.longest = length
        if self.values is not None:
            if length > _VALUE_CHARACTERS:
                self.values = None
            else:
                self._count(value)

    def _list(self, items: list[Any]) -> int:
        """Its characters, all elements together. `last` is its sort already."""
        self.items, length = len(items), 0
        self.seen_items += self.items
        what = self.last.split(":")[1]
        if what in ("texts", "blanks"):
            length = sum(map(len if what == "texts" else _length, items))
            self.item_characters += length
            self.longest = max(self.longest, length)
        elif what in _NUMERIC:
            self._number(min(items))
            self._number(max(items))
        if what in _COUNTED and self.elements is not None:
            self._count_elements(self.elements, items)
        return length

    def _count_elements(self, elements: dict[Any, int], items: list[Any]) -> None:
        """Rows per element; an element that repeats in a row counts once."""
        for item in set(items):
            elements[item] = elements.get(item, 0) + 1
        if len(elements) > DISTINCT or max(map(_length, items)) > _VALUE_CHARACTERS:
            self.elements = None

    def _count(self, value: Any) -> None:
        values = self.values
        if values is not None:
            values[value] = values.get(value, 0) + 1
            if len(values) > DISTINCT:
                self.values = None

    def _number(self, value: float) -> None:
        if self.low is None or value < self.low:
            self.low = value
        if self.high is None or value > self.high:
            self.high = value

    def _sort(self, line: int, sort: str) -> None:
        found = self.sorts.get(sort)
        if found is None:
            found = self.sorts[sort] = _Sort()
        found.rows += 1
        if len(found.lines) < SHOWN:
            found.lines.append(line)

    def absent_before(self, rows: int, lines: list[int]) -> None:
        if rows:
            self.sorts[MISSING] = _Sort(rows, lines[:SHOWN])

    def to_json(self, with_values: bool, with_elements: bool) -> dict[str, Any]:
        sorts = {**self.sorts, "text": _Sort(self.texts, self.text_lines)} if self.texts else self.sorts
        written = sum(sort.rows for name, sort in sorts.items() if name in ("text", "numeral") or name.startswith("cell:"))
        lists = sum(sort.rows for name, sort in sorts.items() if name.startswith(("list:", "cell:")))
        empty = sorts[EMPTY].rows if EMPTY in sorts else 0
        alone = len(sorts) == 1 and MISSING not in sorts  # every line has it: one stands for all
        items = None
        if self.seen_items:
            mean = round(self.seen_items / lists, 2)
            items = {"mean": mean, "characters": round(self.item_characters / self.seen_items, 1)}
        return {
            "types": {**({"string": written + empty} if written + empty else {}), **self.types},
            "missing": sorts[MISSING].rows if MISSING in sorts else 0,
            "empty": empty,
            "sorts": {name: {"rows": sort.rows, "lines": sort.lines[: 1 if alone else SHOWN]} for name, sort in sorts.items()},
            "characters": {"mean": round(self.characters / written, 1) if written else 0.0, "max": self.longest},
            "numbers": None if self.low is None else {"min": self.low, "max": self.high},
            "distinct": None if self.values is None else len(self.values),
            "values": _named(self.values) if with_values else None,
            "items": items,
            "distinct_elements": None if self.elements is None else len(self.elements),
            "elements": _named(self.elements) if with_elements and lists else None,
        }


class CellColumn(Column):
    """Of a CSV file, whose cells may also be numbers or JSON lists."""

    __slots__ = ()

    def _text(self, line: int, value: str) -> int:
        sort, read = sort_of_cell(value)
        if sort in ("text", EMPTY):
            return super()._text(line, value)
        self.last = sort
        self._sort(line, sort)
        self._measure(value, len(value))  # a text like any other, and then what it says
        if sort == "numeral":
            self._number(read)
        else:
            self._list(read)
        return len(value)


def _length(item: Any) -> int:
    return len(item) if type(item) is str else 0


def _named(values: dict[Any, int] | None) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for value, count in (values or {}).items():
        counted[str(value)] += count
    return dict(counted)
