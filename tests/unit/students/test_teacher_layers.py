"""Students cut from a teacher: what is inherited exactly, what is solved for, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from app.domain.errors import InvalidRequest, UnsupportedMethod
from tests.fixtures.tiny import make_rows, make_tokenizer
from worker.students.base import Origin
from worker.students.teacher_layers import TeacherLayers

LABELS = ["a", "b", "c"]
WIDE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
SMALL: dict[str, Any] = {"num_labels": 3, "pad_token_id": 0}


def _bert(vocabulary: int) -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(vocab_size=vocabulary, max_position_embeddings=64, **WIDE, **SMALL))


def _roberta(vocabulary: int) -> PreTrainedModel:
    return RobertaForSequenceClassification(
        RobertaConfig(vocab_size=vocabulary, max_position_embeddings=70, type_vocab_size=1, **WIDE, **SMALL)
    )


def _electra(vocabulary: int) -> PreTrainedModel:
    return ElectraForSequenceClassification(
        ElectraConfig(vocab_size=vocabulary, max_position_embeddings=64, embedding_size=32, **WIDE, **SMALL)
    )


def _distilbert(vocabulary: int) -> PreTrainedModel:
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=vocabulary, max_position_embeddings=64, dim=32, n_layers=4, n_heads=4, hidden_dim=64, **SMALL)
    )


MAKERS: dict[str, Callable[[int], PreTrainedModel]] = {
    "bert": _bert,
    "roberta": _roberta,
    "electra": _electra,
    "distilbert": _distilbert,
}


def _teacher(folder: Path, make: Callable[[int], PreTrainedModel]) -> Origin:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = make(len(tokenizer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # far from the origin, as trained weights are: sentences differ
            if parameter.dim() > 1:
                parameter.mul_(4.0 if "embeddings" not in name else 20.0)
            elif "LayerNorm" in name or "layer_norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.config.id2label = dict(enumerate(LABELS))
    model.config.label2id = {label: i for i, label in enumerate(LABELS)}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = make_rows(folder / "rows.jsonl", 300, seed=5)
    return Origin(folder, None, LABELS, [str(row["text"]) for row in rows], 32)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return _teacher(tmp_path / "teacher", _bert)


def _build(origin: Origin, **params: Any) -> tuple[TeacherLayers, PreTrainedModel]:
    torch.manual_seed(1)
    init = TeacherLayers(**params)
    return init, init.build(origin)


@torch.no_grad()
def _logits(model: PreTrainedModel, origin: Origin, texts: list[str]) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir)
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    result: Tensor = model.eval()(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    return result


def _unseen(origin: Origin) -> list[str]:
    return [str(row["text"]) for row in make_rows(origin.teacher_dir / "unseen.jsonl", 200, seed=77)]


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    return float((a * b).sum() / (a.norm() * b.norm()))


def _teacher_model(origin: Origin) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(origin.teacher_dir)
    return model


@pytest.mark.parametrize("kind", MAKERS)
def test_all_layers_at_full_width_are_the_teacher_itself(tmp_path: Path, kind: str) -> None:
    origin = _teacher(tmp_path / kind, MAKERS[kind])
    init, student = _build(origin, layers=4)
    assert torch.equal(_logits(student, origin, _unseen(origin)), _logits(_teacher_model(origin), origin, _unseen(origin)))
    assert init.plan["layer_map"] == {"0": 0, "1": 1, "2": 2, "3": 3}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_narrower_student_repeats_its_teacher_on_texts_it_never_saw(tmp_path: Path, kind: str) -> None:
    origin = _teacher(tmp_path / kind, MAKERS[kind])
    init, student = _build(origin, layers=2, hidden_size=24, intermediate_size=48)
    texts = _unseen(origin)
    wanted = _logits(_teacher_model(origin), origin, texts)
    solved = _correlation(_logits(student, origin, texts), wanted)
    torch.manual_seed(1)
    fresh = _correlation(_logits(type(student)(student.config), origin, texts), wanted)
    assert solved > 0.5, (solved, fresh)
    assert solved > abs(fresh) + 0.2, (solved, fresh)
    assert init.plan["layer_map"] == {"0": 1, "1": 3}
    assert init.plan["hidden_size"] == [32, 24]
    assert 0.5 < init.plan["variance_kept"] <= 1.0
    assert all(0.5 < match <= 1.0 for match in init.plan["match"])


def test_the_narrower_the_less_it_matches(origin: Origin) -> None:
    texts = _unseen(origin)
    wanted = _logits(_teacher_model(origin), origin, texts)
    found = []
    for width in (8, 16, 24):
        init, student = _build(origin, layers=[0, 1, 2, 3], hidden_size=width, intermediate_size=64)
        found.append((init.plan["variance_kept"], _correlation(_logits(student, origin, texts), wanted)))
    assert found == sorted(found)
    assert found[-1][1] > 0.8


def test_the_kept_layers_are_the_teachers(origin: Origin) -> None:
    _, student = _build(origin, layers=[1, 3])
    source, taken = _teacher_model(origin).state_dict(), student.state_dict()
    for name, value in taken.items():
        wanted = name.replace("layer.1.", "layer.3.") if "layer.1." in name else name.replace("layer.0.", "layer.1.")
        assert torch.equal(value, source[wanted]), name


@pytest.mark.parametrize(("layers", "kept"), [(1, [3]), (2, [1, 3]), (3, [1, 2, 3]), ([0, 2], [0, 2])])
def test_a_number_of_layers_is_spread_evenly_with_the_last_one(origin: Origin, layers: Any, kept: list[int]) -> None:
    init, student = _build(origin, layers=layers)
    assert list(init.plan["layer_map"].values()) == kept
    assert student.config.num_hidden_layers == len(kept)


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 12])
def test_any_number_of_heads_that_divides_the_width(origin: Origin, heads: int) -> None:
    """Fewer and smaller, fewer and larger, more heads than the teacher has."""
    _, student = _build(origin, layers=2, hidden_size=24, num_attention_heads=heads)
    logits = _logits(student, origin, _unseen(origin))
    assert student.config.num_attention_heads == heads
    assert _correlation(logits, _logits(_teacher_model(origin), origin, _unseen(origin))) > 0.5


def test_few_sample_texts_are_enough_to_stay_finite(origin: Origin) -> None:
    few = Origin(origin.teacher_dir, None, LABELS, ["a card"], 32)
    _, student = _build(few, layers=1, hidden_size=16)
    assert bool(torch.isfinite(_logits(student, origin, _unseen(origin))).all())


def test_it_is_made_the_same_way_twice(origin: Origin) -> None:
    first, second = (_build(origin, layers=2, hidden_size=16)[1].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_it_makes_is_a_plain_transformers_folder(origin: Origin, tmp_path: Path) -> None:
    _, student = _build(origin, layers=2, hidden_size=16, intermediate_size=32)
    student.save_pretrained(tmp_path / "student")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert torch.allclose(_logits(again, origin, ["my card"]), _logits(student, origin, ["my card"]), atol=1e-5)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in again.state_dict().items())
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert list(config["id2label"].values()) == LABELS
    assert config["hidden_dropout_prob"] == 0.0


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"layers": 5}, "student.layers"),
        ({"layers": [0, 4]}, "student.layers"),
        ({"hidden_size": 40}, "student.hidden_size"),
        ({"hidden_size": 20, "num_attention_heads": 3}, "student.hidden_size"),
        ({"intermediate_size": 65}, "student.intermediate_size"),
    ],
)
def test_a_part_the_teacher_lacks_is_refused_with_the_field(origin: Origin, params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _build(origin, **params)
    assert refused.value.param == field
    assert refused.value.hint


@pytest.mark.parametrize("layers", [0, -1, [], [2, 1], [1, 1], [-1, 2]])
def test_layers_that_make_no_sense_are_refused_before_a_model_is_loaded(layers: Any) -> None:
    with pytest.raises(ValidationError, match="layer"):
        TeacherLayers(layers=layers)


def test_a_family_it_does_not_know_is_refused_with_the_way_out(tmp_path: Path) -> None:
    def mpnet(vocabulary: int) -> PreTrainedModel:
        return MPNetForSequenceClassification(MPNetConfig(vocab_size=vocabulary, max_position_embeddings=64, **WIDE, **SMALL))

    origin = _teacher(tmp_path / "mpnet", mpnet)
    with pytest.raises(UnsupportedMethod, match="mpnet") as refused:
        _build(origin, layers=2)
    assert "pretrained" in (refused.value.hint or "")
