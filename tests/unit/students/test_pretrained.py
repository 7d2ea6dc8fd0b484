"""A student that was pretrained by somebody: loaded as it is, with the task's head."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from tests.fixtures.encoders import TASKS, make_origin, make_teacher
from tests.fixtures.tiny import make_tiny_teacher
from worker.students.pretrained import Pretrained


@pytest.mark.parametrize("task", TASKS)
def test_the_encoder_is_kept_and_gets_the_head_of_the_task(tmp_path: Path, task: str) -> None:
    given = make_tiny_teacher(tmp_path / "small", layers=1, hidden_size=16, seed=9)
    origin = replace(make_origin(tmp_path, task=task), student_dir=given)
    init = Pretrained(model="small")
    torch.manual_seed(0)
    student = init.build(origin)
    assert type(student).__name__ == f"Bert{origin.head.suffix or 'Model'}"
    assert init.tokenizer_dir(origin) == given
    encoder = AutoModel.from_pretrained(given).state_dict()
    inner = student.base_model.state_dict()
    assert all(torch.equal(value, encoder[name]) for name, value in inner.items() if "pooler" not in name)


def test_a_head_that_answers_the_task_already_is_kept(tmp_path: Path) -> None:
    given = make_teacher(tmp_path / "given", "distilbert", "single_label")
    origin = replace(make_origin(tmp_path), student_dir=given)
    init = Pretrained(model="given")
    student = init.build(origin)
    assert init.plan["own_head"] is True
    assert torch.equal(student.classifier.weight, origin.head.load(given).classifier.weight)
    other = Pretrained(model="given")
    other.build(replace(make_origin(tmp_path / "more", task="multi_label"), student_dir=make_tiny_teacher(tmp_path / "bare")))
    assert other.plan["own_head"] is False


def test_its_own_vocabulary_may_be_trimmed(tmp_path: Path) -> None:
    given = make_teacher(tmp_path / "given", "distilbert", "single_label")
    origin = replace(make_origin(tmp_path), student_dir=given)
    init = Pretrained(model="given", trim_vocabulary={"characters": "corpus", "common": 0})
    student = init.build(origin)
    assert student.config.vocab_size == init.plan["vocabulary"]["after"] < init.plan["vocabulary"]["before"]
    assert init.tokenizer_dir(origin) == origin.scratch / "trimmed"
