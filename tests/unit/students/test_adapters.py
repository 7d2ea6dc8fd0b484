"""Adapters in a student: nothing changes when they are put in, only they and the head train, and merged they leave no trace."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from app.domain.errors import InvalidRequest
from app.domain.spec import Adapter
from tests.fixtures.encoders import MAX_LENGTH, head_of, make_records, make_teacher
from worker import capture
from worker.rows import Batch, collate
from worker.signals import Wants
from worker.surgery import adapters


def _batch(folder: Path, task: str = "single_label") -> Batch:
    head = head_of(task)
    rows = head.encode(make_records(task, folder, 8), AutoTokenizer.from_pretrained(folder / "m"))
    assert max(len(row) for row in rows.tokens) <= MAX_LENGTH
    return collate(rows, range(8), 1)


def _logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    said = capture.run(model, batch, Wants())[0].logits
    assert isinstance(said, Tensor)
    return said


def _train(model: PreTrainedModel, batch: Batch, steps: int = 5) -> None:
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(_logits(model, batch), batch.labels).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet"])
def test_put_in_trained_and_merged(tmp_path: Path, family: str, kind: Any) -> None:
    folder = make_teacher(tmp_path / "m", family, "single_label")
    model, batch = head_of("single_label").load(folder).train(False), _batch(tmp_path)
    plain, before = model.state_dict(), _logits(model, batch)
    shapes = {name: value.shape for name, value in plain.items()}
    kept = {name: value.clone() for name, value in plain.items()}

    torch.manual_seed(0)
    names = adapters.attach(model, Adapter(type=kind, r=4, alpha=8))
    assert torch.allclose(_logits(model, batch), before, atol=1e-5)
    assert type(model).__name__.endswith("ForSequenceClassification")
    assert isinstance(model.get_input_embeddings(), torch.nn.Embedding)
    assert len(names) == (20 if family != "mpnet" else 24), names
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)

    _train(model, batch)
    taught = _logits(model, batch)
    assert not torch.allclose(taught, before, atol=1e-2)
    adapters.merge(model)
    assert torch.allclose(_logits(model, batch), taught, atol=1e-5)
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, kept[name])}
    assert changed == {f"{name}.weight" for name in names}
    model.save_pretrained(tmp_path / "merged")
    again = head_of("single_label").load(tmp_path / "merged").train(False)
    assert torch.allclose(_logits(again, batch), taught, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_kept_apart_it_is_what_peft_reads(tmp_path: Path, kind: Any) -> None:
    folder = make_teacher(tmp_path / "m", "bert", "single_label")
    model, batch = head_of("single_label").load(folder).train(False), _batch(tmp_path)
    adapters.attach(model, Adapter(type=kind, r=4))
    _train(model, batch)
    adapters.save_apart(model, tmp_path / "adapter")
    base = head_of("single_label").load(folder).train(False)
    read = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    with torch.no_grad():
        theirs = read(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    assert torch.allclose(theirs, _logits(model, batch), atol=1e-5)
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["target_modules"] == sorted(described["target_modules"])
    assert str(tmp_path) not in json.dumps(described)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_layers_can_still_be_looked_into(tmp_path: Path) -> None:
    folder = make_teacher(tmp_path / "m", "bert", "single_label")
    model, batch = head_of("single_label").load(folder).train(False), _batch(tmp_path)
    wants = Wants(hidden=frozenset({2}), qkv=frozenset({1, 4}))
    _, before = capture.run(model, batch, wants)
    adapters.attach(model, Adapter(r=4))
    _train(model, batch)
    out, after = capture.run(model, batch, wants)
    assert len(out.hidden_states) == 5
    for layer in (1, 4):
        q, k, v = after[layer]
        assert q.shape == k.shape == v.shape
        assert not torch.allclose(q, before[layer][0], atol=1e-3)  # with the adapter's part


@pytest.mark.parametrize(
    ("targets", "count", "pattern"),
    [
        (["query", "value"], 8, r"\.(query|value)$"),
        (["attention.output.dense"], 4, r"attention\.output\.dense$"),
        (["classifier"], 1, ""),
    ],
)
def test_targets_are_ends_of_names(tmp_path: Path, targets: list[str], count: int, pattern: str) -> None:
    model = head_of("single_label").load(make_teacher(tmp_path / "m", "bert", "single_label"))
    names = adapters.attach(model, Adapter(target_modules=targets))
    assert len(names) == count
    assert all(re.search(pattern, name) for name in names)


@pytest.mark.parametrize("target", ["q_lin", "LayerNorm", "word_embeddings", "uery"])
def test_a_target_that_is_no_linear_map_is_refused_with_the_names_there_are(tmp_path: Path, target: str) -> None:
    model = head_of("single_label").load(make_teacher(tmp_path / "m", "bert", "single_label"))
    with pytest.raises(InvalidRequest) as refused:
        adapters.attach(model, Adapter(target_modules=["query", target]))
    assert refused.value.param == "student.adapter.target_modules"
    assert "query" in (refused.value.hint or "")
    assert "dense" in (refused.value.hint or "")
    assert not any("lora_" in name for name, _ in model.named_parameters())
