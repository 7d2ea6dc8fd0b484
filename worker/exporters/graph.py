"""Tidying of a traced ONNX graph: fewer nodes, no traces of where it was made, the same bytes every time.

A traced encoder spends a third of its nodes on working out shapes that are known: `x.view(B, T, H, D/H)` becomes
Shape, Gather, Unsqueeze and Concat around every Reshape. Reshape can copy a dimension by itself (0 at its position),
so the whole bundle is one constant. At batch one these nodes cost as much as the matrix products of a small student.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

_INLINE_LIMIT = 1_900_000_000  # bytes: protobuf refuses files of 2 GiB


class Graph:
    """Lookups over an ONNX graph whose constants all are initializers."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.graph
        _constants_to_initializers(self.graph)
        self.initializers: dict[str, Any] = {i.name: i for i in self.graph.initializer}
        self.producers: dict[str, Any] = {name: node for node in self.graph.node for name in node.output}

    def constant(self, name: str) -> NDArray[Any] | None:
        found = self.initializers.get(name)
        return None if found is None else np.asarray(numpy_helper.to_array(found))

    def add_constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(value, name)
            self.graph.initializer.append(self.initializers[name])
        return name

    def replace_nodes(self, nodes: list[Any]) -> None:
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self.producers = {name: node for node in nodes for name in node.output}

    def drop_unused(self) -> None:
        """Remove nodes and initializers that no output needs."""
        needed = {o.name for o in self.graph.output}
        kept = []
        for node in reversed(self.graph.node):  # nodes are in topological order
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.replace_nodes(kept[::-1])
        used = [i for i in self.graph.initializer if i.name in needed]
        del self.graph.initializer[:]
        self.graph.initializer.extend(used)
        self.initializers = {i.name: i for i in self.graph.initializer}


def tidy(model: Any) -> Any:
    """Constant reshapes, no dead nodes, no doc strings, paths or tool versions. Changes `model` in place."""
    graph = Graph(model)
    for node in graph.graph.node:
        if node.op_type == "Reshape" and graph.constant(node.input[1]) is None:
            target = _copied_shape(graph, node.input[1])
            if target is not None:
                name = "shape_" + "_".join(str(d) for d in target)
                node.input[1] = graph.add_constant(name, np.array(target, dtype=np.int64))
    graph.drop_unused()
    strip(model)
    return model


def answering(source: Path, outputs: list[str], target: Path) -> None:
    """The graph of `source` with these outputs alone. ONNX Runtime computes every output, whichever are asked for."""
    model = onnx.load(source)
    wanted = [output for output in model.graph.output if output.name in outputs]
    del model.graph.output[:]
    model.graph.output.extend(wanted)
    Graph(model).drop_unused()
    save(model, target)


def strip(model: Any) -> None:
    """Remove what says where and with what the graph was made."""
    model.producer_name, model.producer_version, model.doc_string = "retort", "", ""
    del model.metadata_props[:]
    del model.functions[:]
    graph = model.graph
    graph.name, graph.doc_string = "model", ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    for n, node in enumerate(graph.node):
        node.name, node.doc_string = f"{node.op_type}_{n}", ""
        del node.metadata_props[:]


def save(model: Any, path: Path) -> None:
    """Deterministic bytes; weights of 2 GiB and more go to `<name>.data` beside the graph."""
    if model.ByteSize() < _INLINE_LIMIT:
        path.write_bytes(model.SerializeToString(deterministic=True))
    else:
        onnx.save_model(model, str(path), save_as_external_data=True, location=path.name + ".data")


def _constants_to_initializers(graph: Any) -> None:
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _copied_shape(graph: Graph, name: str) -> list[int] | None:
    """[0, 0, H, d] for a Concat of (dim 0 of something, dim 1 of something, constants); None when it is anything else.

    That the copied dimension is the one the trace took it from is not proven here; the parity check of the export,
    on ragged batches of several shapes, is what holds it.
    """
    node = graph.producers.get(name)
    if node is None or node.op_type != "Concat":
        return None
    shape: list[int] = []
    for part in node.input:
        value = graph.constant(part)
        if value is not None:
            shape.extend(int(v) for v in value.reshape(-1))
        elif _dimension(graph, part) == len(shape):
            shape.append(0)
        else:
            return None
    return shape if shape.count(-1) <= 1 else None


def _dimension(graph: Graph, name: str) -> int | None:
    """i when `name` is Unsqueeze(Gather(Shape(x), i))."""
    unsqueeze = graph.producers.get(name)
    if unsqueeze is None or unsqueeze.op_type != "Unsqueeze":
        return None
    gather = graph.producers.get(unsqueeze.input[0])
    if gather is None or gather.op_type != "Gather":
        return None
    shape, index = graph.producers.get(gather.input[0]), graph.constant(gather.input[1])
    if shape is None or shape.op_type != "Shape" or index is None or index.size != 1:
        return None
    return int(index.reshape(-1)[0])
