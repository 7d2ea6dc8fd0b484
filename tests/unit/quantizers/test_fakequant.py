"""Training arithmetic is export arithmetic; gradients are straight-through; nothing of it stays in the weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import DistilBertConfig, RobertaConfig

from tests.unit.quantizers.graphs import batches, calibration, head_of, write_encoder
from worker.int8.error import answers, real_rows
from worker.int8.fakequant import FakeQuantEmbedding, FakeQuantLinear, remove_fake_quant, with_fake_quant
from worker.int8.params import MatrixParams
from worker.quantizers.int8_qat import Int8Qat
from worker.training.vocabulary import CompactVocabulary

SMALL: dict[str, Any] = {"vocab_size": 200, "max_position_embeddings": 66}


def _logits(model: Any, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    with torch.inference_mode():
        found = [model(**{name: torch.from_numpy(value) for name, value in feed.items()}).logits.numpy() for feed in feeds]
    return np.concatenate([real_rows(values, feed["attention_mask"]) for values, feed in zip(found, feeds, strict=True)])


def _agree(graph: Path, task: str, tmp_path: Path, **params: Any) -> None:
    """Rounding ties apart, which platforms may break differently: they move few rows, and those by little."""
    scheme, feeds = Int8Qat(**{"min_elements": 512} | params), batches(64)
    report = scheme.quantize(graph, tmp_path, calibration(graph))
    found = [
        real_rows(a["logits"], f["attention_mask"]) for a, f in zip(answers(tmp_path / report.file, feeds), feeds, strict=True)
    ]
    exported = np.concatenate(found)
    model = head_of(task).load(graph.parent / "torch").eval()
    plain = _logits(model, feeds)
    with_fake_quant(model, scheme.params)
    off = np.abs(_logits(model, feeds) - exported).max(axis=1)
    assert np.median(off) < 2e-5
    assert off.max() < 0.5 * np.abs(plain - exported).max()
    assert np.abs(plain - exported).max() > 1e-3
    assert (_logits(model, feeds).argmax(1) == exported.argmax(1)).mean() >= 0.99


@pytest.mark.parametrize("params", [{}, {"reduce_range": False}, {"embeddings": False}, {"tables": "int4", "min_elements": 49}])
def test_the_exported_graph_answers_as_the_trained_model(params: dict[str, Any], encoder: Path, tmp_path: Path) -> None:
    _agree(encoder, "text-classification", tmp_path, **params)


@pytest.mark.parametrize("family", ["distilbert", "roberta"])
def test_also_of_other_families_and_tasks(family: str, tmp_path: Path) -> None:
    if family == "distilbert":
        config: Any = DistilBertConfig(dim=32, n_layers=1, n_heads=4, hidden_dim=64, **SMALL)
    else:
        config = RobertaConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=64,
            type_vocab_size=1,
            pad_token_id=0,
            **SMALL,
        )
    task = "token-classification" if family == "roberta" else "text-classification"
    _agree(write_encoder(tmp_path, config, task), task, tmp_path)


def test_what_is_quantized_is_the_same_in_both(encoder: Path, tmp_path: Path) -> None:
    model = head_of("text-classification").load(encoder.parent / "torch")
    scheme = Int8Qat(min_elements=512)
    with_fake_quant(model, scheme.params)
    fake = {n for n, m in model.named_modules() if isinstance(m, FakeQuantLinear | FakeQuantEmbedding)}
    assert fake == set(scheme.quantize(encoder, tmp_path, calibration(encoder)).quantized)


def test_names_ties_and_weights_survive(encoder: Path) -> None:
    model: Any = head_of("text-classification").load(encoder.parent / "torch").eval()
    model.bert.embeddings.position_embeddings.weight = model.bert.embeddings.word_embeddings.weight  # any tie will do
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = [type(m) for m in model.modules()]
    feeds = batches(16)
    plain = _logits(model, feeds)
    with_fake_quant(model, MatrixParams(min_elements=512))
    with_fake_quant(model, MatrixParams(min_elements=512))  # twice is once
    assert list(model.state_dict()) == list(before)
    assert not np.array_equal(_logits(model, feeds), plain)
    assert model.bert.embeddings.position_embeddings.weight is model.bert.embeddings.word_embeddings.weight
    remove_fake_quant(model)
    assert [type(m) for m in model.modules()] == kinds
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert np.array_equal(_logits(model, feeds), plain)


@pytest.mark.parametrize("params", [{}, {"tables": "int4", "min_elements": 49}])
def test_a_table_narrowed_to_the_tokens_in_use_rounds_as_the_whole_one(encoder: Path, params: dict[str, Any]) -> None:
    model: Any = head_of("text-classification").load(encoder.parent / "torch").eval()
    with_fake_quant(model, MatrixParams(**{"min_elements": 512} | params))
    ids = torch.tensor([[3, 9, 7, 5]])
    whole = model.get_input_embeddings()(ids)
    narrowed = CompactVocabulary(model, {3, 5, 7, 9})
    assert model.get_input_embeddings().num_embeddings < model.config.vocab_size
    assert torch.equal(model.get_input_embeddings()(narrowed.remap(ids)), whole)


def _faked(module: nn.Module, **params: Any) -> nn.Module:
    holder = nn.Sequential(module)
    with_fake_quant(holder, MatrixParams(min_elements=1, **params))
    return holder[0]


@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("width", [12, 7])
def test_value_and_gradient_of_a_product_against_the_formula(reduce_range: bool, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(width, 5)
    x = torch.randn(2, 3, width, generator=generator).requires_grad_()
    upstream = torch.randn(2, 3, 5, generator=generator)
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    found = _faked(layer, reduce_range=reduce_range)(x)
    found.backward(upstream)

    rows = x.detach().double().numpy().reshape(6, width)
    t = np.abs(rows).max(1, keepdims=True) / 127
    rounded_x = np.rint(rows / t) * t
    padded = np.abs(np.pad(weight, ((0, 0), (0, width % 2))))
    largest = (padded[:, 0::2] + padded[:, 1::2]) if reduce_range else padded
    s = largest.max(1, keepdims=True) / 127
    rounded_w = np.rint(weight / s) * s
    up = upstream.double().numpy().reshape(6, 5)
    assert np.allclose(found.detach().numpy().reshape(6, 5), rounded_x @ rounded_w.T + bias, rtol=1e-5, atol=1e-6)
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    assert np.allclose(x.grad.numpy().reshape(6, width), up @ rounded_w, rtol=1e-5, atol=1e-6)
    assert np.allclose(layer.weight.grad.numpy(), up.T @ rounded_x, rtol=1e-5, atol=1e-6)
    assert np.allclose(layer.bias.grad.numpy(), up.sum(0), rtol=1e-5)


@pytest.mark.parametrize("tables", ["int8", "int4"])
def test_a_tables_gradient_goes_to_the_rows_that_were_read(tables: str) -> None:
    layer = _faked(nn.Embedding(20, 32, padding_idx=0), tables=tables)
    ids = torch.tensor([[3, 3, 7, 0]])
    upstream = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))
    layer(ids).backward(upstream)
    gradient = layer.weight.grad
    assert isinstance(gradient, torch.Tensor)
    expected = torch.zeros(20, 32)
    expected[3], expected[7] = upstream[0, 0] + upstream[0, 1], upstream[0, 2]
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_rows_of_zeros_and_zero_weights_give_the_bias() -> None:
    layer = nn.Linear(8, 3)
    with torch.no_grad():
        layer.weight[1] = 0
    found = _faked(layer)(torch.zeros(2, 8))
    assert torch.equal(found, layer.bias.expand(2, 3))


def test_mixed_precision_rounds_to_the_same_integers() -> None:
    layer = _faked(nn.Linear(64, 16))
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    assert (found - exact).abs().max() <= 2**-8 * exact.abs().max()  # the sum alone is rounded


def test_training_with_the_rounding_beats_rounding_afterwards() -> None:
    generator = torch.Generator().manual_seed(3)
    ids, target = torch.arange(64), torch.randn(64, 8, generator=generator)
    params = MatrixParams(min_elements=1, tables="int4")

    def error(fake: bool) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 8))
        if fake:
            with_fake_quant(model, params)
        for step in range(200):  # plain gradient descent
            loss = (model(ids) - target).square().mean()
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 3.0 * (1 - step / 200) * parameter.grad
        with_fake_quant(model, params)
        with torch.no_grad():
            return float((model(ids) - target).square().mean())

    assert error(True) < 0.7 * error(False)
