"""Data files of every kind of badness: each fault is named with its line, and memory stays flat."""

import json
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from app.domain.datasets import detect_format, inspect, read_rows
from app.domain.errors import DatasetInvalid, UnsupportedMediaType

GOOD = b'{"text":"where is my card","label":"card"}\n'


def jsonl(tmp_path: Path, *lines: bytes, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(b"".join(lines))
    return path


def errors(path: Path, format: str = "jsonl") -> list[tuple[int, Any, str]]:
    return [(e["line"], e["column"], e["code"]) for e in inspect(path, format).errors]


def test_a_good_file(tmp_path: Path) -> None:
    report = inspect(jsonl(tmp_path, GOOD, b'{"text":"hello there","label":"greeting"}\n'), "jsonl").to_json()
    assert (report["status"], report["rows"], report["valid_rows"], report["invalid_rows"]) == ("ok", 2, 2, 0)
    assert report["columns"]["label"]["values"] == {"card": 1, "greeting": 1}
    assert report["columns"]["text"]["types"] == {"string": 2}
    assert report["characters"]["max"] == 16
    assert report["digest"].startswith("sha256:")
    json.dumps(report)


BAD_LINES = [
    (b'{"text": "cut\n', "invalid_json"),
    (b'{"text": NaN, "label": "x"}\n', "invalid_json"),
    (b'{"text": Infinity}\n', "invalid_json"),
    (b'["a list"]\n', "invalid_json"),
    (b'"a text"\n', "invalid_json"),
    (b"null\n", "invalid_json"),
    (b'{"text": "a\x00b", "label": "x"}\n', "invalid_json"),
    (b'{"text": "a", "text": "b", "label": "x"}\n', "invalid_json"),
    (b'{"text": "a: b", "label": "x", "text" : "b"}\n', "invalid_json"),
    (b'{"text": "a", "m": {"k": 1, "k": 2}}\n', "invalid_json"),
    (b'{"text": "\\ud800", "label": "x"}\n', "invalid_json"),
    (b"[" * 100_000 + b"\n", "invalid_json"),
    (b'{"a":' * 100_000 + b"\n", "invalid_json"),
    (b'{"text": "caf\xe9", "label": "x"}\n', "not_utf8"),
    (b"\xff\xfe\xfd\n", "not_utf8"),
    (b'{"text": "' + b"x" * 2**20 + b'"}\n', "too_long"),
    (b"\n", "empty"),
    (b"   \r\n", "empty"),
    (b'{"label": "x"}\n', "missing_field"),
    (b'{"text": null, "label": "x"}\n', "missing_field"),
    (b'{"text": "  ", "label": "x"}\n', "empty"),
    (b'{"text": 3, "label": "x"}\n', "wrong_type"),
    (b'{"text": ["a"], "label": "x"}\n', "wrong_type"),
    (b'{"text": "a", "label": {"b": 1}}\n', "wrong_type"),
    (b'{"text": "a", "label": 1.5}\n', "wrong_type"),
    (b'{"text": "a", "label": true}\n', "wrong_type"),
]


@pytest.mark.parametrize(("line", "code"), BAD_LINES, ids=lambda v: v if isinstance(v, str) else repr(v[:24]))
def test_each_fault_is_named_with_its_line(tmp_path: Path, line: bytes, code: str) -> None:
    report = inspect(jsonl(tmp_path, GOOD, line, GOOD.replace(b"my", b"your")), "jsonl")
    assert [(e["line"], e["code"]) for e in report.errors] == [(2, code)]
    assert (report.status, report.rows, report.invalid_rows, report.valid_rows) == ("invalid", 3, 1, 2)
    assert len(report.errors[0]["message"]) < 200
    assert len(report.errors[0]["excerpt"]) <= 120


def test_position_and_excerpt_of_broken_json(tmp_path: Path) -> None:
    (error,) = inspect(jsonl(tmp_path, b'{"text": "a", "label": oops}\n'), "jsonl").errors
    assert error["column"] == 24
    assert "oops" in error["excerpt"]


def test_bom_crlf_and_trailing_blank_lines_are_no_faults(tmp_path: Path) -> None:
    path = jsonl(tmp_path, b"\xef\xbb\xbf", GOOD.replace(b"\n", b"\r\n"), b'{"text":"b","label":"y"}\r\n', b"\r\n", b"\n")
    report = inspect(path, "jsonl")
    assert (report.status, report.rows) == ("ok", 2)
    assert [line for line, _ in read_rows(path, "jsonl")] == [1, 2]


def test_a_last_line_without_newline_counts(tmp_path: Path) -> None:
    assert inspect(jsonl(tmp_path, GOOD, b'{"text":"b","label":"y"}'), "jsonl").rows == 2


def test_utf16_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text":"a"}\n' * 50, encoding="utf-16")
    report = inspect(path, "jsonl")
    assert [(e["line"], e["code"]) for e in report.errors] == [(1, "not_utf8")]
    assert "UTF-16" in report.errors[0]["message"]


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_a_file_without_rows_is_invalid(tmp_path: Path, format: str) -> None:
    report = inspect(jsonl(tmp_path, b""), format)
    assert (report.status, report.valid_rows) == ("invalid", 0)
    assert report.errors


def test_duplicates_are_warned_of_with_their_lines(tmp_path: Path) -> None:
    report = inspect(jsonl(tmp_path, GOOD, b'{"text":"b","label":"y"}\n', GOOD, GOOD), "jsonl")
    assert (report.status, report.duplicate_rows, report.invalid_rows) == ("warnings", 2, 0)
    assert [(e["line"], e["code"]) for e in report.errors] == [(3, "duplicate"), (4, "duplicate")]


def test_the_first_hundred_errors_of_many_bad_rows_exactly(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"{oops}\n" * 200_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = inspect(path, "jsonl")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 64
    assert report.invalid_rows == 200_000
    assert [e["line"] for e in report.errors] == list(range(1, 101))
    assert report.errors_truncated


def test_a_line_of_256_mebibytes_is_refused_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "line.jsonl"
    with path.open("wb") as out:
        out.write(GOOD + b'{"text":"')
        out.seek(2**28, 1)  # a hole of zeros: nothing to write, all to read
        out.write(b'"}\n{"text":"after","label":"x"}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = inspect(path, "jsonl", digest="0")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 64
    assert [(e["line"], e["code"]) for e in report.errors] == [(2, "too_long")]
    assert (report.rows, report.valid_rows) == (3, 2)
    path.unlink()


def test_many_columns_do_not_fill_memory(tmp_path: Path) -> None:
    rows = [json.dumps({f"k{n}-{m}": "v" for m in range(2000)}).encode() + b"\n" for n in range(50)]
    report = inspect(jsonl(tmp_path, *rows), "jsonl")
    assert len(report.columns) == 256
    assert len(json.dumps(report.to_json())) < 2**20


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=400), st.sampled_from(["jsonl", "csv", "parquet"]))
def test_no_bytes_make_it_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes, format: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(content)
    report = inspect(path, format)
    assert report.rows == report.valid_rows + report.invalid_rows
    json.dumps(report.to_json())


# -- CSV -------------------------------------------------------------------------------------------------------------


def test_csv_with_quotes_newlines_and_missing_values(tmp_path: Path) -> None:
    path = jsonl(tmp_path, b'\xef\xbb\xbftext,label\r\n"hello, ""you""\r\nthere",a\r\nplain,\r\n', name="x.csv")
    assert list(read_rows(path, "csv")) == [
        (3, {"text": 'hello, "you"\r\nthere', "label": "a"}),
        (4, {"text": "plain", "label": None}),
    ]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"only one\n", "invalid_csv"),
        (b"a,b,c\n", "invalid_csv"),
        (b'"a"b,c\n', "invalid_csv"),
        (b"\n", "empty"),
        (b"caf\xe9,x\n", "not_utf8"),
        (b"a\x00,x\n", "invalid_csv"),
        (b"x" * 2**20 + b",a\n", "too_long"),
        (b",x\n", "missing_field"),
    ],
)
def test_csv_faults(tmp_path: Path, line: bytes, code: str) -> None:
    path = jsonl(tmp_path, b"text,label\n", b"one,a\n", line, b"two,b\n", name="x.csv")
    report = inspect(path, "csv")
    assert [(e["line"], e["code"]) for e in report.errors] == [(3, code)]
    assert report.valid_rows == 2


def test_csv_with_an_open_quote_says_so(tmp_path: Path) -> None:
    path = jsonl(tmp_path, b'text,label\n"never closed,a\n', b"more,b\n" * 300_000, name="x.csv")
    report = inspect(path, "csv")
    assert report.errors[0]["code"] == "invalid_csv"
    assert "quotation" in report.errors[0]["message"]


@pytest.mark.parametrize("header", [b"text,,label\n", b"text,text\n", b"te\xe9xt,label\n"])
def test_csv_header_faults(tmp_path: Path, header: bytes) -> None:
    path = jsonl(tmp_path, header, b"a,b,c\n", name="x.csv")
    report = inspect(path, "csv")
    assert (report.status, report.errors[0]["line"]) == ("invalid", 1)
    with pytest.raises(DatasetInvalid):
        list(read_rows(path, "csv"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_delimiters(tmp_path: Path, delimiter: str) -> None:
    path = jsonl(tmp_path, f"text{delimiter}label\nhello{delimiter}a\n".encode(), name="x.csv")
    assert list(read_rows(path, "csv")) == [(2, {"text": "hello", "label": "a"})]


# -- Parquet ---------------------------------------------------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"text": ["a", None, "c"], "label": [1, 2, None]}), path)
    assert detect_format("x.parquet", path.read_bytes()[:64]) == "parquet"
    assert list(read_rows(path, "parquet")) == [
        (1, {"text": "a", "label": 1}),
        (2, {"text": None, "label": 2}),
        (3, {"text": "c", "label": None}),
    ]
    assert errors(path, "parquet") == [(2, "text", "missing_field")]


@pytest.mark.parametrize("cut", [4, 40, 200, -9, -1])
def test_a_damaged_parquet_file_is_explained(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"text": ["a"] * 100, "label": ["b"] * 100}), path)
    path.write_bytes(path.read_bytes()[:cut])
    report = inspect(path, "parquet")
    assert (report.status, report.valid_rows, report.errors[0]["code"]) == ("invalid", 0, "invalid_parquet")


# -- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head", "format"),
    [
        ("a.jsonl", b"{", "jsonl"),
        ("a.CSV", b"x", "csv"),
        ("a", b' {"a"', "jsonl"),
        ("a.txt", b"text,label", "csv"),
        ("a.json", b"[", "jsonl"),
    ],
)
def test_detect_format(name: str, head: bytes, format: str) -> None:
    assert detect_format(name, head) == format


@pytest.mark.parametrize(
    ("name", "head"), [("a.jsonl", b"\x1f\x8b\x08"), ("a.csv", b"PK\x03\x04"), ("a.parquet", b"{"), ("a", b"%PDF-1")]
)
def test_archives_and_impostors_are_refused(name: str, head: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        detect_format(name, head)
