"""Uploaded files → prepared rows: columns applied, bad rows refused or skipped, labels numbered, splits made.

prepared/   data.json   train.jsonl validation.jsonl test.jsonl   rows {"id", "text", "label": number or null}
"""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from app.domain.datasets import check_row, read_rows
from app.domain.errors import DatasetInvalid
from app.domain.rows import RowError
from worker.phases.base import Context
from worker.run.faults import Failpoint, hit

SHOWN = 20  # faults named in an error


def run(context: Context) -> None:
    spec, data = context.spec, context.spec.data
    skipped: list[RowError] = []
    splits: dict[str, list[dict[str, Any]]] = {}
    for number, (split, path) in enumerate(sorted(context.request.files.items())):
        splits[split] = _read(context, Path(path), context.request.formats[split], skipped)
        context.advance("preparing", (number + 1) / (len(context.request.files) + 1))
    if skipped and data.on_bad_row == "fail":
        first = skipped[0]
        raise DatasetInvalid(
            f"{len(skipped)} rows cannot be used; first: line {first.line}: {first.message}",
            param="data.training_file",
            hint='Mend the rows, or set data.on_bad_row to "skip".',
            details=[error.to_json() for error in skipped[:SHOWN]],
        )
    if skipped:
        context.warn("rows_skipped", f"{len(skipped)} rows could not be used and were skipped; first: line {skipped[0].line}.")
    train = splits["training"]
    if data.max_examples is not None and len(train) > data.max_examples:
        keep = sorted(random.Random(f"{spec.seed}:examples").sample(range(len(train)), data.max_examples))
        train = [train[i] for i in keep]
    labels = _labels(train)
    validation = splits.get("validation")
    if validation is None:
        train, validation = _split(train, data.validation_split, spec.seed)
    test = splits.get("test")
    made = {"train": train, "validation": validation, "test": validation if test is None else test}
    _known_labels(made, labels)
    _write(context, made, labels, len(skipped), test is None)


def _read(context: Context, path: Path, format: str, skipped: list[RowError]) -> list[dict[str, Any]]:
    data, rows = context.spec.data, []
    for line, row in read_rows(path, format):
        if line % 1000 == 0:
            context.stop()
        fault = row if isinstance(row, RowError) else check_row(line, row, data.text, data.label)
        if fault is not None or isinstance(row, RowError):
            assert fault is not None
            skipped.append(fault)
            continue
        label = row.get(data.label)
        rows.append({"text": row[data.text], "label": None if label is None else str(label)})
    return rows


def _labels(train: list[dict[str, Any]]) -> list[str]:
    labels = sorted({row["label"] for row in train if row["label"] is not None})
    if len(labels) < 2:
        raise DatasetInvalid(
            f"The training rows have {len(labels)} distinct labels; a classifier needs at least 2.",
            param="data.label",
            hint="Name the right column in data.label.",
        )
    return labels


def _known_labels(made: dict[str, list[dict[str, Any]]], labels: list[str]) -> None:
    for split in ("validation", "test"):
        extra = sorted({row["label"] for row in made[split] if row["label"] is not None} - set(labels))
        if extra:
            raise DatasetInvalid(
                f"Label '{extra[0]}' occurs in the {split} rows but in no training row.",
                param=f"data.{split}_file",
                hint="Add rows of that label to the training file, or remove it there.",
            )
        if not any(row["label"] is not None for row in made[split]):
            raise DatasetInvalid(f"No {split} row has a label; nothing could be measured.", param=f"data.{split}_file")


def _split(rows: list[dict[str, Any]], share: float, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Hold out `share` of each label's rows (at least one where a label has two); unlabelled rows all stay in training."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row["label"] is not None:
            groups[row["label"]].append(i)
    held: set[int] = set()
    for label, members in sorted(groups.items()):
        shuffled = members[:]
        random.Random(f"{seed}:{label}").shuffle(shuffled)
        held.update(shuffled[: min(max(1, round(len(members) * share)), len(members) - 1)])
    return [r for i, r in enumerate(rows) if i not in held], [r for i, r in enumerate(rows) if i in held]


def _write(context: Context, made: dict[str, list[dict[str, Any]]], labels: list[str], skipped: int, shared: bool) -> None:
    out = context.fresh("prepared")
    number = {label: i for i, label in enumerate(labels)}
    for split, rows in made.items():
        with (out / f"{split}.jsonl").open("w", encoding="utf-8") as f:
            for i, row in enumerate(rows):
                label = None if row["label"] is None else number[row["label"]]
                f.write(json.dumps({"id": i, "text": row["text"], "label": label}, ensure_ascii=False) + "\n")
    description = {
        "labels": labels,
        "counts": {split: len(rows) for split, rows in made.items()},
        "unlabelled": sum(row["label"] is None for row in made["train"]),
        "skipped": skipped,
        "test_is_validation": shared,
        "max_length": context.spec.data.max_length,
    }
    (out / "data.json").write_text(json.dumps(description, ensure_ascii=False))
    hit(Failpoint.PREPARED)
    context.seal("prepared")
