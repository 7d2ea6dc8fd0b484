"""INT8 weights, and activations that are quantized at run time, row by row.

R rows (every token of every text is one), K inputs, N outputs, V vocabulary, D hidden.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydantic import Field

from worker.plugins import PluginParams
from worker.quantizers.base import Quantizer, QuantReport

_ZERO_POINT = 128  # of the unsigned 8-bit activations
_RUNTIME = "com.microsoft"  # ONNX Runtime's own operator set


class Int8Dynamic(Quantizer):
    """W8A8 for every matrix product with a constant weight, INT8 tables for embeddings.

    Weights, per output column n:   s_n = max_k |W_kn| / q,  Wq = clip(round(W / s), -q, q),  q = 127, or 63 with `reduce_range`.
    Activations, per row r:         t_r = max(max_k |x_rk|, 1e-9) / 127,  xq = round(x / t_r) + 128  in 1 … 255.
    Product:                        y_rn = t_r s_n sum_k (xq_rk - 128) Wq_kn  (+ bias, in float32),
                                    |error| <= (t_r |W_n|_1 + s_n |x_r|_1) / 2 + K t_r s_n / 4.
    Tables, per row v:              u_v = max_d |E_vd| / 127,  E_vd ~ u_v round(E_vd / u_v).

    One scale for a whole batch (ONNX Runtime's own dynamic scheme, `per_tensor`) lets a text's vector depend on its
    neighbours; row scales do not, and are several times closer to float. Two adjacent u8 x s8 products are summed in
    16 bits on AVX2 without VNNI: 2 * 255 * 63 = 32,130 fits, 2 * 255 * 127 does not. LLM.int8() (arXiv 2208.07339)
    scales rows in the same way; per-channel weights: arXiv 1806.08342.
    Raises ValueError for weights that are not finite.
    """

    name: ClassVar[str] = "int8_dynamic"

    class Params(PluginParams):
        activations: Literal["per_row", "per_tensor"] = Field(
            default="per_row",
            description="per_row: a text's answer does not depend on its batch. per_tensor: one scale for a batch, faster.",
        )
        reduce_range: bool = Field(
            default=True,
            description="7-bit weights: exact on every processor. Without it processors with AVX2 but no VNNI may saturate.",
        )
        embeddings: bool = Field(
            default=True, description="Also quantize the embedding tables, which hold most of a small student's bytes."
        )
        min_elements: int = Field(default=8192, ge=1, description="Smaller matrices, such as the last layer's, stay in float.")

    params: Params

    def quantize(self, source: Path, out_dir: Path) -> QuantReport:
        model = onnx.load(str(source))
        rewriter = _Rewriter(model.graph, self.params)
        rewriter.run()
        if not any(o.domain == _RUNTIME for o in model.opset_import):
            model.opset_import.append(helper.make_opsetid(_RUNTIME, 1))
        target = out_dir / "model_int8.onnx"
        target.write_bytes(model.SerializeToString(deterministic=True))
        return QuantReport(self.name, target.name, target.stat().st_size, rewriter.quantized, rewriter.kept_float)


def quantize_columns(weight_KN: NDArray[np.float32], limit: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(Wq [K, N] int8, s [N] float32), symmetric per column; a column of zeros gets scale 1."""
    return _symmetric(weight_KN, limit, axis=0)


def quantize_rows(table_VD: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(Eq [V, D] int8, u [V, 1] float32), symmetric per row."""
    return _symmetric(table_VD, 127, axis=1)


def _symmetric(values: NDArray[np.float32], limit: int, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    largest = np.abs(values).max(axis=axis, keepdims=True)
    if not np.isfinite(largest).all():
        raise ValueError("a weight matrix holds NaN or Inf")
    scale = np.where(largest > 0, largest / limit, 1.0).astype(np.float32)
    quantized = np.clip(np.rint(values / scale), -limit, limit).astype(np.int8)
    return quantized, scale.reshape(-1) if axis == 0 else scale


class _Rewriter:
    """Walks the graph once; each node is kept or replaced by its INT8 form, which ends in the same output name."""

    def __init__(self, graph: Any, params: Int8Dynamic.Params) -> None:
        self.graph, self.params = graph, params
        self.weights = {i.name: i for i in graph.initializer}
        self.nodes: list[Any] = []
        self.quantized: list[str] = []
        self.kept_float: list[str] = []
        self._activations: dict[str, tuple[str, str]] = {}  # shared: query, key and value read the same rows
        self._added: dict[str, Any] = {}

    def run(self) -> None:
        for node in list(self.graph.node):
            if not (self._product(node) or self._table(node)):
                self.nodes.append(node)
        for n, node in enumerate(self.nodes):
            node.name = f"{node.op_type}_{n}"
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [i for i in (*self.graph.initializer, *self._added.values()) if i.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _product(self, node: Any) -> bool:
        """MatMul, or Gemm without transposed input, with a constant float matrix on the right."""
        if node.op_type not in ("MatMul", "Gemm"):
            return False
        weight = self._matrix(node.input[1])
        if weight is None:
            return False
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = options.get("transA", 0) == 0 and options.get("alpha", 1.0) == 1.0 and options.get("beta", 1.0) == 1.0
        if weight.size < self.params.min_elements or not plain:
            self.kept_float.append(node.input[1])
            return False
        bias = node.input[2] if len(node.input) > 2 else ""
        self._emit_product(node, weight.T if options.get("transB") else weight, bias)
        self.quantized.append(node.input[1])
        return True

    def _emit_product(self, node: Any, weight_KN: NDArray[np.float32], bias: str) -> None:
        out, stem = node.output[0], node.input[1]
        values, scales = quantize_columns(weight_KN, 63 if self.params.reduce_range else 127)
        wq, s = self._constant(f"{stem}_int8", values), self._constant(f"{stem}_scale", scales)
        if self.params.activations == "per_tensor":
            inputs = [node.input[0], wq, s, "", bias] if bias else [node.input[0], wq, s]
            self._node("DynamicQuantizeMatMul", inputs, out, domain=_RUNTIME)
            return
        rows, row_scale = self._rows(node.input[0])
        unit, zero = self._constant("one_127th", np.float32(1 / 127)), self._constant("zero_point", np.uint8(_ZERO_POINT))
        product = self._node("MatMulIntegerToFloat", [rows, wq, unit, s, zero], f"{out}_product", domain=_RUNTIME)
        if bias:
            self._node("Add", [self._node("Mul", [product, row_scale], f"{out}_scaled"), bias], out)
        else:
            self._node("Mul", [product, row_scale], out)

    def _rows(self, name: str) -> tuple[str, str]:
        """(xq [R, K] uint8, 127 t [R, 1]): every row is divided by its largest magnitude, then all share the scale 1/127."""
        if name not in self._activations:
            last = self._constant("last_axis", np.array([-1], dtype=np.int64))
            peak = self._node("ReduceMax", [self._node("Abs", [name], f"{name}_abs"), last], f"{name}_peak", keepdims=1)
            safe = self._node("Max", [peak, self._constant("tiny", np.float32(1e-9))], f"{name}_row_scale")
            unit, zero = self._constant("one_127th", np.float32(1 / 127)), self._constant("zero_point", np.uint8(_ZERO_POINT))
            normal = self._node("Div", [name, safe], f"{name}_normal")
            self._activations[name] = (self._node("QuantizeLinear", [normal, unit, zero], f"{name}_uint8"), safe)
        return self._activations[name]

    def _table(self, node: Any) -> bool:
        """Gather of whole rows out of a constant float table."""
        if node.op_type != "Gather" or any(a.name == "axis" and a.i != 0 for a in node.attribute):
            return False
        table = self._matrix(node.input[0])
        if table is None:
            return False
        if table.size < self.params.min_elements or not self.params.embeddings:
            self.kept_float.append(node.input[0])
            return False
        stem, ids, out = node.input[0], node.input[1], node.output[0]
        values, scales = quantize_rows(table)
        picked = self._node("Gather", [self._constant(f"{stem}_int8", values), ids], f"{out}_int8", axis=0)
        scale = self._node("Gather", [self._constant(f"{stem}_scale", scales), ids], f"{out}_scale", axis=0)
        self._node("Mul", [self._node("Cast", [picked], f"{out}_float", to=TensorProto.FLOAT), scale], out)
        self.quantized.append(stem)
        return True

    def _matrix(self, name: str) -> NDArray[np.float32] | None:
        found = self.weights.get(name)
        if found is None or found.data_type != TensorProto.FLOAT or len(found.dims) != 2:
            return None
        return np.asarray(numpy_helper.to_array(found))

    def _constant(self, name: str, value: Any) -> str:
        if name not in self._added:
            self._added[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output
