"""Small ONNX graphs and encoders to quantize, and rows to calibrate on."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from worker.exporters.onnx import Onnx
from worker.heads.base import About, Head
from worker.heads.registry import HEADS
from worker.int8.error import open_session
from worker.quantizers.base import Calibration

ABOUT = {
    "text-classification": About("text-classification", "single_label", tuple("abcde"), 64),
    "token-classification": About("token-classification", "tokens", ("O", "B-X", "I-X"), 64),
    "embedding": About("embedding", "embedding", (), 64),
}


def head_of(task: str) -> Head:
    return HEADS[ABOUT[task].task](ABOUT[task])


def save_graph(path: Path, nodes: list[Any], tensors: dict[str, np.ndarray], inputs: list[Any], outputs: list[Any]) -> Path:
    made = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def floats(name: str, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def linear(path: Path, weight: np.ndarray, bias: np.ndarray | None = None) -> Path:
    """x [R, K] → y = x W (+ b): a Gemm with a bias, a MatMul without."""
    node = helper.make_node("MatMul" if bias is None else "Gemm", ["x", "w"] if bias is None else ["x", "w", "b"], ["y"])
    tensors = {"w": weight.astype(np.float32)} | ({} if bias is None else {"b": bias.astype(np.float32)})
    return save_graph(path, [node], tensors, [floats("x", "r", weight.shape[0])], [floats("y", "r", weight.shape[1])])


def run(path: Path, **feed: np.ndarray) -> np.ndarray:
    answer: np.ndarray = open_session(path).run(None, feed)[0]
    return answer


def write_encoder(folder: Path, config: Any, task: str = "text-classification") -> Path:
    """A transformers folder with weights far from the origin, as trained ones are, and its float graph beside it."""
    head = head_of(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = head.make(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(4)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder / "torch")
    return Onnx().export(folder / "torch", folder, head)


def batches(rows: int = 48, size: int = 16, longest: int = 24, seed: int = 5, vocabulary: int = 200) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    made = []
    for start in range(0, rows, size):
        lengths = rng.integers(2, longest + 1, size=min(size, rows - start))
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        made.append({"input_ids": rng.integers(5, vocabulary, size=mask.shape) * mask, "attention_mask": mask})
    return made


def one_by_one(feed: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Its rows, each alone and without padding."""
    lengths = feed["attention_mask"].sum(axis=1)
    return [{name: value[n : n + 1, :length] for name, value in feed.items()} for n, length in enumerate(lengths)]


def calibration(path: Path, **options: Any) -> Calibration:
    return Calibration(path, batches(**options))
