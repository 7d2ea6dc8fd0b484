"""The INT8 form of a float graph: each chosen matrix is replaced by nodes that end in the same tensor.

R rows (every token of every text is one), K inputs, N outputs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, TensorProto, helper

from worker.int8.matrices import FloatGraph, Matrix, as_tensor, find
from worker.int8.params import MatrixParams
from worker.int8.values import Affine

# How a matrix is computed. `rows`: activations scaled row by row at run time; `batch`: one scale for the whole batch,
# at run time; `static`: one constant scale; `float`: as it was. A table has rows of 8 or 4 bits unless it is `float`.
Form = Literal["rows", "batch", "static", "float"]

_MIDDLE = 128  # zero point of activations that are quantized symmetrically
_RUNTIME = "com.microsoft"  # ONNX Runtime's own operator set


def rewrite(
    graph: FloatGraph,
    matrices: list[Matrix],
    forms: Mapping[str, Form],
    params: MatrixParams,
    ranges: Mapping[str, Affine] | None = None,
) -> Any:
    """The model with each matrix in `forms[matrix.output]`; `ranges[matrix.source]` is the constant scale of `static`."""
    emitter = _Emitter(graph, params, ranges or {})
    quantized = [m for m in matrices if forms[m.output] != "float"]
    replaced = {m.nodes[0]: m for m in quantized}
    absorbed = {position for m in quantized for position in m.nodes[1:]}
    for position, node in enumerate(graph.nodes):
        if position in replaced:
            emitter.emit(replaced[position], forms[replaced[position].output])
        elif position not in absorbed:
            emitter.nodes.append(node)
    return emitter.model()


def rewrite_dynamic(source: Path, target: Path, params: MatrixParams, form: Form) -> tuple[list[str], list[str]]:
    """Every matrix in one form that needs no calibration, written to `target`; (quantized, kept in float) by name."""
    graph = FloatGraph(source)
    matrices, kept = find(graph, params)
    model = rewrite(graph, matrices, {m.output: form for m in matrices}, params)
    target.write_bytes(model.SerializeToString(deterministic=True))
    return [m.name for m in matrices], kept


class _Emitter:
    def __init__(self, graph: FloatGraph, params: MatrixParams, ranges: Mapping[str, Affine]) -> None:
        self.graph, self.params, self.ranges = graph, params, ranges
        self.nodes: list[Any] = []
        self._added: dict[str, Any] = {}
        self._rows: dict[str, tuple[str, str]] = {}  # shared: query, key and value read the same rows
        self._static: dict[str, str] = {}

    def model(self) -> Any:
        result: Any = ModelProto()
        result.CopyFrom(self.graph.shell)
        del result.graph.node[:]
        for n, node in enumerate(self.nodes):
            result.graph.node.add().CopyFrom(node)
            result.graph.node[n].name = f"{node.op_type}_{n}"
        used = {name for node in self.nodes for name in node.input}
        for tensor in (*self.graph.tensors.values(), *self._added.values()):
            if tensor.name in used:
                result.graph.initializer.append(tensor)
        if not any(o.domain == _RUNTIME for o in result.opset_import):
            result.opset_import.append(helper.make_opsetid(_RUNTIME, 1))
        return result

    def emit(self, matrix: Matrix, form: Form) -> None:
        if matrix.kind == "table":
            self._table(matrix)
        elif form == "rows":
            self._row_product(matrix)
        elif form == "batch":
            self._batch_product(matrix)
        else:
            self._static_product(matrix)

    def _row_product(self, matrix: Matrix) -> None:
        """y = (127 t) * ((xq - 128) Wq * s / 127) + bias."""
        weights, scales = self._columns(matrix)
        rows, row_scale = self._quantized_rows(matrix.source)
        unit, zero = self._unit()
        out = matrix.output
        product = self._node("MatMulIntegerToFloat", [rows, weights, unit, scales, zero], f"{out}_product", domain=_RUNTIME)
        if matrix.bias:
            self._node("Add", [self._node("Mul", [product, row_scale], f"{out}_scaled"), matrix.bias], out)
        else:
            self._node("Mul", [product, row_scale], out)

    def _quantized_rows(self, name: str) -> tuple[str, str]:
        """(xq [R, K] uint8, 127 t [R, 1]): every row is divided by its largest magnitude, then all share the scale 1/127."""
        if name not in self._rows:
            last = self._constant("last_axis", np.array([-1], dtype=np.int64))
            peak = self._node("ReduceMax", [self._node("Abs", [name], f"{name}_abs"), last], f"{name}_peak", keepdims=1)
            safe = self._node("Max", [peak, self._constant("tiny", np.float32(1e-9))], f"{name}_row_scale")
            normal = self._node("Div", [name, safe], f"{name}_normal")
            self._rows[name] = (self._node("QuantizeLinear", [normal, *self._unit()], f"{name}_rows_uint8"), safe)
        return self._rows[name]

    def _unit(self) -> tuple[str, str]:
        return self._constant("one_127th", np.float32(1 / 127)), self._constant("zero_point", np.uint8(_MIDDLE))

    def _batch_product(self, matrix: Matrix) -> None:
        weights, scales = self._columns(matrix)
        inputs = [matrix.source, weights, scales, *(["", matrix.bias] if matrix.bias else [])]
        self._node("DynamicQuantizeMatMul", inputs, matrix.output, domain=_RUNTIME)

    def _static_product(self, matrix: Matrix) -> None:
        """y = a s (xq - z) Wq + bias: one node quantizes what several matrices read, one multiplies, scales and adds."""
        weights, scales = self._columns(matrix)
        name, affine = matrix.source, self.ranges[matrix.source]
        step = self._constant(f"{name}_step", np.float32(affine.scale))
        zero = self._constant(f"{name}_zero", np.uint8(affine.zero))
        if name not in self._static:
            self._static[name] = self._node("QuantizeLinear", [name, step, zero], f"{name}_uint8")
        inputs = [self._static[name], weights, step, scales, zero, *(["", matrix.bias] if matrix.bias else [])]
        self._node("MatMulIntegerToFloat", inputs, matrix.output, domain=_RUNTIME)

    def _table(self, matrix: Matrix) -> None:
        """Rows are looked up as small integers and only then scaled, so the table is never unpacked."""
        block = self.params.table_block(*matrix.shape)
        if block is not None:
            self._block_table(matrix, block)
            return
        values, scales = self.graph.rows(matrix.weight)
        stem, ids, out = matrix.weight, matrix.source, matrix.output
        picked = self._node("Gather", [self._constant(f"{stem}_rows", values), ids], f"{out}_int8", axis=0)
        scale = self._node("Gather", [self._constant(f"{stem}_row_scales", scales), ids], f"{out}_scale", axis=0)
        self._node("Mul", [self._node("Cast", [picked], f"{out}_float", to=TensorProto.FLOAT), scale], out)

    def _block_table(self, matrix: Matrix, block: int) -> None:
        """Standard operators, for runtimes of any age: ONNX Runtime's GatherBlockQuantized is no faster."""
        packed, scales = self.graph.blocks(matrix.weight, block)
        stem, ids, out = matrix.weight, matrix.source, matrix.output
        pairs = self._node("Gather", [self._constant(f"{stem}_blocks", packed), ids], f"{out}_pairs", axis=0)
        low = self._node("BitwiseAnd", [pairs, self._constant("fifteen", np.uint8(15))], f"{out}_low")
        high = self._node("BitShift", [pairs, self._constant("four", np.uint8(4))], f"{out}_high", direction="RIGHT")
        codes = self._node("Concat", [low, high], f"{out}_codes", axis=-1)
        one, eight = self._constant("one", np.float32(1)), self._constant("eight", np.uint8(8))
        signed = self._node("DequantizeLinear", [codes, one, eight], f"{out}_signed")
        halves = self._node("Gather", [self._constant(f"{stem}_block_scales", scales), ids], f"{out}_scale_half", axis=0)
        scale = self._node("Cast", [halves], f"{out}_scale", to=TensorProto.FLOAT)
        blocks = self._node("Mul", [signed, scale], f"{out}_scaled")
        rest = self._constant("rest", np.array([-1], dtype=np.int64))
        shape = self._node("Concat", [self._node("Shape", [ids], f"{out}_ids"), rest], f"{out}_shape", axis=0)
        self._node("Reshape", [blocks, shape], out)

    def _columns(self, matrix: Matrix) -> tuple[str, str]:
        values, scales = self.graph.columns(matrix.weight, matrix.transposed, self.params.reduce_range)
        stem = matrix.weight
        return self._constant(f"{stem}_columns", values), self._constant(f"{stem}_column_scales", scales)

    def _constant(self, name: str, value: Any) -> str:
        if name not in self._added:
            self._added[name] = as_tensor(name, value)
        return name

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output
