"""Students that average token vectors: what they compute, what they start from, what they cannot do, how they are exported."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from app.domain.errors import InvalidRequest, UnsupportedMethod
from tests.fixtures.encoders import head_of, make_origin, make_records
from worker.evaluators.base import feeds, open_session
from worker.exporters.onnx import Onnx
from worker.rows import collate
from worker.signals import Wants
from worker.students.base import Origin
from worker.students.static import Static
from worker.surgery.static_model import StaticConfig, StaticForSequenceClassification, StaticModel
from worker.training.vocabulary import CompactVocabulary

WORKS = ("single_label", "multi_label", "regression", "embedding", "bi_encoder")


def _model(residual: int = 6) -> StaticModel:
    torch.manual_seed(0)
    model = StaticModel(StaticConfig(vocab_size=20, hidden_size=5, residual_size=residual))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.train(False)


@pytest.mark.parametrize("residual", [0, 6])
def test_it_computes_what_is_written(residual: int) -> None:
    model = _model(residual).double()
    ids, mask = torch.tensor([[3, 4, 5, 0], [7, 8, 0, 0]]), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    out = model(ids, mask, output_hidden_states=True)
    for b, tokens in enumerate(([3, 4, 5], [7, 8])):
        rows = [model.embeddings.weight[t].detach() for t in tokens]
        weights = [float(torch.exp(model.weigh.weight[0].detach() @ row)) for row in rows]
        mean = sum(w * row for w, row in zip(weights, rows, strict=True)) / sum(weights)
        for t, (w, row) in enumerate(zip(weights, rows, strict=True)):
            wanted = row * w * len(rows) / sum(weights)
            if model.widen is not None and model.narrow is not None:
                wanted = wanted + model.narrow(torch.nn.functional.gelu(model.widen(mean)))
            assert torch.allclose(out.hidden_states[1][b, t], wanted, rtol=1e-9)
            assert torch.equal(out.hidden_states[0][b, t], row)
    assert out.last_hidden_state is out.hidden_states[1]


def test_padding_and_neighbours_change_nothing() -> None:
    model = _model()
    alone = model(torch.tensor([[7, 8]]), torch.tensor([[1, 1]])).last_hidden_state[0]
    padded = model(torch.tensor([[3, 4, 5, 6], [7, 8, 9, 9]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])).last_hidden_state[1, :2]
    assert torch.allclose(alone, padded, atol=1e-6)


@pytest.mark.parametrize("task", WORKS)
def test_made_saved_and_loaded_by_folder(tmp_path: Path, task: str) -> None:
    origin = make_origin(tmp_path, task=task)
    init = Static(hidden_size=16)
    student = init.build(origin)
    origin.head.save(student, init.tokenizer_dir(origin), tmp_path / "saved")
    again = origin.head.load(tmp_path / "saved")
    assert type(again) is type(student)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    auto = AutoModelForSequenceClassification if hasattr(student, "classifier") else AutoModel
    assert type(auto.from_pretrained(tmp_path / "saved")) is type(student)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "retort_static"
    assert origin.head.fits(tmp_path / "saved")
    batch = collate(origin.head.encode(origin.sample, AutoTokenizer.from_pretrained(tmp_path / "saved")), range(4))
    wants = origin.head.answers() | Wants(hidden=frozenset({0, 1}))
    said = origin.head.forward(again.train(False), batch, wants)
    assert said.hidden[0].shape == said.hidden[1].shape == (*batch.input_ids_BT.shape, 16)
    assert origin.head.shape(again).layers == 1


@torch.no_grad()
def test_the_table_is_the_teachers_view_of_every_token_alone(tmp_path: Path) -> None:
    """At full width directions are only turned: tokens are as far apart as the teacher's vectors of [CLS] t [SEP]."""
    origin = make_origin(tmp_path, task="embedding")
    tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir)
    teacher = origin.teacher_head.load(origin.teacher_dir).train(False)
    student = Static(hidden_size=32, weighting="uniform").build(origin)
    tokens = tokenizer.convert_tokens_to_ids(["card", "lost", "flight", "q", "##z"])
    ids = torch.tensor([[tokenizer.cls_token_id, t, tokenizer.sep_token_id] for t in tokens])
    wanted = teacher(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
    found = student.embeddings.weight[tokens]
    assert torch.allclose(torch.cdist(found, found), torch.cdist(wanted, wanted), atol=1e-3)
    assert not bool(student.embeddings.weight[tokenizer.all_special_ids].any())


def test_rare_tokens_count_more_where_vectors_are_compared(tmp_path: Path) -> None:
    origin = make_origin(tmp_path, task="embedding")
    tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir)
    init = Static(hidden_size=32)
    student = init.build(origin)
    assert init.plan["weighting"] == "frequency"
    counts = np.bincount(origin.head.encode(origin.corpus, tokenizer).flat[0], minlength=len(tokenizer))
    counts[tokenizer.all_special_ids] = 0
    used = np.flatnonzero(counts)
    with torch.no_grad():
        weights = torch.exp(student.weigh(student.embeddings.weight[used]))[:, 0].numpy()
    assert np.corrcoef(np.log(counts[used]), np.log(weights))[0, 1] < -0.7
    plain = Static(hidden_size=32, weighting="uniform").build(origin)
    assert not bool(plain.weigh.weight.any())


def _agreement(origin: Origin, student: Any) -> float:
    tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir)
    rows = origin.head.encode(make_records("single_label", origin.scratch, 100, seed=77), tokenizer)
    said: list[Tensor] = []
    for model in (student, origin.teacher_head.load(origin.teacher_dir)):
        found = origin.head.predict(model.train(False), rows, torch.device("cpu"))
        said.append(torch.as_tensor(np.asarray(found.logits)).float())
    a, b = (x - x.mean(0) for x in said)
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_the_head_speaks_like_the_teachers_before_training(tmp_path: Path) -> None:
    origin = make_origin(tmp_path)
    init = Static(hidden_size=16)
    student = init.build(origin)
    assert init.plan["inherited"] == ["embeddings", "head"]
    assert init.plan["weighting"] == "uniform"
    torch.manual_seed(0)
    fresh = StaticForSequenceClassification(student.config)
    solved = _agreement(origin, student)
    assert solved > 0.3, solved
    assert solved > abs(_agreement(origin, fresh)) + 0.2


def test_its_table_trains_over_the_tokens_in_use(tmp_path: Path) -> None:
    origin = make_origin(tmp_path)
    student = Static(hidden_size=16).build(origin).train(True)
    rows = origin.head.encode(origin.sample, AutoTokenizer.from_pretrained(origin.teacher_dir))
    before = student.static.embeddings.weight.detach().clone()
    vocabulary = CompactVocabulary(student, rows.used_tokens() | {rows.pad_id})
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-2)
    losses = []
    for _ in range(30):
        batch = collate(rows, range(60))
        logits = origin.head.forward(student, batch, origin.head.answers(), vocabulary.remap(batch.input_ids_BT)).logits_NC
        loss = torch.nn.functional.cross_entropy(logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    vocabulary.restore()
    assert losses[-1] < 0.5 * losses[0]
    moved = set(torch.nonzero((student.static.embeddings.weight != before).any(1))[:, 0].tolist())
    assert moved
    assert moved <= rows.used_tokens() | {rows.pad_id}
    assert bool(student.static.weigh.weight.any())  # how much a token counts was learned
    assert bool(student.static.narrow.weight.any())


@pytest.mark.parametrize("task", ["single_label", "embedding"])
def test_it_leaves_as_an_onnx_graph(tmp_path: Path, task: str) -> None:
    origin = make_origin(tmp_path, task=task)
    init = Static(hidden_size=16)
    student = init.build(origin)
    torch.nn.init.normal_(student.base_model.narrow.weight)
    origin.head.save(student, init.tokenizer_dir(origin), tmp_path / "saved")
    session = open_session(Onnx().export(tmp_path / "saved", tmp_path, origin.head), threads=1)
    rows = origin.head.encode(origin.sample[:7], AutoTokenizer.from_pretrained(tmp_path / "saved")).sequences()
    (feed,) = feeds(rows, ["input_ids", "attention_mask"], len(rows))
    wanted = origin.head.predict(origin.head.load(tmp_path / "saved").train(False), rows, torch.device("cpu"))
    said = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
    ordered = sorted(range(len(rows)), key=lambda i: len(rows.tokens[i]))
    if task == "single_label":
        assert np.abs(said["logits"] - np.asarray(wanted.logits)[ordered]).max() < 1e-4
    else:
        vectors = np.asarray(wanted.embedding_BE)[ordered]
        assert np.abs(said["embedding"] - vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).max() < 1e-5


def test_it_costs_a_fraction_of_a_small_transformer(tmp_path: Path) -> None:
    """Not the figure of a report: only that no layer runs. Twelve tokens a row, a student as wide as a two-layer encoder."""
    torch.manual_seed(0)
    static = StaticModel(StaticConfig(vocab_size=1000, hidden_size=256)).train(False)
    shape = BertConfig(vocab_size=1000, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024)
    ids = torch.randint(0, 1000, (64, 32))
    seconds = []
    with torch.no_grad():
        for model in (static, BertModel(shape).train(False)):
            best = []
            for _ in range(4):
                began = time.perf_counter()
                model(input_ids=ids, attention_mask=torch.ones_like(ids))
                best.append(time.perf_counter() - began)
            seconds.append(min(best))
    assert seconds[0] < seconds[1] / 5


@pytest.mark.parametrize("task", ["pairs", "tokens", "cross_encoder", "masked_lm"])
def test_tasks_that_need_places_or_neighbours_are_refused_with_the_way_out(tmp_path: Path, task: str) -> None:
    with pytest.raises(UnsupportedMethod, match="averages") as refused:
        Static().build(make_origin(tmp_path, task=task))
    assert refused.value.param == "student.init"
    assert "teacher_layers" in (refused.value.hint or "")


def test_a_teacher_that_reads_pairs_may_teach_a_static_ranker(tmp_path: Path) -> None:
    origin = make_origin(tmp_path, task="cross_encoder", student="bi_encoder")
    student = Static(hidden_size=16).build(origin)
    assert isinstance(student, StaticModel)
    assert head_of("bi_encoder").auto is AutoModel


def test_vectors_wider_than_the_teachers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Static(hidden_size=64).build(make_origin(tmp_path))
    assert refused.value.param == "student.hidden_size"
    assert Static().build(make_origin(tmp_path / "default")).config.hidden_size == 32


def test_a_trimmed_table_is_smaller_and_made_the_same_way_twice(tmp_path: Path) -> None:
    origin = make_origin(tmp_path)
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        init = Static(hidden_size=16, trim_vocabulary={"characters": "corpus", "common": 0})
        found.append(init.build(origin).state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert len(found[0]["static.embeddings.weight"]) == init.plan["vocabulary"]["after"] < init.plan["vocabulary"]["before"]
