"""INT8 weights and INT8 activations with constant scales, measured on training rows beforehand.

R rows (every token of every text is one), K inputs, N outputs.
"""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from app.domain.errors import InvalidRequest
from worker.int8.matrices import FloatGraph, find
from worker.int8.params import MatrixParams
from worker.int8.ranges import observe
from worker.int8.rewrite import rewrite
from worker.int8.search import Forms, Ranges, Workbench, relax
from worker.quantizers.base import Calibration, Fallback, Quantizer, QuantReport


class Int8Static(Quantizer):
    """W8A8 with nothing measured at run time: faster than `int8_dynamic`, a little further from float.

    Activations, per tensor:        xq = clip(round(x / a) + z, 0, 255),  a = (high - low) / 255,  z = round(-low / a).
    Weights, per output column n:   Wq = round(W / s_n), as in int8_dynamic; tables per row likewise.
    Product:                        y_rn = a s_n sum_k (xq_rk - z) Wq_kn  (+ bias, in float32).
    Bounds [low, high]:             of the values on the calibration rows, by the `range` that gives the least output error.

    One node quantizes what query, key and value read; scales are constants, so a text's answer does not depend on its
    batch or its padding. Values outside the bounds are clipped: calibrate with rows like those to come.
    Output error e = the largest over the outputs of |y' - y|_F / |y|_F on the calibration rows. While what the products
    add to it is above `max_error`, the matrices whose precision helps most leave the static scheme: first for row scales,
    then, within `keep_float_fraction` of all elements, for float. Sources: arXiv 1806.08342; 2004.09602 (calibration,
    partial quantization by sensitivity). Raises InvalidRequest for fewer than `min_rows` rows, ValueError for weights
    that are not finite.
    """

    name: ClassVar[str] = "int8_static"

    class Params(MatrixParams):
        range: Literal["auto", "max", "mse", "percentile"] = Field(
            default="auto", description="How activations are bounded; auto: whichever gives the least output error."
        )
        max_error: float = Field(
            default=0.08, ge=0, description="Relative error of the outputs above which sensitive matrices get more precision."
        )
        keep_float_fraction: float = Field(
            default=0.1, ge=0, le=1, description="Largest share of the quantizable elements that may stay in float for it."
        )
        min_rows: int = Field(default=32, ge=1, description="Fewer calibration rows than this are refused.")

    params: Params

    def quantize(self, source: Path, out_dir: Path, calibration: Calibration) -> QuantReport:
        needed = self.params.min_rows
        if calibration.rows < needed:
            raise InvalidRequest(
                f"int8_static measures activations on training rows: it needs {needed}, there are {calibration.rows}.",
                param="quantization.scheme",
                hint="Add training rows, unlabelled ones count too, lower quantization.min_rows, or choose int8_dynamic.",
            )
        graph = FloatGraph(source)
        matrices, kept = find(graph, self.params)
        target, scratch = out_dir / "model_int8.onnx", out_dir / "candidate.onnx"
        bench = Workbench(graph, matrices, self.params, calibration.feeds, calibration.reference, scratch)
        forms: Forms = {m.output: "static" for m in matrices}
        try:
            ranges = self._ranges(source, bench, forms, calibration)
            before = bench.measure(forms, ranges)["relative"]
            budget = int(self.params.keep_float_fraction * sum(m.elements for m in matrices))
            forms, steps = relax(bench, forms, ranges, self.params.max_error, budget)
            error = bench.measure(forms, ranges) | {"all_static": before}
        finally:
            scratch.unlink(missing_ok=True)
        model = rewrite(graph, matrices, forms, self.params, ranges)
        target.write_bytes(model.SerializeToString(deterministic=True))
        return QuantReport(
            self.name,
            target.name,
            target.stat().st_size,
            quantized=[m.name for m in matrices if forms[m.output] != "float"],
            kept_float=[*kept, *(m.name for m in matrices if forms[m.output] == "float")],
            fallbacks=[Fallback(m.name, s.form, s.error_before, s.error_after) for s in steps for m in s.matrices],
            error=error,
        )

    def _ranges(self, source: Path, bench: Workbench, forms: Forms, calibration: Calibration) -> Ranges:
        tensors = list(dict.fromkeys(m.source for m in bench.matrices if m.kind == "product"))
        seen = {name: histogram.ranges() for name, histogram in observe(source, calibration.feeds, tensors, bench.scratch).items()}
        methods = ("max", "mse", "percentile") if self.params.range == "auto" else (self.params.range,)
        tried = [{name: found[method] for name, found in seen.items()} for method in methods]
        return tried[0] if len(tried) == 1 else min(tried, key=lambda ranges: bench.error(forms, ranges))
