"""What a value of a data file is (its sort), and which sorts a column of a kind accepts.

The profile of a file counts sorts, a row check looks at one value: both answer from `fault`, so they cannot disagree.
A list's sort says of what it is and how long: `list:texts:many`. A cell of a CSV file is a text that may also be read as
a number (`numeral`) or as a JSON list (`cell:texts:many`).
"""

import math
from functools import lru_cache
from typing import Any, Literal

import orjson

# text; label: a text or whole number; labels: a list of them; number; words and their tags; documents and their relevance
Kind = Literal["text", "label", "labels", "number", "words", "tags", "documents", "relevance"]

DOCUMENTS = 1000  # of one query
MISSING, EMPTY = "missing", "empty"
_NAMES: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean", list: "list", dict: "object"}
_WANTED: dict[Kind, str] = {
    "text": "a text",
    "label": "a text or a whole number",
    "labels": "a list of texts or whole numbers",
    "number": "a number",
    "words": "a list of words",
    "tags": "a list of texts or whole numbers",
    "documents": "a list of texts",
    "relevance": "a list of numbers",
}
LISTS: frozenset[Kind] = frozenset({"labels", "words", "tags", "documents", "relevance"})
_SCALARS: dict[Kind, tuple[str, ...]] = {
    "text": ("text", "numeral"),
    "label": ("text", "numeral", "integer"),
    "number": ("integer", "number", "numeral"),
}
_ELEMENTS: dict[Kind, tuple[str, ...]] = {
    "labels": ("texts", "labels", "naturals", "integers", "none"),
    "tags": ("texts", "labels", "naturals", "integers", "none"),
    "words": ("texts",),
    "documents": ("texts",),
    "relevance": ("naturals", "numbers", "none"),
}
_IN_LISTS = {
    "blanks": "one of its texts is empty",
    "integers": "one of its numbers is below 0",
    "negatives": "one of its numbers is below 0",
    "infinites": "one of its numbers is not finite",
}


def type_name(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def sort_of(value: Any) -> str:
    """Of a value as JSON or Parquet gives it."""
    if value is None:
        return MISSING
    kind = type(value)
    if kind is str:
        return "text" if value and not value.isspace() else EMPTY
    if kind is list:
        return f"list:{sort_of_list(value)}"
    if kind is float and not math.isfinite(value):
        return "infinite"
    return _NAMES.get(kind, kind.__name__)


def sort_of_list(items: list[Any]) -> str:
    length = len(items)
    if not length:
        return "none:0"
    return f"{_elements(items)}:{'1' if length == 1 else 'many' if length <= DOCUMENTS else 'crowd'}"


def _elements(items: list[Any]) -> str:
    kinds = set(map(type, items))
    if kinds == {str}:
        return "texts" if all(items) and not any(map(str.isspace, items)) else "blanks"
    if kinds == {int}:
        return "naturals" if min(items) >= 0 else "integers"
    if kinds <= {int, float}:
        if not all(map(math.isfinite, items)):
            return "infinites"
        return "numbers" if min(items) >= 0 else "negatives"
    if kinds == {int, str}:
        return "labels" if all(type(item) is int or (item and not item.isspace()) for item in items) else "blanks"
    return "others"


def sort_of_cell(cell: str) -> tuple[str, Any]:
    """Of a CSV cell, and what it is when it is read as a number or a list."""
    if not cell or cell.isspace():
        return EMPTY, cell
    if cell[0] == "[":
        try:
            items = orjson.loads(cell)
        except orjson.JSONDecodeError:
            return "text", cell
        return (f"cell:{sort_of_list(items)}", items) if type(items) is list else ("text", cell)
    if cell[0] in "0123456789+-." and len(cell) <= 40 and "_" not in cell:
        try:
            number = float(cell)
        except ValueError:
            return "text", cell
        return ("numeral", number) if math.isfinite(number) else ("text", cell)
    return "text", cell


@lru_cache(maxsize=1024)
def fault(kind: Kind, sort: str) -> tuple[str, str] | None:
    """(code, what is wrong with '<column>') when a value of this sort cannot be used; a missing one is not judged here."""
    if sort == MISSING:
        return None
    if sort == EMPTY:
        return "empty", "is empty" if kind == "text" else "is empty; leave it out when the row has none"
    if kind not in LISTS:
        if sort in _SCALARS[kind] or (sort.startswith("cell:") and kind != "number"):
            return None
        return "wrong_type", f"must be {_WANTED[kind]}, not {_told(sort)}"
    if not sort.startswith(("list:", "cell:")):
        return "wrong_type", f"must be {_WANTED[kind]}, not {_told(sort)}"
    _, elements, length = sort.split(":")
    return _fault_of_list(kind, elements, length)


def _fault_of_list(kind: Kind, elements: str, length: str) -> tuple[str, str] | None:
    if elements == "none" and kind in ("words", "documents"):
        return "empty", "is an empty list"
    if elements not in _ELEMENTS[kind]:
        if elements == "blanks" or (elements in _IN_LISTS and kind == "relevance"):
            return "wrong_element", f"must be {_WANTED[kind]}; {_IN_LISTS[elements]}"
        return "wrong_element", f"must be {_WANTED[kind]}; it holds something else"
    if kind == "documents" and length != "many":
        return "wrong_length", f"must list 2 to {DOCUMENTS:,} documents" + (", not one" if length == "1" else "")
    return None


def _told(sort: str) -> str:
    told = {"text": "a text", "numeral": "a text", "cell": "a list", "infinite": "one that is not finite"}
    return told.get(name := sort.split(":")[0], name)


def read_cell(kind: Kind, cell: Any) -> Any:
    """What a CSV cell means to a column of this kind: its text, or the number or list that is written in it."""
    if not isinstance(cell, str) or kind in ("text", "label"):
        return cell
    sort, value = sort_of_cell(cell)
    wanted = "numeral" if kind == "number" else "cell"
    return value if sort.startswith(wanted) else cell
