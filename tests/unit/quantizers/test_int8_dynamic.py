"""INT8: bounds against float64, independence of the batch, size, equal bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from tests.fixtures.classifiers import write_classifier
from worker import plugins
from worker.evaluators.base import Encoded, onnx_outputs, open_session
from worker.exporters.onnx import Onnx
from worker.quantizers.int8_dynamic import Int8Dynamic, quantize_columns, quantize_rows
from worker.quantizers.none import NoQuantization


def _linear(path: Path, weight: np.ndarray, bias: np.ndarray | None = None) -> Path:
    """x [R, K] → y = x W (+ b) as an ONNX file: a Gemm with a bias, a MatMul without."""
    inputs = ["x", "w"] if bias is None else ["x", "w", "b"]
    node = helper.make_node("MatMul" if bias is None else "Gemm", inputs, ["y"])
    tensors = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    tensors += [] if bias is None else [numpy_helper.from_array(bias.astype(np.float32), "b")]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["r", k]) for n, k in zip("xy", weight.shape, strict=True))
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    answer: np.ndarray = open_session(path, 1).run(None, {"x": x.astype(np.float32)})[0]
    return answer


@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_stays_within_the_stated_bound(reduce_range: bool, biased: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(48, 40)) * np.logspace(-3, 1, 40)  # columns of very different size
    bias = rng.normal(size=40) if biased else None
    x = rng.normal(size=(17, 48)) * np.logspace(-4, 2, 17)[:, None]  # rows of very different size
    x[3] = 0
    source = _linear(tmp_path / "float.onnx", weight, bias)
    Int8Dynamic(min_elements=1, reduce_range=reduce_range).quantize(source, tmp_path)
    found = _run(tmp_path / "model_int8.onnx", x)
    exact = x @ weight + (0 if bias is None else bias)
    t = np.maximum(np.abs(x).max(1, keepdims=True), 1e-9) / 127
    s = np.abs(weight).max(0, keepdims=True) / (63 if reduce_range else 127)
    bound = (t * np.abs(weight).sum(0) + s * np.abs(x).sum(1, keepdims=True)) / 2 + 48 * t * s / 4
    assert (np.abs(found - exact) <= 1.001 * bound + 1e-5 * np.abs(exact) + 1e-7).all()
    assert np.abs(found - exact).max() > 0  # it was quantized


def test_one_scale_for_the_batch_does_worse_on_uneven_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weight, x = rng.normal(size=(64, 32)), rng.normal(size=(8, 64)) * np.logspace(-3, 1, 8)[:, None]
    source, errors = _linear(tmp_path / "float.onnx", weight), {}
    for kind in ("per_row", "per_tensor"):
        Int8Dynamic(min_elements=1, activations=kind).quantize(source, tmp_path)
        errors[kind] = np.abs(_run(tmp_path / "model_int8.onnx", x)[0] - x[0] @ weight).max()
    assert errors["per_row"] < errors["per_tensor"] / 30


def test_reduced_weights_cannot_saturate_sixteen_bit_sums() -> None:
    values, _ = quantize_columns(np.random.default_rng(0).normal(size=(100, 30)).astype(np.float32), 63)
    assert 2 * 255 * int(np.abs(values.astype(int)).max()) <= 2**15 - 1


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=64), st.sampled_from([63, 127]))
@settings(max_examples=60, deadline=None)
def test_rounding_is_at_most_half_a_step(numbers: list[float], limit: int) -> None:
    column = np.array(numbers, dtype=np.float32).reshape(-1, 1)
    values, scale = quantize_columns(column, limit)
    assert np.abs(values).max() <= limit
    assert (np.abs(values * scale.astype(np.float64) - column) <= scale * 0.501 + 1e-30).all()
    rows, row_scale = quantize_rows(column.T.copy())
    assert (np.abs(rows * row_scale.astype(np.float64) - column.T) <= row_scale * 0.501 + 1e-30).all()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weight = np.ones((4, 4))
    weight[1, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or Inf"):
        Int8Dynamic(min_elements=1).quantize(_linear(tmp_path / "float.onnx", weight), tmp_path)


def _texts(n: int = 24) -> Encoded:
    rng = np.random.default_rng(5)
    return Encoded([[int(t) for t in rng.integers(5, 200, size=k)] for k in rng.integers(2, 40, size=n)], 0)


def _quantized(tmp_path: Path, **params: Any) -> tuple[Path, Path, Any]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    source = Onnx().export(write_classifier(tmp_path / "model", "bert"), out)
    report = Int8Dynamic(min_elements=512, **params).quantize(source, out)
    return source, out / report.file, report


def test_a_texts_answer_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    _, target, _ = _quantized(tmp_path)
    session, rows = open_session(target, 1), _texts()
    alone, together = onnx_outputs(session, rows, 1), onnx_outputs(session, rows, 24)
    assert np.abs(alone.logits - together.logits).max() < 1e-4
    assert (alone.embedding * together.embedding).sum(1).min() > 0.999999


def test_an_encoder_keeps_its_answers_and_loses_three_quarters_of_its_bytes(tmp_path: Path) -> None:
    source, target, report = _quantized(tmp_path)
    rows = _texts()
    exact, found = (onnx_outputs(open_session(p, 1), rows, 8) for p in (source, target))
    assert (exact.embedding * found.embedding).sum(1).min() > 0.99
    assert np.corrcoef(exact.logits.ravel(), found.logits.ravel())[0, 1] > 0.99
    assert report.bytes == target.stat().st_size
    assert len(report.quantized) == 2 * 6 + 1 + 2  # six products a layer, the pooler, words and positions
    weights = {t.name: t for t in onnx.load(target).graph.initializer}
    stored = sum(numpy_helper.to_array(t).nbytes for t in weights.values())
    original = sum(numpy_helper.to_array(t).nbytes for t in onnx.load(source).graph.initializer)
    assert stored < 0.4 * original  # so small a model has many scales
    large = [t for t in weights.values() if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= 512]
    assert large == []


def test_embeddings_can_stay_in_float(tmp_path: Path) -> None:
    _, _, report = _quantized(tmp_path, embeddings=False)
    assert sum("embedding" in name for name in report.kept_float) == 3


@pytest.mark.parametrize("activations", ["per_row", "per_tensor"])
def test_the_same_graph_gives_the_same_bytes(activations: str, tmp_path: Path) -> None:
    source, target, _ = _quantized(tmp_path, activations=activations)
    first = target.read_bytes()
    Int8Dynamic(min_elements=512, activations=activations).quantize(source, target.parent)
    assert target.read_bytes() == first


def test_none_leaves_the_float_graph_alone(tmp_path: Path) -> None:
    source = _linear(tmp_path / "float.onnx", np.ones((4, 4)))
    report = NoQuantization().quantize(source, tmp_path)
    assert (report.file, report.bytes) == (None, source.stat().st_size)


def test_both_are_found_and_refuse_unknown_parameters() -> None:
    found = plugins.discover("quantizers")
    assert found.keys() >= {"none", "int8_dynamic"}
    for cls in found.values():
        with pytest.raises(ValidationError):
            cls(bits=3)
