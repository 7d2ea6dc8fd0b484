"""4-bit tables as nodes of a graph: against the values themselves, for ids of any shape, and what they save."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.unit.quantizers.graphs import calibration, floats, run, save_graph
from worker.int8.error import answers, output_error
from worker.int8.values import quantize_blocks
from worker.quantizers.int4_weight_only import Int4WeightOnly
from worker.quantizers.int8_dynamic import Int8Dynamic


@pytest.mark.parametrize("ids", [[3, 0, 49], [[3, 0], [49, 7]], [[[1]], [[2]], [[3]]]])
def test_looked_up_rows_are_the_unpacked_ones(ids: list[object], tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(50, 48)).astype(np.float32)
    asked = np.array(ids, dtype=np.int64)
    shape = ["d"] * asked.ndim
    node, ask = helper.make_node("Gather", ["e", "ids"], ["y"]), helper.make_tensor_value_info("ids", 7, shape)
    path = save_graph(tmp_path / "t.onnx", [node], {"e": table}, [ask], [floats("y", *shape, 48)])
    report = Int4WeightOnly(min_elements=1).quantize(path, tmp_path, calibration(path))
    packed, scale = quantize_blocks(table, 24)
    codes = np.concatenate([packed & 15, packed >> 4], axis=2).astype(np.float32)
    exact = ((codes - 8) * scale.astype(np.float32)).reshape(50, 48)
    assert np.array_equal(run(tmp_path / report.file, ids=asked), exact[asked])
    assert 0.02 < np.linalg.norm(exact - table) / np.linalg.norm(table) < 0.12


def test_an_encoder_with_a_four_bit_table(encoder: Path, tmp_path: Path) -> None:
    """Half the bytes of the table again; the answers move, but not far. min_elements 49: 128 * 49 <= 200 * 32, not 66 * 32."""
    found, errors = {}, {}
    feeds = calibration(encoder).feeds
    for tables in ("int8", "int4"):
        report = Int8Dynamic(min_elements=49, tables=tables).quantize(encoder, tmp_path, calibration(encoder))
        held = onnx.load(tmp_path / report.file).graph.initializer
        found[tables] = sum(numpy_helper.to_array(tensor).nbytes for tensor in held)
        errors[tables] = output_error(answers(encoder, feeds), answers(tmp_path / report.file, feeds))
    saved = 200 * (32 + 4) - 200 * (16 + 2)  # bytes of a row's values and scale, before and after
    assert found["int8"] - found["int4"] == pytest.approx(saved, abs=32)  # a few constants unpack them
    assert errors["int8"]["relative"] < errors["int4"]["relative"] < 0.3
    assert errors["int4"]["cosine"] > 0.97


def test_weight_only_leaves_products_in_float(encoder: Path, tmp_path: Path) -> None:
    report = Int4WeightOnly(min_elements=49).quantize(encoder, tmp_path, calibration(encoder))
    assert report.quantized == [f"bert.embeddings.{kind}_embeddings" for kind in ("word", "token_type", "position")]
    assert "bert.encoder.layer.0.output.dense" in report.kept_float
