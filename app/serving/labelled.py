"""Labelled rows of an uploaded file: as many as are asked for, and the same ones every time."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.errors import DatasetInvalid
from app.domain.rowfaults import check_row, read_cells
from app.domain.rows import RowError, read_rows
from app.domain.tasks import Column, same_length
from app.domain.values import Kind
from app.serving.backends.base import Problem

_LABELS: dict[Problem, Kind] = {
    "single_label": "label",
    "multi_label": "labels",
    "regression": "number",
    "tokens": "tags",
    "embedding": "number",
    "ranking": "relevance",
}


@dataclass(frozen=True)
class Example:
    """`text` is a list of words where words have labels; `documents` are a query's."""

    line: int
    text: Any
    text_b: str | None
    documents: list[str]
    label: Any

    def characters(self) -> int:
        """Of its longest text."""
        texts = [" ".join(self.text) if isinstance(self.text, list) else self.text, self.text_b or "", *self.documents]
        return max(map(len, texts))


def columns(problem: Problem, *, text: str, text_b: str | None, documents: str, label: str) -> list[Column]:
    """What is read of each row for models of this problem."""
    found = [Column(text, "text", "words" if problem == "tokens" else "text", required=True)]
    if text_b is not None:
        found.append(Column(text_b, "text_b", "text", required=True))
    if problem == "ranking":
        found.append(Column(documents, "documents", "documents", required=True))
    return [*found, Column(label, "label", _LABELS[problem], required=False)]


def sample(path: Path, format: str, wanted: Sequence[Column], problem: Problem, most: int, longest: int) -> list[Example]:
    """At most `most` of the rows that have a label, drawn without replacement, in the file's order.

    Raises DatasetInvalid for a row that cannot be used, or with a text of more than `longest` characters.
    """
    drawn: list[Example] = []
    chance = random.Random(0)
    for seen, example in enumerate(_labelled(path, format, wanted, problem)):
        if example.characters() > longest:
            raise _invalid(RowError(example.line, "text", "too_long", f"One text may have {longest:,} characters."), wanted)
        if len(drawn) < most:
            drawn.append(example)
        elif (place := chance.randrange(seen + 1)) < most:
            drawn[place] = example
    return sorted(drawn, key=lambda example: example.line)


def _labelled(path: Path, format: str, wanted: Sequence[Column], problem: Problem) -> Iterator[Example]:
    pair, label = same_length(problem), wanted[-1].name
    for line, row in read_rows(path, format):
        if isinstance(row, RowError):
            raise _invalid(row, wanted)
        cells = read_cells(row, wanted) if format == "csv" else row
        if cells.get(label) is None:
            continue
        if fault := check_row(line, cells, wanted, pair):
            raise _invalid(fault, wanted)
        values = {column.field: cells.get(column.name) for column in wanted}
        yield Example(line, values["text"], values.get("text_b"), values.get("documents") or [], values["label"])


def _invalid(fault: RowError, wanted: Sequence[Column]) -> DatasetInvalid:
    field = next((column.field for column in wanted if column.name == fault.column), "file")
    return DatasetInvalid(
        f"Line {fault.line}: {fault.message}",
        param=field,
        hint="Mend the row, or name the columns that hold texts and labels: 'text', 'text_b', 'documents', 'label'.",
        details=[fault.to_json()],
    )
