"""Labels of records as the heads read them: classes numbered, several as 0/1, scores from 0 to 1."""

from typing import Any

from app.domain import tasks
from app.domain.errors import DatasetInvalid
from app.domain.spec import JobSpec

Record = dict[str, Any]
NAMED = ("single_label", "multi_label", "tokens")  # problems whose labels are names


def names_in(record: Record, problem: str) -> list[str]:
    """The names in a record's raw label."""
    label = record["label"]
    if label is None or problem not in NAMED:
        return []
    return [str(name) for name in label] if isinstance(label, list) else [str(label)]


def names(train: list[Record], problem: str, known: list[str]) -> list[str]:
    """All labels of the training rows, in sorted order, or `known` where it has all of them; empty for a problem without names."""
    if problem not in NAMED:
        return []
    found = sorted({name for record in train for name in names_in(record, problem)})
    if len(found) < (1 if problem == "multi_label" else 2):
        raise DatasetInvalid(
            f"The training rows have {len(found)} distinct labels; a classifier needs at least 2.",
            param="data.label",
            hint="Name the right column in data.label.",
        )
    return known if set(found) <= set(known) else found


def check(made: dict[str, list[Record]], labels: list[str], spec: JobSpec) -> None:
    """Raises DatasetInvalid when a split has labels that training lacks, or none where the task is measured by them."""
    problem, known = tasks.problem_of(spec), set(labels)
    for split in ("validation", "test"):
        extra = sorted({name for record in made[split] for name in names_in(record, problem)} - known)
        if extra:
            raise DatasetInvalid(
                f"Label '{extra[0]}' occurs in the {split} rows but in no training row.",
                param=f"data.{split}_file",
                hint="Add rows of that label to the training file, or remove it there.",
            )
        if tasks.task_of(spec).labels == "needed" and all(record["label"] is None for record in made[split]):
            raise DatasetInvalid(
                f"No {split} row has a label; nothing could be measured.",
                param=f"data.{split}_file" if getattr(spec.data, f"{split}_file") else "data.training_file",
                hint="Add labelled rows.",
            )


def encode(made: dict[str, list[Record]], labels: list[str], problem: str) -> dict[str, Any]:
    """Replace raw labels by what heads read; what was done to scores, for data.json."""
    number = {label: i for i, label in enumerate(labels)}
    rows = {id(record): record for split in made.values() for record in split}.values()  # a shared split once
    scores = [float(r["label"]) for r in rows if r["label"] is not None] if problem == "embedding" else []
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    rescale = low < 0 or high > 1
    for record in rows:
        if record["label"] is not None:
            record["label"] = _encoded(record["label"], problem, number)
            if rescale:
                record["label"] = (record["label"] - low) / (high - low) if high > low else 0.5
    return {"score_range": [low, high]} if rescale else {}


def _encoded(label: Any, problem: str, number: dict[str, int]) -> Any:
    match problem:
        case "single_label":
            return number[str(label)]
        case "multi_label":
            found = {number[str(name)] for name in label}
            return [float(i in found) for i in range(len(number))]
        case "tokens":
            return [number[str(name)] for name in label]
        case "ranking":
            return [float(value) for value in label]
        case _:
            return float(label)
