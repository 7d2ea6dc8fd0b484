"""4-bit embedding tables, everything else in float.

V vocabulary, D hidden, G blocks of a row, S values of a block.
"""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from worker.int8.matrices import FloatGraph, find
from worker.int8.params import MatrixParams
from worker.int8.rewrite import Form, rewrite
from worker.quantizers.base import Calibration, Quantizer, QuantReport


class Int4WeightOnly(Quantizer):
    """Tables of 4-bit values with a scale for each block of about 32; products and activations stay in float.

    E_vgs ~ c_vg (q_vgs - 8),  q in 0 … 15,  c_vg = -m_vg / 8 in float16, m_vg the value of largest magnitude in its block.
    For students whose bytes are nearly all table, such as static ones, and where products must not be rounded; an encoder
    is smaller and faster with `int8_dynamic` and `tables: int4`. Matrices of products are left alone on purpose: in 4 bits
    (ONNX Runtime's MatMulNBits, blocks of 32) they cost a three-layer student five times the error of INT8 and ran slower
    than float. Blocks with their own scale: arXiv 2110.02861, 2305.14314. Raises ValueError for weights that are not finite.
    """

    name: ClassVar[str] = "int4_weight_only"

    class Params(MatrixParams):
        tables: Literal["int8", "int4"] = Field(default="int4", description="int8: twice the bytes, a tenth of the error.")

    params: Params

    def quantize(self, source: Path, out_dir: Path, calibration: Calibration) -> QuantReport:
        graph = FloatGraph(source)
        matrices, kept = find(graph, self.params)
        forms: dict[str, Form] = {m.output: "rows" if m.kind == "table" else "float" for m in matrices}
        target = out_dir / f"model_{self.params.tables}.onnx"
        target.write_bytes(rewrite(graph, matrices, forms, self.params).SerializeToString(deterministic=True))
        tables = [m.name for m in matrices if m.kind == "table"]
        kept += [m.name for m in matrices if m.kind == "product"]
        return QuantReport(self.name, target.name, target.stat().st_size, tables, kept, precision=self.params.tables)
