"""Students cut from a teacher: what is inherited exactly, what is solved for, what is refused; for every family and task."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from app.domain.errors import InvalidRequest, UnsupportedMethod
from tests.fixtures.encoders import LABELS, TASKS, make_origin, make_records
from worker.rows import collate
from worker.students.base import Origin
from worker.students.teacher_layers import TeacherLayers, chosen_layers

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "electra-small", "distilbert")


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return make_origin(tmp_path)


def _build(origin: Origin, **params: Any) -> tuple[TeacherLayers, PreTrainedModel]:
    torch.manual_seed(1)
    init = TeacherLayers(**params)
    return init, init.build(origin)


def _teacher(origin: Origin) -> PreTrainedModel:
    return origin.teacher_head.load(origin.teacher_dir)


@torch.no_grad()
def _answers(model: PreTrainedModel, origin: Origin, task: str = "single_label") -> Tensor:
    """What the model says of rows it never saw, as one flat list of numbers; of vectors their cosines."""
    tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir)
    rows = origin.head.encode(make_records(task, origin.scratch, 60, seed=77), tokenizer)
    said = origin.head.forward(model.train(False), collate(rows, range(60), 3), origin.head.answers())
    if said.embedding_BE is not None and said.logits_NC is None:
        unit = torch.nn.functional.normalize(said.embedding_BE, dim=-1)
        return (unit @ unit.T).flatten()
    found = said.logits_NC if said.logits_NC is not None else said.scores_GK
    assert found is not None
    return (found - found.mean(0)).flatten()


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize(
    ("family", "task"), [*(("bert", task) for task in TASKS), *((family, "masked_lm") for family in FAMILIES[1:])]
)
def test_all_layers_at_full_width_are_the_teacher_itself(tmp_path: Path, family: str, task: str) -> None:
    origin = make_origin(tmp_path, family, task)
    init, student = _build(origin, layers=4)
    ours, theirs = student.state_dict(), _teacher(origin).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert init.plan["layer_map"] == {"0": 0, "1": 1, "2": 2, "3": 3}
    assert init.plan["inherited"] == ["embeddings", "attention", "ffn", "head"]


@pytest.mark.parametrize("width", ["reconstruct", "projection", "importance"])
@pytest.mark.parametrize("family", ["bert", "electra-small", "distilbert"])
def test_a_narrower_student_repeats_its_teacher_on_texts_it_never_saw(tmp_path: Path, family: str, width: str) -> None:
    origin = make_origin(tmp_path, family)
    init, student = _build(origin, layers=2, hidden_size=24, intermediate_size=48, width=width)
    wanted = _answers(_teacher(origin), origin)
    solved = _correlation(_answers(student, origin), wanted)
    torch.manual_seed(1)
    fresh = _correlation(_answers(type(student)(student.config), origin), wanted)
    assert solved > 0.5, (solved, fresh)
    assert solved > abs(fresh) + 0.2, (solved, fresh)
    assert init.plan["layer_map"] == {"0": 1, "1": 3}
    assert init.plan["hidden_size"] == [32, 24]
    assert 0.5 < init.plan["variance_kept"] <= 1.0
    assert init.plan["width"] == width
    assert all(0.5 < match <= 1.0 for match in init.plan.get("match", []))


@pytest.mark.parametrize(
    ("family", "task"),
    [
        *(("bert", task) for task in ("regression", "pairs", "tokens", "embedding", "cross_encoder", "masked_lm")),
        *((family, "masked_lm") for family in ("roberta", "electra", "electra-small", "distilbert")),
        ("roberta", "single_label"),
    ],
)
def test_the_head_of_every_task_is_solved_for(tmp_path: Path, family: str, task: str) -> None:
    """Pairs with their token types, one score, every token, vectors without a head, words out of a tied table."""
    origin = make_origin(tmp_path, family, task)
    _, student = _build(origin, layers=[0, 1, 2, 3], hidden_size=24)
    assert _correlation(_answers(student, origin, task), _answers(_teacher(origin), origin, task)) > 0.5
    torch.manual_seed(1)
    again = TeacherLayers(layers=[0, 1, 2, 3], hidden_size=24).build(origin).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in student.state_dict().items())


def test_a_narrow_masked_language_model_keeps_its_output_tied_to_its_table(tmp_path: Path) -> None:
    _, student = _build(make_origin(tmp_path, "bert", "masked_lm"), layers=2, hidden_size=24)
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    assert student.get_input_embeddings().embedding_dim == 24


def test_the_narrower_the_less_it_matches(origin: Origin) -> None:
    origin = replace(origin, sample=make_records("single_label", origin.scratch, 300))
    wanted = _answers(_teacher(origin), origin)
    found = []
    for width in (8, 16, 24):
        init, student = _build(origin, layers=[0, 1, 2, 3], hidden_size=width, intermediate_size=64)
        found.append((init.plan["variance_kept"], _correlation(_answers(student, origin), wanted)))
    assert found == sorted(found)
    assert found[-1][1] > 0.75


def test_the_kept_layers_are_the_teachers(origin: Origin) -> None:
    _, student = _build(origin, layers=[1, 3])
    source, taken = _teacher(origin).state_dict(), student.state_dict()
    for name, value in taken.items():
        wanted = name.replace("layer.1.", "layer.3.") if "layer.1." in name else name.replace("layer.0.", "layer.1.")
        assert torch.equal(value, source[wanted]), name


def test_a_teacher_that_reads_pairs_gives_its_body_to_a_student_that_compares_vectors(tmp_path: Path) -> None:
    origin = make_origin(tmp_path, "bert", "cross_encoder", student="bi_encoder")
    init, student = _build(origin, layers=2)
    source = _teacher(origin).base_model.state_dict()
    assert type(student).__name__ == "BertModel"
    assert torch.equal(student.encoder.layer[1].output.dense.weight, source["encoder.layer.3.output.dense.weight"])
    assert init.plan["inherited"] == ["embeddings", "attention", "ffn"]
    narrow, student = _build(origin, layers=2, hidden_size=24)
    assert narrow.plan["inherited"] == ["embeddings", "attention", "ffn"]


# -- which layers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choose", "count", "kept"),
    [
        ("uniform", 1, [5]),
        ("uniform", 4, [1, 2, 4, 5]),
        ("first", 2, [0, 1]),
        ("last", 2, [4, 5]),
        ("first_last", 3, [0, 4, 5]),
        ("first_last", 4, [0, 1, 4, 5]),
        ("skip", 3, [0, 2, 4]),
        ("skip", 4, [0, 1, 2, 3]),
        ("block_influence", 3, [0, 2, 5]),
    ],
)
def test_a_number_of_layers_is_chosen_as_asked(choose: Any, count: int, kept: list[int]) -> None:
    assert chosen_layers(count, 6, choose, [0.5, 0.1, 0.4, 0.1, 0.1, 0.2]) == kept


def test_block_influence_is_measured_on_the_jobs_texts(origin: Origin) -> None:
    teacher = _teacher(origin)
    with torch.no_grad():  # layers 1 and 2 add next to nothing
        for i in (1, 2):
            for part in (teacher.bert.encoder.layer[i].attention.output, teacher.bert.encoder.layer[i].output):
                part.dense.weight.zero_()
                part.dense.bias.zero_()
                part.LayerNorm.weight.fill_(1.0)
                part.LayerNorm.bias.zero_()
        teacher.save_pretrained(origin.teacher_dir)
    init, student = _build(origin, layers=2, choose="block_influence")
    assert init.plan["layer_map"] == {"0": 0, "1": 3}
    assert len(init.plan["influence"]) == 4
    assert max(init.plan["influence"][1:3]) < min(init.plan["influence"][0], init.plan["influence"][3])
    assert student.config.num_hidden_layers == 2


# -- what is kept, what trains -------------------------------------------------------------------------------------------


def test_parts_that_are_not_kept_start_untrained(origin: Origin) -> None:
    init, student = _build(origin, layers=2, keep=["ffn", "head"])
    torch.manual_seed(1)
    fresh = origin.head.make(student.config).state_dict()
    source = _teacher(origin).state_dict()
    state = student.state_dict()
    assert init.plan["inherited"] == ["ffn", "head"]
    assert torch.equal(state["bert.encoder.layer.0.output.dense.weight"], source["bert.encoder.layer.1.output.dense.weight"])
    assert torch.equal(state["classifier.weight"], source["classifier.weight"])
    for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"):
        assert torch.equal(state[name], fresh[name])


def test_a_fresh_head_leaves_the_table_it_is_tied_to_alone(tmp_path: Path) -> None:
    origin = make_origin(tmp_path, "bert", "masked_lm")
    _, student = _build(origin, layers=2, keep=["embeddings", "attention", "ffn"])
    table = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(student.state_dict()[table], _teacher(origin).state_dict()[table])
    assert not torch.equal(student.cls.predictions.transform.dense.weight, _teacher(origin).cls.predictions.transform.dense.weight)


def test_frozen_parts_are_named_by_patterns_of_parameters(origin: Origin) -> None:
    import re

    init, student = _build(origin, layers=2, freeze=["embeddings", "ffn"])
    frozen = {n for n, _ in student.named_parameters() if any(re.search(p, n) for p in init.plan["frozen_patterns"])}
    assert "bert.embeddings.LayerNorm.weight" in frozen
    assert "bert.encoder.layer.0.intermediate.dense.weight" in frozen
    assert "bert.encoder.layer.0.output.LayerNorm.bias" in frozen
    assert not any("attention" in name or "classifier" in name or "pooler" in name for name in frozen)


def test_freezing_what_is_not_there_or_everything_is_refused(tmp_path: Path, origin: Origin) -> None:
    headless = make_origin(tmp_path / "headless", task="embedding")
    for given, parts in ((headless, ["head"]), (origin, ["embeddings", "attention", "ffn", "head"])):
        with pytest.raises(InvalidRequest) as refused:
            _build(given, layers=2, freeze=parts)
        assert refused.value.param == "student.freeze"
        assert refused.value.hint


# -- shapes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 12])
@pytest.mark.parametrize("width", ["reconstruct", "projection"])
def test_any_number_of_heads_that_divides_the_width(origin: Origin, heads: int, width: str) -> None:
    """Fewer and smaller, fewer and larger, more heads than the teacher has."""
    _, student = _build(origin, layers=2, hidden_size=24, num_attention_heads=heads, width=width)
    assert student.config.num_attention_heads == heads
    assert _correlation(_answers(student, origin), _answers(_teacher(origin), origin)) > 0.5


def test_few_sample_texts_are_enough_to_stay_finite(origin: Origin) -> None:
    _, student = _build(replace(origin, sample=origin.sample[:1]), layers=1, hidden_size=16)
    assert bool(torch.isfinite(_answers(student, origin)).all())


def test_what_it_makes_is_a_plain_transformers_folder(origin: Origin, tmp_path: Path) -> None:
    init, student = _build(origin, layers=2, hidden_size=16, intermediate_size=32)
    origin.head.save(student, init.tokenizer_dir(origin), tmp_path / "student")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert torch.allclose(_answers(again, origin), _answers(student, origin), atol=1e-5)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in again.state_dict().items())
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert tuple(config["id2label"].values()) == LABELS
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


def test_a_list_of_layers_leaves_nothing_to_choose() -> None:
    with pytest.raises(ValidationError, match="choose"):
        TeacherLayers(layers=[0, 2], choose="last")


def test_a_family_it_does_not_know_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMethod, match="mpnet") as refused:
        _build(make_origin(tmp_path, "mpnet"), layers=2)
    assert "pretrained" in (refused.value.hint or "")
