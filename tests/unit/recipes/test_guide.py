"""docs/submit.md names objectives that there are, every field of a stage and every teacher; its example is a valid plan."""

import re
from pathlib import Path

import yaml

from app.domain import catalog
from app.domain.ids import FILE, new_id
from app.domain.spec import JobSpec, Stage

TEXT = (Path(__file__).parents[3] / "docs" / "submit.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_objectives_it_names_exist() -> None:
    table = "\n".join(line for line in section("Objectives and schedules").splitlines() if line.startswith("|"))
    named = re.findall(r"`(\w+)`", table)
    assert len(named) == len(set(named)) >= 25
    assert set(named) <= set(catalog.room("objectives"))


def test_every_field_of_a_stage_and_every_teacher_is_explained() -> None:
    rows = [line for line in section("Stages").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(Stage.model_fields) - {"name"}
    teachers = next(row for row in rows if row.startswith("| `teacher`"))
    assert set(re.findall(r"`(\w+)`", teachers)) - {"teacher"} == set(catalog.room("teachers"))


def test_the_example_is_a_valid_plan() -> None:
    stages = yaml.safe_load(section("Stages").partition("```yaml\n")[2].partition("```")[0])["stages"]
    spec = {
        "name": "n",
        "task": "text-classification",
        "teacher": {"source": "registry", "model": "m"},
        "student": {"init": "teacher_layers"},
        "data": {"training_file": new_id(FILE)},
        "stages": stages,
    }
    full = catalog.expand(JobSpec.model_validate(spec))
    assert [stage.name for stage in full.stages or []] == ["features", "output"]
