"""Constant scales: bounds, independence of batch and padding, which range is chosen, which matrices fall back and why."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.errors import InvalidRequest
from tests.unit.quantizers.graphs import batches, calibration, floats, run, save_graph
from worker.int8.error import answers, output_error
from worker.int8.ranges import observe
from worker.int8.values import Affine
from worker.quantizers.base import Calibration
from worker.quantizers.int8_static import Int8Static

RNG = np.random.default_rng


def _masked(values: np.ndarray) -> dict[str, np.ndarray]:
    """A feed of a graph that takes numbers instead of tokens; all of them are real."""
    return {"x": values.astype(np.float32), "attention_mask": np.ones(values.shape[:2], np.int64)}


def _chain(path: Path, *weights: np.ndarray, after: str = "Relu") -> Path:
    """x [B, T, K] → MatMul → Relu → MatMul → …; the mask is taken and not used."""
    nodes, tensor = [helper.make_node("Cast", ["attention_mask"], ["unused"], to=1)], "x"
    for n in range(len(weights)):
        nodes.append(helper.make_node("MatMul", [tensor, f"w{n}"], [f"p{n}"]))
        tensor = f"p{n}"
        if n < len(weights) - 1:
            nodes.append(helper.make_node(after, [f"p{n}"], [f"a{n}"]))
            tensor = f"a{n}"
    inputs = [floats("x", "b", "t", len(weights[0])), helper.make_tensor_value_info("attention_mask", 7, ["b", "t"])]
    outputs = [floats(tensor, "b", "t", weights[-1].shape[1])]
    return save_graph(path, nodes, {f"w{n}": w.astype(np.float32) for n, w in enumerate(weights)}, inputs, outputs)


def _static(path: Path, feeds: list[dict[str, np.ndarray]], out: Path, **params: Any) -> Any:
    return Int8Static(**{"min_elements": 1, "min_rows": 1} | params).quantize(path, out, Calibration(path, feeds))


@pytest.mark.parametrize("reduce_range", [True, False])
def test_a_product_stays_within_its_bound(reduce_range: bool, tmp_path: Path) -> None:
    weight = RNG(0).normal(size=(48, 40)) * np.logspace(-3, 1, 40)
    x = RNG(1).normal(size=(2, 9, 48)) + 0.7  # not symmetric about zero
    path = _chain(tmp_path / "m.onnx", weight)
    _static(path, [_masked(x)], tmp_path, range="max", reduce_range=reduce_range)
    found = run(tmp_path / "model_int8.onnx", **_masked(x))
    a = (x.max() - x.min()) / 255
    largest = np.abs(weight[0::2]) + np.abs(weight[1::2]) if reduce_range else np.abs(weight)
    s = largest.max(0) / 127
    bound = (1.01 * a * np.abs(weight).sum(0) + s * np.abs(x).sum(2, keepdims=True)) / 2 + 48 * a * s / 4
    off = np.abs(found - x @ weight)
    assert (off <= 1.001 * bound + 1e-6).all()
    assert off.max() > 0


def test_answers_do_not_depend_on_batch_or_padding(encoder: Path, tmp_path: Path) -> None:
    report = Int8Static(min_elements=512).quantize(encoder, tmp_path, calibration(encoder))
    feed = batches(16, seed=9)[0]
    wide = {name: np.pad(value, ((0, 0), (0, 7))) for name, value in feed.items()}
    alone = [
        {name: value[n : n + 1, :length] for name, value in feed.items()} for n, length in enumerate(feed["attention_mask"].sum(1))
    ]
    together, padded, *single = answers(tmp_path / report.file, [feed, wide, *alone])
    for name in together:
        assert np.abs(together[name] - padded[name]).max() < 1e-5
        assert np.abs(together[name] - np.concatenate([answer[name] for answer in single])).max() < 1e-5


def test_an_encoder_keeps_its_answers(encoder: Path, tmp_path: Path) -> None:
    report = Int8Static(min_elements=512, max_error=1).quantize(encoder, tmp_path, calibration(encoder))
    feeds = batches(seed=77)  # not those of the calibration
    error = output_error(answers(encoder, feeds), answers(tmp_path / report.file, feeds))
    assert 0 < error["relative"] < 0.1
    assert error["cosine"] > 0.995
    assert report.fallbacks == []
    assert len(report.quantized) == 2 * 6 + 1 + 2
    assert report.error["relative"] == report.error["all_static"]
    operators = [node.op_type for node in onnx.load(tmp_path / report.file).graph.node]
    assert operators.count("MatMulIntegerToFloat") == 13
    assert operators.count("QuantizeLinear") == 2 * 4 + 1  # query, key and value read one
    assert not {"ReduceMax", "DynamicQuantizeMatMul"} & set(operators)


def test_padding_does_not_widen_a_range(tmp_path: Path) -> None:
    path = _chain(tmp_path / "m.onnx", np.eye(4))
    feed = _masked(np.array([[[1.0, -2.0, 0.5, 0.0], [900.0, -900.0, 0.0, 0.0]]]))
    feed["attention_mask"][0, 1] = 0
    seen = observe(path, [feed], ["x"], tmp_path / "scratch.onnx")["x"]
    assert (seen.low, seen.high, seen.counts_N.sum()) == (-2.0, 1.0, 4)


def test_ranges_against_brute_force(tmp_path: Path) -> None:
    values = RNG(2).laplace(size=(4, 100, 500)).astype(np.float32)  # long tails: clipping pays
    values[:, :, 0] += 3
    path = _chain(tmp_path / "m.onnx", np.ones((500, 1)))
    ranges = observe(path, [_masked(v[None]) for v in values], ["x"], tmp_path / "scratch.onnx")["x"].ranges()

    def cost(affine: Affine) -> float:
        return float(np.square(affine.rounded(values).astype(np.float64) - values).mean())

    low, high = float(values.min()), float(values.max())
    grid = [Affine.covering(low * f, high * g) for f in np.linspace(0.4, 1, 13) for g in np.linspace(0.4, 1, 13)]
    assert ranges["max"] == Affine.covering(low, high)
    assert cost(ranges["mse"]) <= 1.05 * min(map(cost, grid))
    assert cost(ranges["mse"]) < 0.8 * cost(ranges["max"])
    top = (255 - ranges["percentile"].zero) * ranges["percentile"].scale
    assert np.quantile(values, 1 - 3e-5) < top < high


@pytest.mark.parametrize("weight_of_it", [1.0, 0.0])
def test_the_range_is_the_one_with_the_least_output_error(weight_of_it: float, tmp_path: Path) -> None:
    """One huge value in 128,000: where the product reads it, it must not be clipped; where it does not, it had better be."""
    x = RNG(3).normal(size=(1, 4000, 32))
    x[0, 0, 0] = 300
    weight = RNG(4).normal(size=(32, 8)) * 0.1
    weight[0] = weight_of_it
    path, error = _chain(tmp_path / "m.onnx", weight), {}
    for method in ("max", "mse", "percentile", "auto"):
        error[method] = _static(path, [_masked(x)], tmp_path, range=method, max_error=9).error["relative"]
    assert error["auto"] == min(error.values())
    assert (error["percentile"] < 0.2 * error["max"]) == (weight_of_it == 0)
    assert (error["max"] < 0.2 * error["percentile"]) == (weight_of_it == 1)


def test_what_falls_back_is_what_costs_most_and_the_report_says_so(tmp_path: Path) -> None:
    """The rows that `bad` reads differ a thousandfold in size, so one scale for all of them does not fit the small ones."""
    path = tmp_path / "m.onnx"
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["unused"], to=1),
        helper.make_node("MatMul", ["x", "good"], ["g"]),
        helper.make_node("Mul", ["x", "sizes"], ["uneven"]),
        helper.make_node("MatMul", ["uneven", "bad"], ["h"]),
        helper.make_node("Div", ["h", "sizes"], ["n"]),
        helper.make_node("Add", ["g", "n"], ["y"]),
    ]
    sizes = np.logspace(0, 3, 30).reshape(1, 30, 1).astype(np.float32)
    tensors = {"good": RNG(8).normal(size=(16, 8)), "bad": RNG(9).normal(size=(16, 8)), "sizes": sizes}
    inputs = [floats("x", "b", 30, 16), helper.make_tensor_value_info("attention_mask", 7, ["b", 30])]
    made = {name: value.astype(np.float32) for name, value in tensors.items()}
    save_graph(path, nodes, made, inputs, [floats("y", "b", 30, 8)])
    feeds = [_masked(RNG(10).normal(size=(2, 30, 16)))]
    report = _static(path, feeds, tmp_path, max_error=0.05)
    assert [(f.matrix, f.form) for f in report.fallbacks] == [("bad", "rows")]
    step = report.fallbacks[0]
    assert step.error_before == report.error["all_static"] > 0.05
    assert step.error_after == report.error["relative"] < 0.05
    assert report.quantized == ["good", "bad"]
    again = output_error(answers(path, feeds), answers(tmp_path / report.file, feeds))
    assert again["relative"] == report.error["relative"]
    assert json.loads(json.dumps(report.to_json()))["fallbacks"][0]["matrix"] == "bad"


def test_float_is_the_last_resort_and_has_a_budget(tmp_path: Path) -> None:
    """An exact answer is asked for: row scales do not suffice, so matrices stay in float until the budget is spent."""
    path = _chain(tmp_path / "m.onnx", *(RNG(n).normal(size=(16, 16)) for n in range(4)), after="Identity")
    feeds = [_masked(RNG(20).normal(size=(2, 30, 16)))]
    for share, most in ((0.0, 0), (0.3, 1), (0.5, 2), (1.0, 4)):
        report = _static(path, feeds, tmp_path, max_error=0, keep_float_fraction=share)
        assert len(report.kept_float) <= most
        assert len(report.kept_float) + len(report.quantized) == 4
        errors = [report.error["all_static"], *(f.error_after for f in report.fallbacks)]
        assert errors == sorted(errors, reverse=True)
        if share == 1.0:
            assert report.error["relative"] < 0.5 * report.error["all_static"]


def test_the_same_rows_give_the_same_bytes(encoder: Path, tmp_path: Path) -> None:
    chain = _chain(tmp_path / "m.onnx", *(RNG(n).normal(size=(16, 16)) for n in range(3)))
    feeds = [_masked(RNG(20).normal(size=(2, 30, 16)))]
    out = tmp_path / "out"
    out.mkdir()
    for source, rows, options in (
        (encoder, batches(32), {"max_error": 1}),
        (chain, feeds, {"max_error": 0, "min_elements": 1, "keep_float_fraction": 1}),
    ):
        written = []
        for _ in range(2):
            report = Int8Static(**{"min_elements": 512, "min_rows": 1} | options).quantize(source, out, Calibration(source, rows))
            written.append((out / report.file).read_bytes())
        assert written[0] == written[1]
        assert bool(report.fallbacks) == (source == chain)
    assert [p.name for p in out.iterdir()] == [report.file]  # no candidates left behind


def test_too_few_rows_are_refused_with_a_way_out(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Int8Static().quantize(encoder, tmp_path, calibration(encoder, rows=31))
    assert "there are 31" in caught.value.message
    assert caught.value.hint is not None
    assert "int8_dynamic" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
