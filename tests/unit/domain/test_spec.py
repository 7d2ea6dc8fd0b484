from typing import Any

import pytest
from pydantic import ValidationError

from app.domain.ids import FILE, new_id
from app.domain.spec import JobSpec, config_hash


def body(**changes: Any) -> dict[str, Any]:
    return {
        "name": "intents",
        "task": "text-classification",
        "teacher": {"source": "registry", "model": "minilm"},
        "student": {"init": "teacher_layers", "layers": 2},
        "data": {"training_file": FILE_ID},
        **changes,
    }


FILE_ID = new_id(FILE)


def test_the_resolved_spec_resolves_to_itself() -> None:
    resolved = JobSpec.model_validate(body()).resolved()
    assert JobSpec.model_validate(resolved).resolved() == resolved


def test_config_hash_ignores_what_does_not_change_the_result() -> None:
    def of(**changes: Any) -> str:
        return config_hash(JobSpec.model_validate(body(**changes)).resolved())

    assert of() == of(name="other", metadata={"a": "b"}, output={"model_name": "x"}, compute={"priority": 3})
    assert of() != of(seed=8)
    assert of() != of(student={"init": "teacher_layers", "layers": 3})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"nam": 1}, "nam"),
        ({"task": "origami"}, "task"),
        ({"teacher": {"source": "registry", "model": "m", "path": "/etc"}}, "path"),
        ({"data": {"training_file": "../../etc/passwd"}}, "training_file"),
        ({"output": {"model_name": "a/b"}}, "model_name"),
        ({"stages": []}, "stages"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"seed": -1}, "seed"),
        ({"compute": {"max_attempts": 0}}, "max_attempts"),
    ],
)
def test_errors_name_the_field(change: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(body(**change))
    assert where in {str(part) for error in caught.value.errors() for part in error["loc"]}


def test_a_recipe_and_stages_together_are_refused() -> None:
    stages = [{"name": "a", "objectives": [{"type": "hard_label"}]}]
    with pytest.raises(ValidationError, match="not both"):
        JobSpec.model_validate(body(recipe="response", stages=stages))
    with pytest.raises(ValidationError, match="name of its own"):
        JobSpec.model_validate(body(stages=stages * 2))
