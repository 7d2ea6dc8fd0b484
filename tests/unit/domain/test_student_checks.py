"""Which students are refused before a worker is asked, by field and with a way out."""

from dataclasses import dataclass
from typing import Any

import pytest

from app.domain import catalog
from app.domain.errors import InvalidRequest
from app.domain.ids import FILE, new_id
from app.domain.spec import JobSpec


@dataclass(frozen=True)
class Shape:
    model_type: str = "bert"
    num_layers: int | None = 6
    hidden_size: int | None = 384
    num_heads: int | None = 12
    intermediate_size: int | None = 1536


def spec(student: dict[str, Any], **changes: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "intents",
            "task": "text-classification",
            "teacher": {"source": "registry", "model": "minilm"},
            "student": student,
            "data": {"training_file": new_id(FILE)},
            **changes,
        }
    )


LAYERS = {"init": "teacher_layers"}
STATIC = {"init": "static"}
CONFIG = {"init": "config"}
RANKING = {"task": "ranking"}
BI = {"task": "ranking", "ranking": {"teacher": "cross_encoder", "student": "bi_encoder"}}
PAIRS = {"data": {"training_file": new_id(FILE), "text_b": "other"}}


@pytest.mark.parametrize(
    ("student", "changes"),
    [
        (LAYERS, {}),
        (LAYERS | {"layers": [0, 5], "hidden_size": 192, "intermediate_size": 768, "freeze": ["embeddings"]}, {}),
        (LAYERS | {"layers": 3, "choose": "block_influence", "keep": ["ffn"], "trim_vocabulary": True}, {}),
        (LAYERS | {"hidden_size": 100, "num_attention_heads": 4}, {}),
        (CONFIG | {"model_type": "electra", "embedding_size": 64}, {}),
        (CONFIG | {"hidden_size": 1024, "num_attention_heads": 16}, {"task": "token-classification"}),
        (STATIC | {"freeze": ["embeddings", "head"], "trim_vocabulary": {"min_count": 2, "characters": "corpus"}}, {}),
        (STATIC, {"task": "embedding"}),
        (STATIC | {"hidden_size": 384}, BI),
        ({"init": "pretrained", "model": "small", "trim_vocabulary": True}, {}),
    ],
)
def test_what_can_be_made_passes(student: dict[str, Any], changes: dict[str, Any]) -> None:
    catalog.expand(spec(student, **changes))
    catalog.check_student(spec(student, **changes), Shape())
    catalog.check_student(spec(student, **changes), None)


@pytest.mark.parametrize(
    ("student", "changes", "field"),
    [
        (LAYERS | {"layers": 7}, {}, "student.layers"),
        (LAYERS | {"layers": [0, 6]}, {}, "student.layers"),
        (LAYERS | {"layers": [2, 1]}, {}, "student.layers"),
        (LAYERS | {"layers": [1, 2], "choose": "last"}, {}, "student.choose"),
        (LAYERS | {"hidden_size": 400}, {}, "student.hidden_size"),
        (LAYERS | {"hidden_size": 100}, {}, "student.hidden_size"),
        (LAYERS | {"hidden_size": 100, "num_attention_heads": 3}, {}, "student.num_attention_heads"),
        (LAYERS | {"intermediate_size": 1537}, {}, "student.intermediate_size"),
        (LAYERS | {"freeze": ["embeddings", "attention", "ffn", "head"]}, {}, "student.freeze"),
        (LAYERS | {"freeze": ["head"]}, {"task": "embedding"}, "student.freeze"),
        (LAYERS | {"freeze": ["head"]}, BI, "student.freeze"),
        (LAYERS | {"trim_vocabulary": True}, {"task": "masked-lm"}, "student.trim_vocabulary"),
        (CONFIG | {"hidden_size": 100, "num_attention_heads": 3}, {}, "student.num_attention_heads"),
        (CONFIG | {"embedding_size": 64}, {}, "student.embedding_size"),
        (STATIC | {"hidden_size": 512}, {}, "student.hidden_size"),
        (STATIC, {"task": "token-classification"}, "student.init"),
        (STATIC, {"task": "masked-lm"}, "student.init"),
        (STATIC, RANKING, "student.init"),
        (STATIC, PAIRS, "student.init"),
        (STATIC | {"freeze": ["attention"]}, {}, "student.freeze"),
        (STATIC | {"adapter": {"type": "lora"}}, {}, "student.adapter"),
    ],
)
def test_what_cannot_is_refused_with_the_field(student: dict[str, Any], changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        catalog.check_student(spec(student, **changes), Shape())
    assert refused.value.param == field
    assert refused.value.hint
    assert [detail["param"] for detail in refused.value.details or []].count(field) == 1


@pytest.mark.parametrize(
    "shape",
    [
        Shape(model_type="mpnet"),
        Shape(num_layers=None),
        Shape(hidden_size=None),
        Shape(num_heads=None),
        Shape(num_heads=400),  # more heads than width
        Shape(num_heads=-1),
    ],
)
def test_a_teacher_that_cannot_be_cut_is_refused_for_such_students_alone(shape: Shape) -> None:
    with pytest.raises(InvalidRequest) as refused:
        catalog.check_student(spec(LAYERS), shape)
    assert refused.value.param == "student.init"
    assert "pretrained" in (refused.value.hint or "")
    for student in (STATIC, CONFIG, {"init": "pretrained", "model": "small"}):
        catalog.check_student(spec(student), shape)


def test_what_needs_no_teacher_is_refused_while_it_is_not_known() -> None:
    for student, changes in ((STATIC, {"task": "masked-lm"}), (LAYERS | {"layers": [1, 2], "choose": "last"}, {})):
        with pytest.raises(InvalidRequest):
            catalog.check_student(spec(student, **changes), None)
    catalog.check_student(spec(LAYERS | {"layers": 99}), None)


@pytest.mark.parametrize(
    "given", [{"trim_vocabulary": {"characters": "some"}}, {"keep": ["brain"]}, {"choose": "best"}, {"width": "wish"}]
)
def test_the_schema_refuses_words_it_does_not_know(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        catalog.expand(spec(LAYERS | given))
    assert str(refused.value.param).startswith(f"student.{next(iter(given))}")
