"""INT8 whose rounding the student was trained with: quantization-aware distillation, then the scheme of int8_dynamic."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from worker.int8.params import MatrixParams
from worker.int8.rewrite import rewrite_dynamic
from worker.quantizers.base import Calibration, Quantizer, QuantReport


class Int8Qat(Quantizer):
    """The arithmetic of int8_dynamic with row scales, for a student that was taught under exactly that arithmetic.

    Training: `worker/int8/fakequant.py` makes the student compute with rounded weights and activations; gradients pass the
    rounding as if it were not there (straight-through). From its float self on, the student learns
    L = tau² KL(p ‖ q_int8),  p = w p_teacher + (1 - w) p_float,  w = `teacher_weight` (other tasks: their own soft loss).
    The float weights are what is kept.
    Export: the same rounding as nodes of the graph, so the exported student is the trained one up to rounding ties.
    Sources: arXiv 1712.05877 (fake quantization), 1802.05668 (distillation into a quantized student), 1806.08342.
    Raises ValueError for weights that are not finite.
    """

    name: ClassVar[str] = "int8_qat"
    trains: ClassVar[bool] = True

    class Params(MatrixParams):
        epochs: int = Field(default=2, ge=1, le=100, description="Passes over the training rows with fake quantization.")
        learning_rate: float = Field(
            default=5e-5, gt=0, le=1, description="Peak; less than the student's own, it is trained already."
        )
        batch_size: int = Field(default=32, ge=1, le=65536)
        temperature: float = Field(
            default=2.0, ge=0.05, le=100, description="Softmax temperature of the soft labels, dimensionless."
        )
        teacher_weight: float = Field(
            default=0.5, ge=0, le=1, description="The teacher's share in the soft labels; the rest is the float student's."
        )

    params: Params

    def quantize(self, source: Path, out_dir: Path, calibration: Calibration) -> QuantReport:
        target = out_dir / "model_int8.onnx"
        quantized, kept = rewrite_dynamic(source, target, self.params, "rows")
        return QuantReport(self.name, target.name, target.stat().st_size, quantized, kept)
