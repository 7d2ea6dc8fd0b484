"""Rows of a data file, one at a time: JSON Lines, CSV and Parquet. Whatever the file holds, memory stays flat.

Every record is either a dict or a `RowError` with its line; reading goes on after a bad one. Line numbers count from 1
and are the file's own (Parquet: the row's number; CSV: the line where the record ends).
"""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

from app.domain.errors import DatasetInvalid, UnsupportedMediaType

Format = Literal["jsonl", "csv", "parquet"]
Row = dict[str, Any]

LINE_BYTES = 2**20  # of one line, CSV field or Parquet text
COLUMNS = 256
EXCERPT = 120
_ROW_GROUP_BYTES = 2**30  # uncompressed; Parquet is decoded a row group at a time
_BATCH_ROWS = 512
_BOM = b"\xef\xbb\xbf"
_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv"}
_MAGIC = {
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ": "xz data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"%PDF": "a PDF document",
}

_KEY_END = re.compile(rb'"[ \t\r]*:')

csv.field_size_limit(LINE_BYTES)


@dataclass(frozen=True)
class RowError:
    """`column`: the field's name, or for broken JSON the character's position in its line."""

    line: int
    column: str | int | None
    code: str
    message: str
    excerpt: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Record = tuple[int, Row | RowError, int]  # line, row, hash of its content


def detect_format(filename: str, head: bytes) -> Format:
    """By the first bytes, then by the name. Archives and compressed files are refused."""
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            hint = "Upload the rows themselves as JSON Lines, CSV or Parquet, uncompressed."
            raise UnsupportedMediaType(f"The file is {name}.", param="file", hint=hint)
    suffix = Path(filename).suffix.lower()
    if suffix == ".parquet":
        raise UnsupportedMediaType(
            "The file is named .parquet but is none.", param="file", hint="Write it again; it may be cut off."
        )
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    return "jsonl" if head.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[", b"") else "csv"


def read_rows(path: Path, format: str) -> Iterator[tuple[int, Row | RowError]]:
    """(line, row or what is wrong with it), streaming. Raises DatasetInvalid when the file as a whole cannot be read."""
    for line, row, _ in records(path, format):
        yield line, row


def records(path: Path, format: str) -> Iterator[Record]:
    match format:
        case "jsonl":
            return _json_lines(path)
        case "csv":
            return _csv(path)
        case "parquet":
            return _parquet(path)
        case _:
            raise DatasetInvalid(f"Unknown format '{format}'.", hint="Use jsonl, csv or parquet.")


def excerpt(value: Any, around: int = 0) -> str:
    """A short piece of a line or value, printable."""
    text = value[max(0, around - 60) :][: 4 * EXCERPT].decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text[: EXCERPT + 1])
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


# -- JSON Lines ------------------------------------------------------------------------------------------------------


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(number, line), None for one beyond LINE_BYTES, of which nothing is kept."""
    number = 0
    while line := stream.readline(LINE_BYTES + 1):
        number += 1
        if len(line) <= LINE_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LINE_BYTES)
        yield number, None


def _check_encoding(head: bytes) -> None:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(head) > 3 and head[1] == head[3] == 0):
        raise DatasetInvalid(
            "The file is UTF-16, not UTF-8.", hint="Save it as UTF-8.", details=[_too(1, None, "not_utf8", "UTF-16")]
        )


def _too(line: int, column: str | int | None, code: str, message: str) -> dict[str, Any]:
    return RowError(line, column, code, message).to_json()


def _json_lines(path: Path) -> Iterator[Record]:
    blank: list[int] = []  # an empty line is a fault only when rows follow it
    with BufferedReader(path.open("rb", buffering=0), LINE_BYTES) as stream:
        _check_encoding(stream.peek(4)[:4])
        for number, line in _lines(stream):
            if line is None:
                yield number, RowError(number, None, "too_long", f"The line is longer than {LINE_BYTES:,} bytes."), number
                continue
            if number == 1 and line.startswith(_BOM):
                line = line[3:]
            line = line.strip()
            if not line:
                if len(blank) < 1000:
                    blank.append(number)
                continue
            for empty in blank:
                yield empty, RowError(empty, None, "empty", "The line is empty."), empty
            blank.clear()
            yield number, _json_row(number, line), hash(line)


def _json_row(number: int, line: bytes) -> Row | RowError:
    try:
        row = orjson.loads(line)
        if type(row) is dict:
            # No more ends of keys than keys: none can occur twice. Else look properly.
            if line.count(b":") != len(row) != len(_KEY_END.findall(line)) and (twice := _key_that_occurs_twice(line)):
                return RowError(number, twice[:64], "invalid_json", f"The key '{twice[:64]}' occurs twice.", excerpt(line))
            return row
    except orjson.JSONDecodeError as error:
        return _broken(number, line, error)
    return RowError(number, None, "invalid_json", f"A JSON object is needed, not {_kind(row)}.", excerpt(line))


def _broken(number: int, line: bytes, error: orjson.JSONDecodeError) -> RowError:
    try:
        line.decode()
    except UnicodeDecodeError as bad:
        message = f"Byte {bad.start + 1} of the line (0x{line[bad.start]:02x}) is not UTF-8."
        return RowError(number, bad.start + 1, "not_utf8", message, excerpt(line, bad.start))
    reason = error.msg.split(": line")[0]
    return RowError(number, error.colno, "invalid_json", f"Not valid JSON: {reason}.", excerpt(line, error.pos))


def _key_that_occurs_twice(line: bytes) -> str | None:
    found: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in items:
            if key in seen:
                found.append(key)
            seen.add(key)

    try:
        json.loads(line, object_pairs_hook=pairs)
    except RecursionError:
        return None
    return found[0] if found else None


def _kind(value: Any) -> str:
    names = {"dict": "an object", "list": "a list", "str": "a text", "bool": "true or false", "NoneType": "null"}
    return names.get(type(value).__name__, "a number")


# -- CSV -------------------------------------------------------------------------------------------------------------


class _Text:
    """Lines of a CSV file as text, remembering what was wrong with those of the record being read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._lines = _lines(stream)
        self.number = 0
        self.fault: tuple[str, str] | None = None

    def __iter__(self) -> "_Text":
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if line is None:
            self.fault = "too_long", f"Line {self.number} is longer than {LINE_BYTES:,} bytes."
            return "\n"
        if self.number == 1:
            line = line.removeprefix(_BOM)
        if b"\0" in line:
            self.fault = "invalid_csv", f"Line {self.number} holds a NUL character."
            line = line.replace(b"\0", b" ")
        try:
            return line.decode()
        except UnicodeDecodeError as bad:
            self.fault = "not_utf8", f"Byte {bad.start + 1} of line {self.number} (0x{line[bad.start]:02x}) is not UTF-8."
            return line.decode("utf-8", "replace")

    def take_fault(self) -> tuple[str, str] | None:
        fault, self.fault = self.fault, None
        return fault


def _csv(path: Path) -> Iterator[Record]:
    with BufferedReader(path.open("rb", buffering=0), LINE_BYTES) as stream:
        _check_encoding(head := stream.peek(4096)[:4096])
        text = _Text(stream)
        reader = csv.reader(text, delimiter=_delimiter(head), strict=True)
        header = _header(reader, text)
        if header is None:
            return
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                text.take_fault()
                message = f"Not valid CSV: {error}. A quotation mark may be open or out of place."
                yield text.number, RowError(text.number, None, "invalid_csv", message), text.number
                continue
            number = text.number
            if fault := text.take_fault():
                yield number, RowError(number, None, *fault, excerpt(",".join(cells))), number
            elif not cells:
                yield number, RowError(number, None, "empty", "The line is empty."), number
            elif len(cells) != len(header):
                message = f"{len(cells)} cells where the header has {len(header)}."
                yield number, RowError(number, None, "invalid_csv", message, excerpt(",".join(cells))), number
            else:  # an empty cell is a missing value
                yield number, {k: v or None for k, v in zip(header, cells, strict=True)}, hash(tuple(cells))


def _delimiter(head: bytes) -> str:
    first = head.split(b"\n", 1)[0]
    return max(",;\t", key=lambda c: first.count(c.encode())) if b"," not in first else ","


def _header(reader: Iterator[list[str]], text: _Text) -> list[str] | None:
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise DatasetInvalid(
            f"The header is not valid CSV: {error}.", details=[_too(1, None, "invalid_csv", str(error))]
        ) from error
    if header is None:
        return None
    if fault := text.take_fault():
        raise DatasetInvalid(f"The header cannot be read. {fault[1]}", details=[_too(1, None, *fault)])
    names = [name.strip() for name in header]
    hint = "The first line names the columns, each once."
    for n, name in enumerate(names):
        if not name or name in names[:n]:
            message = f"Column {n + 1} of the header {'has no name' if not name else f'repeats {name[:64]!r}'}."
            raise DatasetInvalid(message, hint=hint, details=[_too(1, n + 1, "invalid_csv", message)])
    if len(names) > COLUMNS:
        raise DatasetInvalid(f"The header names {len(names)} columns; {COLUMNS} are allowed.", hint=hint)
    return names


# -- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Iterator[Record]:
    from pyarrow import lib, parquet  # here, so that importing this module costs nothing

    number = 0
    try:
        with parquet.ParquetFile(path, memory_map=False, pre_buffer=False, thrift_string_size_limit=2**24) as file:
            _check_parquet(file)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _parquet_row(number, row), hash(orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS))
    except (lib.ArrowException, OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DatasetInvalid(
            f"The Parquet file cannot be read after row {number}: {reason}",
            hint="Write it again, with plain columns of text and numbers.",
            details=[_too(number + 1, None, "invalid_parquet", reason)],
        ) from error


def _check_parquet(file: Any) -> None:
    meta = file.metadata
    if meta.num_columns > COLUMNS:
        raise DatasetInvalid(f"The file has {meta.num_columns} columns; {COLUMNS} are allowed.")
    if len(set(file.schema_arrow.names)) != len(file.schema_arrow.names):
        raise DatasetInvalid("Two columns have the same name.")
    for n in range(meta.num_row_groups):
        if (size := meta.row_group(n).total_byte_size) > _ROW_GROUP_BYTES:
            message = f"Row group {n + 1} holds {size:,} bytes; {_ROW_GROUP_BYTES:,} are allowed."
            raise DatasetInvalid(message, hint="Write it with smaller row groups.")


def _parquet_row(number: int, row: Row) -> Row | RowError:
    for name, value in row.items():
        if isinstance(value, str | bytes) and len(value) > LINE_BYTES:
            return RowError(number, name, "too_long", f"The text is longer than {LINE_BYTES:,} characters.", excerpt(value))
    return row
