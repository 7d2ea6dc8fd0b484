"""A tiny teacher's folder and sixty labelled rows for the loop."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.fixtures.tiny import make_rows, make_tiny_teacher
from worker.rows import Rows, tokenize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("tiny") / "teacher")


@pytest.fixture(scope="module")
def rows(folder: Path) -> Rows:
    made = make_rows(folder.parent / "rows.jsonl", 60, seed=4)
    names = sorted({str(r["label"]) for r in made})
    records = [{"id": i, "text": r["text"], "label": names.index(str(r["label"]))} for i, r in enumerate(made)]
    return tokenize(records, AutoTokenizer.from_pretrained(folder), 24)
