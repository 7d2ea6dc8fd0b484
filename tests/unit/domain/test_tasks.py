"""Tasks as data: they agree with the heads that models get, and the guide's example rows are rows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.domain.rowfaults import check_row
from app.domain.spec import JobSpec
from app.domain.tasks import TASKS, columns, metric_of, problem_of, same_length
from app.quality import evaluation

GUIDE = Path(__file__).parents[3] / "docs" / "submit.md"


def spec(task: str, **data: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "a job",
            "task": task,
            "teacher": {"source": "local", "model": "tiny"},
            "student": {"init": "teacher_layers"},
            "data": {"training_file": "file-" + "0" * 26, **data},
        }
    )


def guide_rows() -> list[tuple[str, dict[str, str], dict[str, Any]]]:
    """(task, data fields, row) of every line of the guide's table."""
    section = GUIDE.read_text(encoding="utf-8").split("## Rows")[1].split("\n## ")[0]
    found, task = [], ""
    for line in section.splitlines():
        cells = re.findall(r"`([^`]+)`", line)
        if not line.startswith("| ") or len(cells) < 2 or not cells[1].startswith("{"):
            continue
        name, row = cells[:2]
        data = dict([name.removeprefix("data.").split(": ")]) if name.startswith("data.") else {}
        task = task if data else name
        found.append((task, data, json.loads(row)))
    return found


@pytest.mark.parametrize(("task", "data", "row"), guide_rows(), ids=lambda v: str(v)[:30])
def test_the_rows_of_the_guide_are_rows(task: str, data: dict[str, str], row: dict[str, Any]) -> None:
    made = spec(task, **data)
    assert check_row(1, row, columns(made), same_length(problem_of(made))) is None
    read = {column.name for column in columns(made)}
    assert row.keys() <= read, "the guide shows nothing that is not read"


def test_the_guide_has_every_task_and_problem() -> None:
    made = [spec(task, **data) for task, data, _ in guide_rows()]
    assert {problem_of(one) for one in made} == set(evaluation.PROBLEMS)
    assert {one.task for one in made} == set(TASKS)


def test_tasks_and_heads_say_the_same() -> None:
    from worker.heads.registry import HEADS

    assert HEADS.keys() == TASKS.keys()
    for name, head in HEADS.items():
        task = TASKS[name]
        assert task.offers == head.offers | {"teacher"}, name
        assert task.head == head.suffix, name


def test_metrics_are_those_that_quality_reports() -> None:
    assert metric_of(spec("text-classification")) == "accuracy"
    assert metric_of(spec("text-classification", problem="multi_label")) == "micro_f1"
    assert metric_of(spec("text-classification", problem="regression")) == "spearman"
    assert [metric_of(spec(task)) for task in ("embedding", "ranking", "masked-lm")] == ["spearman", "ndcg_at_10", "mlm_accuracy"]


def test_a_score_needs_two_texts() -> None:
    assert [c.field for c in columns(spec("embedding"))] == ["text"]
    assert [c.field for c in columns(spec("embedding", text_b="b"))] == ["text", "text_b", "label"]
