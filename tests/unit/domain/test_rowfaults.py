"""What a row check says of a row, and what the stored profile of a file says of all of them, are the same."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.datasets import inspect
from app.domain.rowfaults import check_row, exists, in_column, in_pair, read_cells
from app.domain.rows import RowError
from app.domain.tasks import Column
from app.domain.values import DOCUMENTS, Kind

TEXT, LABEL = Column("text", "text", "text", True), Column("label", "label", "label", False)


def of(kind: Kind, required: bool = False) -> Column:
    return Column("x", "label", kind, required)


FAULTS: list[tuple[Kind, Any, str | None]] = [
    ("text", "a", None),
    ("text", "", "empty"),
    ("text", " \t", "empty"),
    ("text", 3, "wrong_type"),
    ("text", ["a"], "wrong_type"),
    ("label", "a", None),
    ("label", 0, None),
    ("label", -1, None),
    ("label", " ", "empty"),
    ("label", 1.5, "wrong_type"),
    ("label", True, "wrong_type"),
    ("label", {"a": 1}, "wrong_type"),
    ("labels", [], None),
    ("labels", ["a", "b", "a"], None),
    ("labels", [1, "a"], None),
    ("labels", "a", "wrong_type"),
    ("labels", ["a", ""], "wrong_element"),
    ("labels", [1, ""], "wrong_element"),
    ("labels", [1.5], "wrong_element"),
    ("labels", [True], "wrong_element"),
    ("labels", [["a"]], "wrong_element"),
    ("labels", ["a", None], "wrong_element"),
    ("number", 1, None),
    ("number", -2.5, None),
    ("number", "2.5", "wrong_type"),
    ("number", True, "wrong_type"),
    ("number", float("nan"), "wrong_type"),
    ("number", [1], "wrong_type"),
    ("words", ["a", "b"], None),
    ("words", [], "empty"),
    ("words", "a b", "wrong_type"),
    ("words", ["a", " "], "wrong_element"),
    ("words", ["a", 1], "wrong_element"),
    ("words", ["a"] * (DOCUMENTS + 1), None),
    ("tags", ["O"], None),
    ("tags", [0, 1], None),
    ("tags", [0.5], "wrong_element"),
    ("documents", ["a", "b"], None),
    ("documents", ["a"] * DOCUMENTS, None),
    ("documents", ["a"], "wrong_length"),
    ("documents", ["a"] * (DOCUMENTS + 1), "wrong_length"),
    ("documents", [], "empty"),
    ("documents", ["a", ""], "wrong_element"),
    ("documents", [{"text": "a"}, {"text": "b"}], "wrong_element"),
    ("relevance", [0, 1.5, 3], None),
    ("relevance", [0, 1], None),
    ("relevance", [-1, 1], "wrong_element"),
    ("relevance", [-0.5, 1], "wrong_element"),
    ("relevance", [0.5, float("inf")], "wrong_element"),
    ("relevance", ["a"], "wrong_element"),
    ("relevance", [True, 1], "wrong_element"),
]


@pytest.mark.parametrize(("kind", "value", "code"), FAULTS, ids=lambda v: f"{v!r}"[:30])
def test_each_kind_of_column(kind: Kind, value: Any, code: str | None) -> None:
    error = check_row(7, {"x": value}, [of(kind)])
    assert (error.code if error else None) == code
    if error:
        assert (error.line, error.column) == (7, "x")
        assert error.message.startswith("'x' ")
        assert error.excerpt


def test_a_missing_value_is_a_fault_where_it_is_needed() -> None:
    for row in ({}, {"x": None}):
        assert check_row(1, row, [of("label")]) is None
        error = check_row(1, row, [of("text", required=True)])
        assert error is not None
        assert error.code == "missing_field"


def test_row_errors_carry_the_column() -> None:
    assert check_row(4, {"text": "a", "label": None}, [TEXT, LABEL]) is None
    expected = RowError(4, "text", "missing_field", "'text' is missing.", '{"label":"b"}')
    assert check_row(4, {"label": "b"}, [TEXT, LABEL]) == expected


WORDS, TAGS = Column("w", "text", "words", True), Column("t", "label", "tags", False)


def test_lists_that_pair_off_have_one_length() -> None:
    assert check_row(1, {"w": ["a", "b"], "t": ["O", "O"]}, [WORDS, TAGS], ("text", "label")) is None
    assert check_row(1, {"w": ["a", "b"]}, [WORDS, TAGS], ("text", "label")) is None
    for tags in (["O"], [], ["O", "O", "O"]):
        error = check_row(1, {"w": ["a", "b"], "t": tags}, [WORDS, TAGS], ("text", "label"))
        assert error is not None
        assert (error.column, error.code) == ("t", "wrong_length")
        assert f"{len(tags)} for 2" in error.message


# -- the profile -----------------------------------------------------------------------------------------------------


def report_of(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    path = folder / "agree.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return inspect(path, "jsonl").to_json()


def csv_of(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["x", "y"])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def test_the_profile_knows_columns_of_any_name(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"utterance": "a", "intent": "x"},
        {"intent": "y"},
        {"utterance": 7, "intent": "y"},
        {"utterance": " ", "intent": []},
    ]
    report = report_of(tmp_path, rows)
    assert report["status"] == "ok", "no column has a default name, so nothing is wrong yet"
    text = in_column(report, Column("utterance", "text", "text", True))
    assert [(e["line"], e["code"]) for e in text.details] == [(2, "missing_field"), (3, "wrong_type"), (4, "empty")]
    label = in_column(report, Column("intent", "label", "label", False))
    assert [(e["line"], e["code"]) for e in label.details] == [(4, "wrong_type")]
    assert not exists(report, "nothing")


VALUES = st.one_of(
    st.none(),
    st.sampled_from(["a", "b", "", " ", "1", "2.5", "-3", "1e999", "[1, 2]", '["a"]', "[]", "[", "1_0"]),
    st.integers(-2, 3),
    st.floats(-1, 1),
    st.booleans(),
    st.lists(st.sampled_from(["a", "", 1, -1, 0.5, None, True, "b"]), max_size=3),
    st.just({"k": 1}),
)
KINDS: tuple[Kind, ...] = ("text", "label", "labels", "number", "words", "tags", "documents", "relevance")
ROWS = st.lists(st.fixed_dictionaries({}, optional={"x": VALUES, "y": VALUES}), min_size=1, max_size=12)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])


@QUICK
@given(ROWS, st.booleans())
def test_profile_and_row_check_agree(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], required: bool) -> None:
    report = report_of(tmp_path_factory.getbasetemp(), rows)
    for kind in KINDS:
        column = of(kind, required)
        wrong = [n for n, row in enumerate(rows, 1) if check_row(n, row, [column])]
        found = in_column(report, column)
        if exists(report, "x"):
            assert found.rows == len(wrong), kind
            lines = [e["line"] for e in found.details]
            assert lines == (wrong if len(report["columns"]["x"]["sorts"]) > 1 else wrong[:1]), kind


@QUICK
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12))
def test_profile_and_row_check_agree_on_csv(tmp_path_factory: pytest.TempPathFactory, values: list[tuple[Any, Any]]) -> None:
    rows = [{"x": x, "y": "filled"} for x, _ in values]
    path = tmp_path_factory.getbasetemp() / "agree.csv"
    path.write_text(csv_of(rows))
    report = inspect(path, "csv").to_json()
    read = [{"x": row["x"] or None} for row in csv.DictReader(io.StringIO(csv_of(rows)))]
    for kind in KINDS:
        column = of(kind)
        wrong = [n for n, row in enumerate(read, 2) if check_row(n, read_cells(row, [column]), [column])]
        if exists(report, "x"):
            assert in_column(report, column).rows == len(wrong), kind


@QUICK
@given(st.lists(st.tuples(st.lists(st.just("a"), max_size=3), st.lists(st.just("O"), max_size=3)), min_size=1, max_size=12))
def test_unequal_lists_are_found_while_the_file_is_read(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[list[str], list[str]]]
) -> None:
    report = report_of(tmp_path_factory.getbasetemp(), [{"w": w, "t": t} for w, t in pairs])
    found = in_pair(report, [WORDS, TAGS], ("text", "label"))
    wrong = [n for n, (w, t) in enumerate(pairs, 1) if len(w) != len(t)]
    assert [e["line"] for e in found.details] == wrong
    assert found.rows == len(wrong)


def test_what_a_report_from_before_can_still_say() -> None:
    """Stored reports of earlier uploads have neither sorts nor list lengths."""
    profile = {
        "types": {"string": 5, "list": 2},
        "missing": 1,
        "empty": 1,
        "missing_lines": [3],
        "empty_lines": [4],
        "type_lines": {"list": [6, 7]},
        "characters": {"mean": 3.0, "max": 9},
        "distinct": 2,
        "values": {"a": 3, "b": 1},
    }
    report = {"rows": 8, "malformed_rows": 0, "columns": {"x": profile}}
    text = in_column(report, of("text", required=True))
    assert (text.rows, text.unknown, [e["line"] for e in text.details]) == (4, 0, [3, 4, 6, 7])
    label = in_column(report, of("label"))
    assert (label.rows, label.unknown) == (3, 0)
    words = in_column(report, of("words"))
    assert (words.rows, words.unknown) == (5, 2), "texts are no lists, and the lists cannot be judged"
    assert in_pair(report, [WORDS, TAGS], ("text", "label")).unknown == 8


@pytest.mark.parametrize(
    ("cell", "kind", "meant"),
    [
        ("2.5", "number", 2.5),
        ("2.5", "label", "2.5"),
        ("1e3", "number", 1000.0),
        ("1e999", "number", "1e999"),
        ("nan", "number", "nan"),
        ("1_000", "number", "1_000"),
        ('["a", "b"]', "labels", ["a", "b"]),
        ('["a", "b"]', "text", '["a", "b"]'),
        ("['a']", "labels", "['a']"),
        ("[0, 1]", "relevance", [0, 1]),
        ('{"a": 1}', "labels", '{"a": 1}'),
    ],
)
def test_cells_of_a_csv_file(cell: str, kind: Kind, meant: Any) -> None:
    assert read_cells({"x": cell}, [of(kind)])["x"] == meant
