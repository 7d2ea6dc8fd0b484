"""What counts as a matrix to quantize, and what its bias is."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.unit.quantizers.graphs import calibration, floats, run, save_graph
from worker.int8.matrices import FloatGraph, find
from worker.int8.params import MatrixParams
from worker.quantizers.int8_dynamic import Int8Dynamic

W = np.random.default_rng(3).normal(size=(16, 8)).astype(np.float32)
B = np.random.default_rng(4).normal(size=8).astype(np.float32)
X = np.random.default_rng(5).normal(size=(5, 16)).astype(np.float32)


def _graph(path: Path, nodes: list[object], outputs: list[str], **tensors: np.ndarray) -> Path:
    return save_graph(path, nodes, {"w": W, "b": B} | tensors, [floats("x", "r", 16)], [floats(o, "r", 8) for o in outputs])


def test_an_added_bias_belongs_to_its_product(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["b", "p"], ["y"])]
    path = _graph(tmp_path / "m.onnx", nodes, ["y"])
    (found,), kept = find(FloatGraph(path), MatrixParams(min_elements=1))
    assert (found.bias, found.output, found.nodes, found.name, kept) == ("b", "y", (0, 1), "w", [])
    Int8Dynamic(min_elements=1).quantize(path, tmp_path, calibration(path))
    assert np.abs(run(tmp_path / "model_int8.onnx", x=X) - (X @ W + B)).max() < 0.2


@pytest.mark.parametrize("second", ["output", "reader"])
def test_a_product_that_something_else_needs_keeps_its_own_tensor(second: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    if second == "reader":
        nodes.append(helper.make_node("Neg", ["p"], ["z"]))
    path = _graph(tmp_path / "m.onnx", nodes, ["y", "p" if second == "output" else "z"])
    (found,), _ = find(FloatGraph(path), MatrixParams(min_elements=1))
    assert (found.bias, found.output, found.nodes) == ("", "p", (0,))


def test_an_addition_that_is_no_bias_is_left_alone(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "full"], ["y"])]
    path = _graph(tmp_path / "m.onnx", nodes, ["y"], full=np.ones((1, 8), np.float32))
    (found,), _ = find(FloatGraph(path), MatrixParams(min_elements=1))
    assert (found.bias, found.nodes) == ("", (0,))


@pytest.mark.parametrize("attributes", [{"alpha": 2.0}, {"beta": 0.5}, {"transA": 1}])
def test_a_gemm_that_does_more_than_multiply_and_add_stays_in_float(attributes: dict[str, float], tmp_path: Path) -> None:
    path = _graph(tmp_path / "m.onnx", [helper.make_node("Gemm", ["x", "w", "b"], ["y"], **attributes)], ["y"])
    assert find(FloatGraph(path), MatrixParams(min_elements=1)) == ([], ["w"])


def test_small_matrices_stay_in_float_by_one_rule(tmp_path: Path) -> None:
    path = _graph(tmp_path / "m.onnx", [helper.make_node("Gemm", ["x", "w", "b"], ["y"])], ["y"])
    assert find(FloatGraph(path), MatrixParams(min_elements=129)) == ([], ["w"])
    assert len(find(FloatGraph(path), MatrixParams(min_elements=128))[0]) == 1
    params = MatrixParams(min_elements=128, embeddings=False)
    assert (params.takes_product(128), params.takes_product(127), params.takes_table(128)) == (True, False, False)


def test_a_transposed_matrix_is_quantized_along_its_outputs(tmp_path: Path) -> None:
    columns = (W * np.logspace(-3, 1, 8, dtype=np.float32)).T.copy()
    path = _graph(tmp_path / "m.onnx", [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], ["y"], w=columns)
    Int8Dynamic(min_elements=1).quantize(path, tmp_path, calibration(path))
    off = np.abs(run(tmp_path / "model_int8.onnx", x=X) - (X @ columns.T + B)).max(0)
    assert (off <= 0.15 * np.abs(columns).max(1)).all()  # relative to each output's own size


def test_one_matrix_may_be_used_twice(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Neg", ["x"], ["n"])]
    nodes += [helper.make_node("MatMul", ["n", "w"], ["q"]), helper.make_node("Sub", ["p", "q"], ["y"])]
    path = _graph(tmp_path / "m.onnx", nodes, ["y"])
    report = Int8Dynamic(min_elements=1).quantize(path, tmp_path, calibration(path))
    assert report.quantized == ["w", "w"]
    assert np.abs(run(tmp_path / "model_int8.onnx", x=X) - 2 * X @ W).max() < 0.3
