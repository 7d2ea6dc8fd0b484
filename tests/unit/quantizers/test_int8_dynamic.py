"""Row scales: bounds against float64, independence of the batch, size, equal bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from pydantic import ValidationError

from tests.unit.quantizers.graphs import batches, calibration, linear, one_by_one, run
from worker import plugins
from worker.int8.error import answers, output_error
from worker.quantizers.int8_dynamic import Int8Dynamic
from worker.quantizers.none import NoQuantization


@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_stays_within_the_stated_bound(reduce_range: bool, biased: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(48, 40)) * np.logspace(-3, 1, 40)  # columns of very different size
    bias = rng.normal(size=40) if biased else None
    x = rng.normal(size=(17, 48)) * np.logspace(-4, 2, 17)[:, None]  # rows of very different size
    x[3] = 0
    source = linear(tmp_path / "float.onnx", weight, bias)
    Int8Dynamic(min_elements=1, reduce_range=reduce_range).quantize(source, tmp_path, calibration(source))
    found = run(tmp_path / "model_int8.onnx", x=x.astype(np.float32))
    exact = x @ weight + (0 if bias is None else bias)
    t = np.maximum(np.abs(x).max(1, keepdims=True), 1e-9) / 127
    largest = np.abs(weight[0::2]) + np.abs(weight[1::2]) if reduce_range else np.abs(weight)
    s = largest.max(0, keepdims=True) / 127
    bound = (t * np.abs(weight).sum(0) + s * np.abs(x).sum(1, keepdims=True)) / 2 + 48 * t * s / 4
    assert (np.abs(found - exact) <= 1.001 * bound + 1e-5 * np.abs(exact) + 1e-7).all()
    assert np.abs(found - exact).max() > 0  # it was quantized


def test_one_scale_for_the_batch_does_worse_on_uneven_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weight, x = rng.normal(size=(64, 32)), (rng.normal(size=(8, 64)) * np.logspace(-3, 1, 8)[:, None]).astype(np.float32)
    source, errors = linear(tmp_path / "float.onnx", weight), {}
    for kind in ("per_row", "per_tensor"):
        Int8Dynamic(min_elements=1, activations=kind).quantize(source, tmp_path, calibration(source))
        errors[kind] = np.abs(run(tmp_path / "model_int8.onnx", x=x)[0] - x[0] @ weight).max()
    assert errors["per_row"] < errors["per_tensor"] / 30


def _quantized(encoder: Path, out: Path, **params: Any) -> tuple[Path, Any]:
    report = Int8Dynamic(min_elements=512, **params).quantize(encoder, out, calibration(encoder))
    return out / report.file, report


def test_a_texts_answer_does_not_depend_on_its_batch(encoder: Path, tmp_path: Path) -> None:
    target, _ = _quantized(encoder, tmp_path)
    feed = batches(16)[0]
    together, *single = answers(target, [feed, *one_by_one(feed)])
    for n, answer in enumerate(single):
        assert np.abs(answer["logits"][0] - together["logits"][n]).max() < 1e-4
        assert answer["embedding"][0] @ together["embedding"][n] > 0.999999


def test_an_encoder_keeps_its_answers_and_loses_three_quarters_of_its_bytes(encoder: Path, tmp_path: Path) -> None:
    target, report = _quantized(encoder, tmp_path)
    feeds = batches()
    error = output_error(answers(encoder, feeds), answers(target, feeds))
    assert 0 < error["relative"] < 0.05
    assert error["cosine"] > 0.998
    assert report.bytes == target.stat().st_size
    assert len(report.quantized) == 2 * 6 + 1 + 2  # six products a layer, the pooler, words and positions
    assert "bert.encoder.layer.1.attention.self.key" in report.quantized
    weights = {t.name: t for t in onnx.load(target).graph.initializer}
    stored = sum(numpy_helper.to_array(t).nbytes for t in weights.values())
    original = sum(numpy_helper.to_array(t).nbytes for t in onnx.load(encoder).graph.initializer)
    assert stored < 0.4 * original  # so small a model has many scales
    large = [t for t in weights.values() if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= 512]
    assert large == []


def test_embeddings_can_stay_in_float(encoder: Path, tmp_path: Path) -> None:
    _, report = _quantized(encoder, tmp_path, embeddings=False)
    assert sum("embedding" in name for name in report.kept_float) == 3


@pytest.mark.parametrize("activations", ["per_row", "per_tensor"])
def test_the_same_graph_gives_the_same_bytes(activations: str, encoder: Path, tmp_path: Path) -> None:
    target, _ = _quantized(encoder, tmp_path, activations=activations)
    first = target.read_bytes()
    _quantized(encoder, tmp_path, activations=activations)
    assert target.read_bytes() == first


def test_none_leaves_the_float_graph_alone(tmp_path: Path) -> None:
    source = linear(tmp_path / "float.onnx", np.ones((4, 4)))
    report = NoQuantization().quantize(source, tmp_path, calibration(source))
    assert (report.file, report.bytes) == (None, source.stat().st_size)


def test_every_scheme_is_found_and_refuses_unknown_parameters() -> None:
    found = plugins.discover("quantizers")
    assert found.keys() == {"none", "int8_dynamic", "int8_static", "int8_qat", "int4_weight_only"}
    assert {name for name, cls in found.items() if cls.trains} == {"int8_qat"}
    for cls in found.values():
        with pytest.raises(ValidationError):
            cls(bits=3)
