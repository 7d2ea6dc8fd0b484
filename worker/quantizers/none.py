"""No quantization: the float graph is what is served."""

from pathlib import Path
from typing import ClassVar

from worker.quantizers.base import Calibration, Quantizer, QuantReport


class NoQuantization(Quantizer):
    """Leaves the student in float32. The report then compares teacher and float student."""

    name: ClassVar[str] = "none"

    def quantize(self, source: Path, out_dir: Path, calibration: Calibration) -> QuantReport:
        return QuantReport(self.name, None, source.stat().st_size)
