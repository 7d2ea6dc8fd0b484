"""The output error against its definitions, on real rows only, and what it does with answers as wide as a vocabulary."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.unit.quantizers.graphs import floats, save_graph
from worker.int8.error import answers, output_error

RNG = np.random.default_rng


def test_figures_against_their_definitions() -> None:
    exact = {"logits": RNG(0).normal(size=(50, 6)), "embedding": RNG(1).normal(size=(50, 9))}
    close = {name: value + 0.1 * RNG(2).normal(size=value.shape) for name, value in exact.items()}
    found = output_error([exact], [close])
    p, q = (np.exp(side["logits"]) / np.exp(side["logits"]).sum(1, keepdims=True) for side in (exact, close))
    kl = [sum(a * np.log(a / b) for a, b in zip(row, other, strict=True)) for row, other in zip(p, q, strict=True)]
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(exact["embedding"], close["embedding"], strict=True)]
    assert found["kl"] == pytest.approx(np.mean(kl), rel=1e-9)
    assert found["cosine"] == pytest.approx(np.mean(cosines), rel=1e-9)
    assert found["agreement"] == np.mean(exact["logits"].argmax(1) == close["logits"].argmax(1))
    off = [np.sqrt(((exact[n] - close[n]) ** 2).sum() / (exact[n] ** 2).sum()) for n in exact]
    assert found["relative"] == pytest.approx(max(off), rel=1e-9)


def test_a_single_score_has_no_distribution_and_what_is_not_finite_is_the_worst() -> None:
    exact = {"logits": np.ones((4, 1))}
    assert output_error([exact], [{"logits": np.full((4, 1), 1.5)}]) == {"relative": 0.5}
    assert output_error([exact], [{"logits": np.full((4, 1), np.nan)}])["relative"] == float("inf")


def test_answers_are_those_of_real_tokens_and_bounded(tmp_path: Path) -> None:
    """Every token answers with the row of its id; 20 x 25 tokens with 30,000 values each would be 60 MB."""
    table = np.repeat(np.arange(100, dtype=np.float32)[:, None], 30_000, axis=1)
    inputs = [helper.make_tensor_value_info(name, 7, ["b", "t"]) for name in ("input_ids", "attention_mask")]
    nodes = [helper.make_node("Gather", ["e", "input_ids"], ["logits"]), helper.make_node("Not", ["is"], ["unused"])]
    nodes.insert(1, helper.make_node("Cast", ["attention_mask"], ["is"], to=9))
    path = save_graph(tmp_path / "m.onnx", nodes, {"e": table}, inputs, [floats("logits", "b", "t", 30_000)])
    mask = np.zeros((20, 25), np.int64)
    mask[:, :5] = 1
    ids = np.where(mask > 0, 7, 99)
    feeds = [{"input_ids": ids, "attention_mask": mask}, {"input_ids": ids[:2], "attention_mask": mask[:2]}]
    (first, second) = answers(path, feeds)
    assert set(np.unique(first["logits"])) == set(np.unique(second["logits"])) == {7.0}
    assert first["logits"].shape[0] in range(20, 36)  # of 100
    assert second["logits"].shape[0] == 10
    assert answers(path, feeds[:1])[0]["logits"].shape == first["logits"].shape  # whatever else is asked
