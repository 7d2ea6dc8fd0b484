"""Every recipe, for every task it is for, against the real catalogue, the classes behind it, its page and its example."""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from app.domain import catalog, recipes, tasks
from app.domain.ids import FILE, new_id
from app.domain.plan_checks import Planned
from app.domain.plan_checks import check as check_plan
from app.domain.spec import JobSpec
from worker import plugins

DOCS = Path(__file__).parents[3] / "docs" / "recipes"
FILE_ID = new_id(FILE)
RECIPES = catalog.room("recipes")
PAIRS = [(name, task) for name, entry in RECIPES.items() for task in entry["tasks"]]
PROBLEMS = ["single_label", "multi_label", "regression"]
every_recipe = pytest.mark.parametrize("name", sorted(RECIPES))
every_pair = pytest.mark.parametrize(("name", "task"), PAIRS)
objective = lru_cache(lambda name: plugins.get("objectives", name))


def job(name: str, task: str, *, stages: Any = None, **data: Any) -> JobSpec:
    student = RECIPES[name].get("students", ["teacher_layers"])[0]
    body: dict[str, Any] = {
        "name": "n",
        "task": task,
        "teacher": {"source": "registry", "model": "minilm"},
        "student": {"init": student},
        "data": {"training_file": FILE_ID, **data},
    }
    return JobSpec.model_validate(body | ({"recipe": name} if stages is None else {"stages": stages}))


def test_the_recipes_that_ship() -> None:
    shipped = "response distilbert pkd tinybert minilm minilmv2 embedding static ranker self_mutual born_again qad"
    assert set(shipped.split()) <= set(RECIPES)
    assert {task for _, task in PAIRS} == set(tasks.TASKS)
    for name, task in ((task.recipe, task.name) for task in tasks.TASKS.values()):
        assert (name, task) in PAIRS, "the default of a task is for it"


@every_pair
def test_it_writes_out_stages_that_can_run(name: str, task: str) -> None:
    """Every objective and teacher is made with its parameters, and nothing is found against the plan, with labels or without."""
    problems = PROBLEMS if task == "text-classification" else ["single_label"]
    for problem in problems:
        spec = job(name, task, **({"problem": problem} if problem != "single_label" else {}))
        if RECIPES[name].get("problems") and tasks.problem_of(spec) not in RECIPES[name]["problems"]:
            continue
        full = catalog.expand(spec)
        assert full.stages
        for stage in full.stages:
            plugins.get("teachers", stage.teacher.type)(**stage.teacher.params)
            for asked in stage.objectives:
                made = objective(asked.type)(**asked.params)
                assert asked.weight.bounds[0] > 0
                assert made.needs <= tasks.TASKS[task].offers | {"labels"}
        labels = tasks.TASKS[task].labels
        for labelled in (100,) if labels == "needed" else (0, 100):
            assert check_plan(Planned(spec, full, usable=100, labelled=labelled)) == []
        assert catalog.expand(JobSpec.model_validate(full.resolved())).resolved() == full.resolved()


@every_pair
def test_its_epochs_are_those_that_were_asked_for(name: str, task: str) -> None:
    spec = job(name, task)
    entry = RECIPES[name]
    stages = recipes.write_out(name, {"epochs": 7, "learning_rate": 1e-3, "batch_size": 9}, spec, entry)
    assert {(s["learning_rate"], s["batch_size"]) for s in stages} == {(1e-3, 9)}
    epochs = [s["epochs"] for s in stages]
    assert set(epochs) == {7} if name == "born_again" else sum(epochs) == 7
    assert all(n > 0 for n in epochs)


@every_recipe
def test_its_class_describes_itself(name: str) -> None:
    cls = plugins.get("recipes", name)
    assert re.search(r"arXiv \d{4}\.\d{5}", cls.__doc__), "says where it is from"
    for field, described in RECIPES[name]["schema"]["properties"].items():
        assert described.get("description"), field
        assert "default" in described, field
    cls.Params.model_validate({})


# -- its page --------------------------------------------------------------------------------------------------------


def test_every_recipe_has_a_page_and_every_page_a_recipe() -> None:
    assert {path.stem for path in DOCS.glob("*.md")} - {"README"} == set(RECIPES)
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for name, entry in RECIPES.items():
        row = next(line for line in index.splitlines() if line.startswith(f"| [{name}]({name}.md) |"))
        told = {task for task in tasks.TASKS if task in row.split("|")[2]}
        assert told >= set(entry["tasks"]) or row.split("|")[2].strip().startswith("all"), name
        defaults = {task.name for task in tasks.TASKS.values() if task.recipe == name}
        assert ("default" in row) == bool(defaults or entry.get("students")), name


@every_recipe
def test_its_page_has_all_parts(name: str) -> None:
    text = page(name)
    for part in ("**When.**", "**When not.**", "**Paper.**", "## Expands to", "## Parameters", "## Cost"):
        assert text.count(part) == 1, part
    assert f"(../../examples/recipes/{name}.yaml)" in text


@every_pair
def test_its_page_shows_what_it_expands_to(name: str, task: str) -> None:
    stages = shown(name)[task]
    spec = job(name, task)
    assert stages == recipes.write_out(name, {}, spec, RECIPES[name])
    by_hand = job(name, task, stages=stages)
    assert catalog.expand(by_hand).stages == catalog.expand(spec).stages


@every_recipe
def test_its_page_shows_no_other_task(name: str) -> None:
    assert set(shown(name)) == set(RECIPES[name]["tasks"])


@every_recipe
def test_its_page_lists_its_parameters(name: str) -> None:
    table = page(name).partition("## Parameters")[2].partition("## Cost")[0]
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", table, re.M)}
    properties = RECIPES[name]["schema"]["properties"]
    assert set(rows) == set(properties)
    for field, (default, description) in rows.items():
        said = properties[field]["default"]
        assert default.split(" (")[0] == (said if isinstance(said, str) else json.dumps(said)), field
        assert description == properties[field]["description"], field
        for task, values in RECIPES[name].get("task_defaults", {}).items():
            if field in values:
                assert re.search(rf"\(.*{task}.*: {values[field]}\b", default), field


@every_recipe
def test_its_page_shows_what_it_sets_elsewhere(name: str) -> None:
    for block, wanted in RECIPES[name].get("defaults", {}).items():
        inner = ", ".join(f"{key}: {value}" for key, value in wanted.items())
        assert f"\n{block}: {{{inner}}}\n" in page(name)


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def shown(name: str) -> dict[str, Any]:
    """task → the stages that its page shows for it."""
    section = page(name).partition("## Expands to")[2].partition("## Parameters")[0]
    found = {}
    for heading, block in re.findall(r"^((?:`[a-z-]+`(?:, )?)+):\n\n```json\n(.*?)```", section, re.M | re.S):
        for task in re.findall(r"`([a-z-]+)`", heading):
            assert task not in found
            found[task] = json.loads(block)
    return found
