"""Student → ONNX graph → INT8 graph, each held against the trained model before anything is built on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from app.domain.errors import ExportMismatch
from worker import plugins
from worker.evaluators.base import Encoded, Outputs, encode, onnx_outputs, open_session, torch_outputs
from worker.exporters.onnx import Onnx
from worker.phases import prepared
from worker.phases.base import Context

NAME = "quantizing"
PARITY_ROWS = 256
FLOAT_TOLERANCE = 1e-3  # largest logit difference between the trained and the exported float model
_BATCH = 32
_DRIFT = 0.95  # below this agreement with the float model the report carries a warning


def run(context: Context) -> None:
    """Fills quantized/: model.onnx, model_int8.onnx unless the scheme is none, quantization.json."""
    out = context.fresh("quantized")
    student = context.output("student")
    rows = _rows(context)
    trained = torch_outputs(student, rows, _BATCH, stop=context.stop)
    context.advance(NAME, 0.3)

    float_file = Onnx().export(student, out)
    context.stop()
    float_parity = compare(trained, _outputs(float_file, rows, context))
    hold_float(float_parity)
    context.advance(NAME, 0.6)

    block = context.spec.quantization
    report = plugins.get("quantizers", block.scheme)(**block.params).quantize(float_file, out)
    context.stop()
    context.advance(NAME, 0.8)
    found: dict[str, Any] = {
        "scheme": block.scheme,
        "params": block.params,
        "bytes": report.bytes,
        "float_bytes": float_file.stat().st_size,
    }
    found |= {"float_parity": float_parity, "rows": len(rows)}
    if report.file is not None:
        found |= {"quantized": len(report.quantized), "kept_float": len(report.kept_float)}
        found["parity"] = _int8_parity(context, out / report.file, rows, trained)
    (out / "quantization.json").write_text(json.dumps(found, indent=1, sort_keys=True))
    context.seal("quantized")


def compare(expected: Outputs, found: Outputs) -> dict[str, float]:
    """max_abs_logit_diff, min_cosine of the vectors, and the share of rows with the same argmax."""
    return {
        "max_abs_logit_diff": float(np.abs(expected.logits - found.logits).max()),
        "min_cosine": float((expected.embedding.astype(np.float64) * found.embedding).sum(axis=1).min()),
        "agreement": float((expected.logits.argmax(axis=1) == found.logits.argmax(axis=1)).mean()),
    }


def hold_float(parity: dict[str, float]) -> None:
    """Raises ExportMismatch unless the float graph gives the trained model's logits. NaN does not pass."""
    if not parity["max_abs_logit_diff"] <= FLOAT_TOLERANCE:
        raise ExportMismatch(
            f"The exported model's logits differ from the trained model's by {parity['max_abs_logit_diff']:.3g}; "
            f"at most {FLOAT_TOLERANCE:g} is allowed.",
            param="student",
            hint="This architecture does not survive the export. Choose a BERT, RoBERTa, ELECTRA or DistilBERT student.",
        )


def _int8_parity(context: Context, path: Path, rows: Encoded, trained: Outputs) -> dict[str, float]:
    """Against the trained model; `batch_logit_diff` is how far a row's logits move between batch 1 and a padded batch."""
    session = open_session(path, threads=1)
    padded = onnx_outputs(session, rows, _BATCH, context.stop)
    few = rows.take(range(min(64, len(rows))))
    alone = onnx_outputs(session, few, 1, context.stop)
    parity = compare(trained, padded)
    parity["batch_logit_diff"] = float(np.abs(alone.logits - padded.logits[: len(few)]).max())
    if parity["agreement"] < _DRIFT:
        share = f"{1 - parity['agreement']:.1%} of {len(rows)} validation rows"
        context.warn("int8_drift", f"The INT8 student answers {share} differently from the float student.")
    return parity


def _rows(context: Context) -> Encoded:
    folder = context.output("prepared")
    split = prepared.read_split(folder, "validation", labelled=False, limit=PARITY_ROWS, seed=context.spec.seed)
    if not len(split):
        split = prepared.read_split(folder, "train", labelled=False, limit=PARITY_ROWS, seed=context.spec.seed)
    return encode(context.output("student"), split.texts, int(prepared.describe(folder)["max_length"]))


def _outputs(path: Path, rows: Encoded, context: Context) -> Outputs:
    return onnx_outputs(open_session(path, threads=1), rows, _BATCH, context.stop)
