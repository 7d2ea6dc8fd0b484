"""Speed and memory: what is counted, in which order, and that a slower or larger model shows as one."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from worker.evaluators import latency, memory
from worker.rows import Rows


class _Session:
    """Stands in for a runtime: takes a fixed time a row and notes who was asked when."""

    def __init__(self, name: str, seconds_per_row: float, asked: list[tuple[str, int]]) -> None:
        self.name, self.cost, self.asked = name, seconds_per_row, asked

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in ("input_ids", "attention_mask")]

    def run(self, outputs: list[str] | None, inputs: dict[str, Any]) -> list[np.ndarray]:
        rows = len(inputs["input_ids"])
        self.asked.append((self.name, rows))
        until = time.perf_counter() + self.cost * rows
        while time.perf_counter() < until:
            pass
        return [np.zeros((rows, 2), np.float32), np.zeros((rows, 4), np.float32)]


ROWS = Rows(list(range(40)), [[1] * (3 + n % 7) for n in range(40)], [0] * 40, 0)


def test_a_slower_model_shows_and_rounds_are_interleaved() -> None:
    asked: list[tuple[str, int]] = []
    subjects = {n: latency.Subject(_Session(n, c, asked), ROWS) for n, c in (("slow", 4e-4), ("fast", 1e-4))}
    stopped: list[None] = []
    found = latency.measure(subjects, budget_seconds=20, rounds=4, rows=32, stop=lambda: stopped.append(None))
    assert found["fast"]["throughput"] / found["slow"]["throughput"] == pytest.approx(4, rel=0.4)
    assert 0.4 <= found["slow"]["latency_ms"]["p50"] <= found["slow"]["latency_ms"]["p99"]
    assert found["slow"]["rounds"] == 4
    assert found["slow"]["texts"] == found["fast"]["texts"] == 32
    assert found["fast"]["throughput"] == max(found["fast"]["rows_per_second"].values())
    assert set(found["fast"]["rows_per_second"]) == {"1", "8", "32"}
    order = [name for name, rows in asked if rows == 32]
    assert order == ["slow", "fast"] * 4
    assert stopped, "a measurement must be cancellable"


def test_a_slow_model_gets_fewer_texts_and_still_three_rounds() -> None:
    asked: list[tuple[str, int]] = []
    found = latency.measure({"slow": latency.Subject(_Session("slow", 5e-3, asked), ROWS)}, budget_seconds=0.2, rounds=7)
    assert found["slow"]["rounds"] == 3
    assert found["slow"]["texts"] == 8


def test_nothing_to_measure() -> None:
    assert latency.measure({}) == {}


def _model(path: Path, megabytes: int) -> Path:
    table = np.zeros((megabytes * 250, 1000), np.float32) + np.arange(1000, dtype=np.float32)
    node = helper.make_node("Gather", ["table", "input_ids"], ["logits"])
    keep = helper.make_node("Identity", ["attention_mask"], ["embedding"])
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "t", 1000])]
    outputs += [helper.make_tensor_value_info("embedding", TensorProto.INT64, ["b", "t"])]
    graph = helper.make_graph([node, keep], "g", inputs, outputs, [numpy_helper.from_array(table, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_follows_the_weights(tmp_path: Path) -> None:
    small, large = (memory.peak_memory(_model(tmp_path / f"{m}.onnx", m), 2, 8) for m in (1, 60))
    assert small is not None
    assert large is not None
    assert large - small > 55e6
    assert large < 400e6, "the runtime itself, and this process, do not count"


def test_memory_of_what_cannot_be_loaded_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert memory.peak_memory(tmp_path / "broken.onnx") is None
