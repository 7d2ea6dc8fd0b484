"""What both sides are given: rows, teacher, and the student's first weights, made once by a job and kept.

<folder>/data/            the rows as files
<folder>/start/teacher/   the teacher, fitted on the rows where it has to be
<folder>/start/whole/     the student before training      trimmed/   the same with the vocabulary cut to the rows
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine.data import DataSet, prepare
from bench.engine.harness import run
from bench.engine.methods import NARROW, Spec

STUDENTS: dict[str, Spec] = {"whole": {**NARROW, "trim_vocabulary": False}, "trimmed": NARROW}
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"rows": 2000, "validation": 500, "epochs": 3, "teacher_epochs": 4},
    "full": {"rows": None, "validation": None, "epochs": 10, "teacher_epochs": 6},
}
RATE = 5e-4  # of both sides
BATCH = {"embedding": 64, "text-classification": 32}  # of both sides; our recipes' own
SOFT, TEMPERATURE = 0.5, 2.0  # classification, of both sides


@dataclass(frozen=True)
class Case:
    data: DataSet
    teacher: Path
    students: dict[str, Path]
    epochs: int

    @property
    def batch(self) -> int:
        return BATCH[self.data.task]


def case(name: str, size: dict[str, Any], students: list[str], base: Path, folder: Path, threads: int) -> Case:
    """Fit the teacher and make the students, unless that was done before."""
    data = _fewer(prepare(name, folder / "data", size["rows"], base), size["validation"], folder / "data")
    start = folder / "start"
    for student in students:
        if not (start / student / "config.json").is_file():
            _make(data, student, size["teacher_epochs"], base, start, folder / "work", folder / "cache", threads)
    return Case(data, start / "teacher", {s: start / s for s in students}, size["epochs"])


def ours(case: Case, epochs: int, seed: int) -> Spec:
    """The job: our recipe with its defaults, but for what is fixed for both sides."""
    recipe: Spec = {"epochs": epochs, "learning_rate": RATE, "batch_size": case.batch}
    if case.data.task == "embedding":
        recipe |= {"type": "embedding"}
    else:
        recipe |= {"type": "response", "alpha": SOFT, "temperature": TEMPERATURE}
    return {
        **_common(case.data),
        "seed": seed,
        "student": {"init": "pretrained", "source": "local", "model": "initial"},
        "recipe": recipe,
    }


def _common(data: DataSet) -> Spec:
    return {
        "name": data.name,
        "task": data.task,
        "teacher": {"source": "local", "model": "teacher"},
        "data": data.columns,
        "quantization": {"scheme": "none"},
        "exports": ["onnx"],
        "evaluation": {"baseline": False, "max_items": 64},  # both students are judged by `quality.py`
        **data.more,
    }


def _make(data: DataSet, student: str, epochs: int, base: Path, start: Path, work: Path, cache: Path, threads: int) -> None:
    """A job of one step, for what it makes before that step."""
    spec = _common(data) | {"seed": 7, "student": STUDENTS[student]}
    objective = "embedding_cosine" if data.task == "embedding" else "hard_label"
    if data.task != "embedding":
        spec["teacher"] = {**spec["teacher"], "finetune": {"epochs": epochs, "learning_rate": 1e-4, "seed": 1}}
    spec["stages"] = [{"name": "once", "objectives": [{"type": objective}], "epochs": 1, "max_steps": 1}]
    outcome = run(spec, data.files, base, work, cache, threads, keep=True)
    if outcome.code:
        raise SystemExit(f"{data.name}: the student could not be made: {outcome.error}")
    for name, made in (("teacher", "teacher"), (student, "initial")):
        shutil.rmtree(start / name, ignore_errors=True)
        shutil.copytree(work / made, start / name, ignore=shutil.ignore_patterns("MANIFEST.json"))
    if data.task == "embedding":  # sentence-transformers wants the files that say how the teacher pools
        shutil.copytree(base, start / "teacher", dirs_exist_ok=True)
    shutil.rmtree(work)


def _fewer(data: DataSet, rows: int | None, folder: Path) -> DataSet:
    """The first `rows` validation rows: both sides judge them after every epoch."""
    lines = data.files["validation"].read_text(encoding="utf-8").splitlines()[:rows]
    path = folder / "validation_few.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DataSet(data.name, data.task, {**data.files, "validation": path}, data.columns, data.more)
