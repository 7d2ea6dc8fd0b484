"""INT8 weights, and activations that are quantized at run time, row by row.

R rows (every token of every text is one), K inputs, N outputs, V vocabulary, D hidden.
"""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from worker.int8.params import MatrixParams
from worker.int8.rewrite import Form, rewrite_dynamic
from worker.quantizers.base import Calibration, Quantizer, QuantReport


class Int8Dynamic(Quantizer):
    """W8A8 for every matrix product with a constant weight, INT8 tables for embeddings.

    Weights, per output column n:   Wq = round(W / s_n) in -127 … 127,  s_n = max_k |W_kn| / 127, or with `reduce_range`
                                    s_n = max_j (|W_2j,n| + |W_2j+1,n|) / 127.
    Activations, per row r:         t_r = max(max_k |x_rk|, 1e-9) / 127,  xq = round(x / t_r) + 128  in 1 … 255.
    Product:                        y_rn = t_r s_n sum_k (xq_rk - 128) Wq_kn  (+ bias, in float32),
                                    |error| <= (t_r |W_n|_1 + s_n |x_r|_1) / 2 + K t_r s_n / 4.
    Tables, per row v:              u_v = max_d |E_vd| / 127,  E_vd ~ u_v round(E_vd / u_v).

    One scale for a whole batch (ONNX Runtime's own dynamic scheme, `per_tensor`) lets a text's vector depend on its
    neighbours; row scales do not, and are several times closer to float. Two adjacent u8 x s8 products are summed in
    16 bits on AVX2 without VNNI: `reduce_range` keeps |Wq_2j| + |Wq_2j+1| <= 128, and 255 * 128 = 32,640 fits. It costs
    about a third more step than 127 / max, where 7-bit weights cost twice. LLM.int8() (arXiv 2208.07339) scales rows in
    the same way; per-channel weights: arXiv 1806.08342. Raises ValueError for weights that are not finite.
    """

    name: ClassVar[str] = "int8_dynamic"

    class Params(MatrixParams):
        activations: Literal["per_row", "per_tensor"] = Field(
            default="per_row",
            description="per_row: a text's answer does not depend on its batch. per_tensor: one scale for a batch, faster.",
        )

    params: Params

    def quantize(self, source: Path, out_dir: Path, calibration: Calibration) -> QuantReport:
        target = out_dir / "model_int8.onnx"
        form: Form = "rows" if self.params.activations == "per_row" else "batch"
        quantized, kept = rewrite_dynamic(source, target, self.params, form)
        return QuantReport(self.name, target.name, target.stat().st_size, quantized, kept)
