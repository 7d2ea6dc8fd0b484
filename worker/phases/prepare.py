"""Uploaded files → prepared records: columns applied, bad rows refused or skipped, labels numbered, splits made.

prepared/   data.json   train.jsonl validation.jsonl test.jsonl   one record a line; "label" is null where a row has none:
  text-classification   {"id", "text", ["text_b"], "label": class, or one 0/1 per class, or a number}
  token-classification  {"id", "words": [...], "label": [class per word]}
  embedding             {"id", "text", ["text_b"], "label": similarity from 0 to 1}
  ranking               {"id", "query", "documents": [...], "label": [relevance per document]}
  masked-lm             {"id", "text", "label": null}
`data.route` adds "route". data.json says the task, its problem and labels, how many rows of what, and where scores came from.
"""

import json
import random
from pathlib import Path
from typing import Any

from app.domain import tasks
from app.domain.datasets import read_rows
from app.domain.errors import DatasetInvalid
from app.domain.rowfaults import check_row, read_cells
from app.domain.rows import RowError
from app.domain.spec import JobSpec
from worker.phases import targets
from worker.phases.base import Context
from worker.phases.heldout import split
from worker.phases.targets import Record
from worker.run.faults import Failpoint, hit

SHOWN = 20  # faults named in an error
_NAMES = {  # of a record's fields, where they are not those of the spec
    "token-classification": {"text": "words"},
    "ranking": {"text": "query"},
}


def run(context: Context) -> None:
    spec, data = context.spec, context.spec.data
    skipped: list[RowError] = []
    given: dict[str, list[Record]] = {}
    for number, (role, path) in enumerate(sorted(context.request.files.items())):
        given[role] = _read(context, Path(path), context.request.formats[role], skipped)
        context.advance("preparing", (number + 1) / (len(context.request.files) + 1))
    _report(context, skipped)
    train = given["training"]
    if data.max_examples is not None and len(train) > data.max_examples:
        keep = sorted(random.Random(f"{spec.seed}:examples").sample(range(len(train)), data.max_examples))
        train = [train[i] for i in keep]
    problem = tasks.problem_of(spec)
    labels = targets.names(train, problem, _known(context))
    validation = given.get("validation")
    if validation is None:
        train, validation = split(train, data.validation_split, spec.seed, problem)
    test = given.get("test")
    made = {"train": train, "validation": validation, "test": validation if test is None else test}
    if not train or not validation:
        raise DatasetInvalid(
            f"{len(train)} rows are left to train on and {len(validation)} to validate with.",
            param="data.training_file",
            hint="Add rows, or give a validation file.",
        )
    targets.check(made, labels, spec)
    facts = targets.encode(made, labels, problem)
    facts |= {"skipped": len(skipped), "test_is_validation": test is None, "pairs": any("text_b" in r for r in train)}
    _write(context, made, labels, facts)


def _known(context: Context) -> list[str]:
    """The labels of a teacher that answers as it is, in the order of its outputs: the job's own, where it knows them all."""
    config = json.loads((Path(context.request.teacher_dir) / "config.json").read_text(encoding="utf-8"))
    head = tasks.task_of(context.spec).head
    if context.spec.teacher.finetune is not None or not any(n.endswith(head) for n in config.get("architectures") or []):
        return []
    return [str(label) for _, label in sorted((config.get("id2label") or {}).items(), key=lambda item: int(item[0]))]


def _read(context: Context, path: Path, format: str, skipped: list[RowError]) -> list[Record]:
    columns, found = tasks.columns(context.spec), []
    pair = tasks.same_length(tasks.problem_of(context.spec))
    for line, row in read_rows(path, format):
        if line % 1000 == 0:
            context.stop()
        if isinstance(row, RowError):
            skipped.append(row)
            continue
        if format == "csv":
            row = read_cells(row, columns)
        if fault := check_row(line, row, columns, pair):
            skipped.append(fault)
            continue
        found.append(_record(context.spec, {c.field: row.get(c.name) for c in columns}))
    return found


def _record(spec: JobSpec, values: dict[str, Any]) -> Record:
    """Fields in the order in which they are written; `id` and the encoded label come last of all."""
    names = _NAMES.get(spec.task, {})
    record = {names.get(f, f): values[f] for f in ("text", "text_b", "documents") if values.get(f) is not None}
    record["label"] = values.get("label")
    if spec.task == "embedding" and "text_b" not in record:
        record["label"] = None  # a score is one of two texts
    if "route" in values:
        record["route"] = None if values["route"] is None else str(values["route"])
    return record


def _report(context: Context, skipped: list[RowError]) -> None:
    if not skipped:
        return
    first = skipped[0]
    if context.spec.data.on_bad_row == "fail":
        raise DatasetInvalid(
            f"{len(skipped)} rows cannot be used; first: line {first.line}: {first.message}",
            param="data.training_file",
            hint='Mend the rows, or set data.on_bad_row to "skip".',
            details=[error.to_json() for error in skipped[:SHOWN]],
        )
    context.warn("rows_skipped", f"{len(skipped)} rows could not be used and were skipped; first: line {first.line}.")


def _write(context: Context, made: dict[str, list[Record]], labels: list[str], facts: dict[str, Any]) -> None:
    out = context.fresh("prepared")
    for name, rows in made.items():
        with (out / f"{name}.jsonl").open("w", encoding="utf-8") as f:
            for i, row in enumerate(rows):
                f.write(json.dumps({"id": i, **row}, ensure_ascii=False) + "\n")
    description = {
        "task": context.spec.task,
        "problem": tasks.problem_of(context.spec),
        "labels": labels,
        "counts": {name: len(rows) for name, rows in made.items()},
        "unlabelled": sum(row["label"] is None for row in made["train"]),
        "max_length": context.spec.data.max_length,
        **facts,
    }
    (out / "data.json").write_text(json.dumps(description, ensure_ascii=False))
    hit(Failpoint.PREPARED)
    context.seal("prepared")
