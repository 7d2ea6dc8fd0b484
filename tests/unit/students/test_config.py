"""Students made from measures: any family and task, with the teacher's tokenizer and its tables along fewer directions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoTokenizer

from app.domain.errors import UnsupportedMethod
from tests.fixtures.encoders import TASKS, byte_bpe_tokenizer, make_origin
from worker.rows import collate
from worker.students.base import Origin
from worker.students.config import Config

SHAPE: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}


def _forward(origin: Origin, init: Config, model: Any, n: int = 8) -> Any:
    rows = origin.head.encode(origin.sample, AutoTokenizer.from_pretrained(init.tokenizer_dir(origin)))
    with torch.no_grad():
        return origin.head.forward(model.train(False), collate(rows, range(n), 1), origin.head.answers())


@pytest.mark.parametrize(
    ("family", "task"), [*(("bert", task) for task in TASKS), *((f, "single_label") for f in ("distilbert", "roberta", "electra"))]
)
def test_it_has_the_measures_and_answers_the_task(tmp_path: Path, family: str, task: str) -> None:
    origin = make_origin(tmp_path, task=task)
    init = Config(model_type=family, **SHAPE)
    student = init.build(origin)
    assert student.config.model_type == family
    assert (student.config.num_hidden_layers, student.config.hidden_size, student.config.num_attention_heads) == (1, 16, 2)
    assert init.tokenizer_dir(origin) == origin.teacher_dir
    said = _forward(origin, init, student)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in said.tensors())
    assert 0.3 < init.plan["embedding_variance_kept"] <= 1.0
    origin.head.save(student, init.tokenizer_dir(origin), tmp_path / "saved")
    again = origin.head.load(tmp_path / "saved").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("teacher", ["bert", "roberta"])
def test_every_position_the_teacher_has_is_there(tmp_path: Path, teacher: str, family: str) -> None:
    tokenizer = byte_bpe_tokenizer() if teacher == "roberta" else None
    origin = make_origin(tmp_path, teacher, tokenizer=tokenizer)
    student = Config(model_type=family, **SHAPE).build(origin).train(False)
    config = AutoConfig.from_pretrained(origin.teacher_dir)
    longest = config.max_position_embeddings - (config.pad_token_id + 1 if teacher == "roberta" else 0)
    ids = torch.full((1, longest), 7)
    with torch.no_grad():
        student(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_tables_of_the_same_width_are_the_teachers(tmp_path: Path) -> None:
    origin = make_origin(tmp_path, "roberta", tokenizer=byte_bpe_tokenizer())
    init = Config(model_type="bert", num_hidden_layers=1, hidden_size=32, num_attention_heads=4)
    ours, theirs = init.build(origin).base_model.embeddings, origin.teacher_head.load(origin.teacher_dir).base_model.embeddings
    assert torch.equal(ours.word_embeddings.weight, theirs.word_embeddings.weight)
    assert torch.equal(ours.position_embeddings.weight, theirs.position_embeddings.weight[2:])  # RoBERTa's begin behind padding
    assert init.plan["embedding_variance_kept"] == 1.0


def test_narrow_tables_keep_what_tells_tokens_apart(tmp_path: Path) -> None:
    """Distances between the sums of tables, as the rows have them, are nearer to the teacher's than any half of its columns."""
    origin = make_origin(tmp_path)
    theirs = origin.teacher_head.load(origin.teacher_dir).base_model.embeddings.word_embeddings.weight
    ours = Config(**SHAPE).build(origin).base_model.embeddings.word_embeddings.weight
    theirs, ours = theirs.detach(), ours.detach()
    used = torch.tensor(sorted(origin.head.encode(origin.sample, AutoTokenizer.from_pretrained(origin.teacher_dir)).used_tokens()))

    def lost(table: Any) -> float:
        return float((torch.cdist(table[used], table[used]) - torch.cdist(theirs[used], theirs[used])).norm())

    assert lost(ours) < 0.8 * min(lost(theirs[:, :16]), lost(theirs[:, 16:]))


def test_a_wider_student_has_the_teachers_columns_first(tmp_path: Path) -> None:
    origin = make_origin(tmp_path)
    student = Config(num_hidden_layers=1, hidden_size=48, num_attention_heads=2).build(origin)
    theirs = origin.teacher_head.load(origin.teacher_dir).base_model.embeddings.word_embeddings.weight
    ours = student.base_model.embeddings.word_embeddings.weight
    assert torch.equal(ours[:, :32], theirs)
    assert float(ours[:, 32:].abs().max()) > 0


def test_without_inheritance_it_is_untrained_and_the_same_for_a_seed(tmp_path: Path) -> None:
    origin = make_origin(tmp_path)
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(Config(inherit_embeddings=False, **SHAPE).build(origin).state_dict())
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    assert float(made[0]["bert.embeddings.word_embeddings.weight"].std()) == pytest.approx(0.02, rel=0.2)


def test_a_trimmed_vocabulary_is_its_own(tmp_path: Path) -> None:
    origin = make_origin(tmp_path, task="masked_lm")
    init = Config(trim_vocabulary={"characters": "corpus", "common": 0}, **SHAPE)
    student = init.build(origin)
    assert student.config.vocab_size == init.plan["vocabulary"]["after"] < init.plan["vocabulary"]["before"]
    assert _forward(origin, init, student).logits_NC.shape[1] == init.plan["vocabulary"]["after"]


def test_tables_that_lie_elsewhere_are_refused_with_the_way_out(tmp_path: Path) -> None:
    origin = make_origin(tmp_path, "distilbert")
    broken = replace(origin, teacher_head=_Without(origin.teacher_head))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedMethod) as refused:
        Config(**SHAPE).build(broken)
    assert refused.value.param == "student.inherit_embeddings"
    assert "false" in (refused.value.hint or "")


class _Without:
    """A head that loads a model whose embeddings are no tables."""

    def __init__(self, head: Any) -> None:
        self.head = head

    def load(self, folder: Path) -> Any:
        model = self.head.load(folder)
        model.base_model.embeddings = torch.nn.Identity()
        return model


@pytest.mark.parametrize("params", [{"hidden_size": 20, "num_attention_heads": 3}, {"model_type": "bert", "embedding_size": 16}])
def test_measures_that_do_not_fit_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config(**params)
