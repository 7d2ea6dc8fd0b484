"""Where a float graph multiplies by a constant matrix or looks rows up in one."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from worker.int8.params import MatrixParams
from worker.int8.values import Floats, quantize_blocks, quantize_columns, quantize_rows


@dataclass(frozen=True)
class Matrix:
    """One use of a constant matrix. `output` identifies it: a matrix may be used twice, a tensor is written once."""

    kind: Literal["product", "table"]
    name: str  # for reports: the module's path
    weight: str  # the initializer
    transposed: bool  # the initializer is [N, K]
    source: str  # what is multiplied, or the ids that are looked up
    bias: str  # initializer, or empty
    output: str
    nodes: tuple[int, ...]  # positions of the nodes that compute it in float; none: they do more than can be replaced
    shape: tuple[int, int]  # of the initializer

    @property
    def elements(self) -> int:
        return self.shape[0] * self.shape[1]


class FloatGraph:
    """A float graph apart from its initializers, so that INT8 forms of it are made without copying them."""

    def __init__(self, path: Path) -> None:
        self.shell: Any = onnx.load(str(path))
        self.tensors: dict[str, Any] = {}
        for tensor in self.shell.graph.initializer:
            self.tensors[tensor.name] = TensorProto.FromString(tensor.SerializeToString())
        del self.shell.graph.initializer[:]
        self.nodes: list[Any] = list(self.shell.graph.node)
        # Quantized once per graph, however many forms of it are tried.
        self.columns = cache(lambda name, transposed, reduce: quantize_columns(self._value(name, transposed), reduce))
        self.rows = cache(lambda name: quantize_rows(self.value(name)))
        self.blocks = cache(lambda name, block: quantize_blocks(self.value(name), block))

    def value(self, name: str) -> Floats:
        return np.asarray(numpy_helper.to_array(self.tensors[name]))

    def _value(self, name: str, transposed: bool) -> Floats:
        return self.value(name).T if transposed else self.value(name)

    def matrix_shape(self, name: str) -> tuple[int, int] | None:
        """Of a constant float matrix; None for anything else."""
        found = self.tensors.get(name)
        if found is None or found.data_type != TensorProto.FLOAT or len(found.dims) != 2:
            return None
        return int(found.dims[0]), int(found.dims[1])


def find(graph: FloatGraph, params: MatrixParams) -> tuple[list[Matrix], list[str]]:
    """(matrices to quantize, names of those that stay in float), in the graph's order."""
    users: dict[str, list[int]] = {name.name: [-1] for name in graph.shell.graph.output}
    for position, node in enumerate(graph.nodes):
        for name in node.input:
            users.setdefault(name, []).append(position)
    chosen, kept = [], []
    for position, node in enumerate(graph.nodes):
        found = _product(graph, node, position, users) if node.op_type in ("MatMul", "Gemm") else _table(graph, node, position)
        if found is None:
            continue
        takes = params.takes_product if found.kind == "product" else params.takes_table
        if takes(found.elements) and found.nodes:
            chosen.append(found)
        else:
            kept.append(found.name)
    return chosen, kept


def _product(graph: FloatGraph, node: Any, position: int, users: dict[str, list[int]]) -> Matrix | None:
    """MatMul or Gemm with a constant float matrix on the right, together with the bias that is added to it."""
    shape = graph.matrix_shape(node.input[1])
    if shape is None:
        return None
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    transposed = bool(options.get("transB", 0))
    plain = options.get("transA", 0) == 0 and options.get("alpha", 1.0) == 1.0 and options.get("beta", 1.0) == 1.0
    width = shape[0 if transposed else 1]
    bias, output, nodes = "", node.output[0], [position]
    if len(node.input) > 2 and node.input[2]:
        bias = node.input[2]
        plain = plain and _is_vector(graph, bias, width)
    elif len(readers := users.get(output, [])) == 1 and readers[0] >= 0 and graph.nodes[readers[0]].op_type == "Add":
        after = graph.nodes[readers[0]]
        other = after.input[1] if after.input[0] == output else after.input[0]
        if _is_vector(graph, other, width):
            bias, output, nodes = other, after.output[0], [position, readers[0]]
    name = _name(node.input[1], node.output[0])
    replaced = tuple(nodes) if plain else ()  # none: it stays in float
    return Matrix("product", name, node.input[1], transposed, node.input[0], bias, output, replaced, shape)


def _is_vector(graph: FloatGraph, name: str, width: int) -> bool:
    found = graph.tensors.get(name)
    return found is not None and found.data_type == TensorProto.FLOAT and list(found.dims) == [width]


def _table(graph: FloatGraph, node: Any, position: int) -> Matrix | None:
    """Gather of whole rows out of a constant float table."""
    if node.op_type != "Gather" or any(a.name == "axis" and a.i != 0 for a in node.attribute):
        return None
    shape = graph.matrix_shape(node.input[0])
    if shape is None:
        return None
    ids, output, name = node.input[1], node.output[0], _name(node.input[0], node.output[0])
    return Matrix("table", name, node.input[0], False, ids, "", output, (position,), shape)


def _name(weight: str, output: str) -> str:
    """The module's path: from the weight's name, or where the trace made one up, from the tensor that it computes."""
    path = output.rpartition("/")[0].strip("/").replace("/", ".") if weight.startswith("onnx::") else weight
    return path.removeprefix("model.").removesuffix(".weight") or weight


def as_tensor(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value, order="C"), name)
