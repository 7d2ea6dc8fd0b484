"""Student → ONNX graph → INT8 graph, each held against the trained model before anything is built on it.

A scheme that trains (quantization-aware distillation) first goes on with the student under its own arithmetic.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.domain.errors import ExportMismatch
from worker import plugins
from worker.evaluators.base import compare, feeds, onnx_outputs, open_session
from worker.exporters.onnx import Onnx, outputs_of
from worker.heads.base import Head, Outputs
from worker.phases import qat, runs
from worker.phases.base import Context
from worker.quantizers.base import Calibration
from worker.rows import Rows
from worker.signals import Wants

NAME = "quantizing"
PARITY_ROWS = 256
CALIBRATION_ROWS = 256
FLOAT_TOLERANCE = 1e-3  # largest logit difference between the trained and the exported float model
LEAST_COSINE = 1 - 1e-5  # of the vectors of the two
_BATCH = 32
_DRIFT = 0.95  # below this agreement with the float model the report carries a warning


def run(context: Context) -> None:
    """Fills quantized/: model.onnx, the scheme's own graph unless it is none, quantization.json."""
    block = context.spec.quantization
    quantizer = plugins.get("quantizers", block.scheme)(**block.params)
    if quantizer.trains and not context.sealed("qat"):
        qat.run(context, quantizer)
        context.seal("qat")
    out = context.fresh("quantized")
    head, student = runs.head(context, "student"), context.output("student")
    rows = _some(context, head, "validation", PARITY_ROWS)
    trained = _trained(head, student, rows)
    context.advance(NAME, 0.5 if quantizer.trains else 0.3)

    float_file = Onnx().export(student, out, head)
    context.stop()
    float_parity = compare(trained, _outputs(float_file, head, rows, context), head)
    hold_float(float_parity)
    context.advance(NAME, 0.6)

    source = float_file
    if quantizer.trains:  # its own float weights, which are not the student's
        (out / "qat").mkdir()
        source = Onnx().export(context.output("qat"), out / "qat", head)
    report = quantizer.quantize(source, out, _calibration(context, head, source))
    context.stop()
    context.advance(NAME, 0.8)
    found: dict[str, Any] = {
        "scheme": block.scheme,
        "file": report.file,
        "params": block.params,
        "bytes": report.bytes,
        "float_bytes": float_file.stat().st_size,
    }
    found |= {"float_parity": float_parity, "rows": len(rows.examples)}
    if report.file is not None:
        found |= {
            "precision": report.precision,
            "quantized": len(report.quantized),
            "kept_float": len(report.kept_float),
            "calibration_error": report.error,
        }
        found["fallbacks"] = [fallback.__dict__ for fallback in report.fallbacks]
        found["parity"] = _int8_parity(context, out / report.file, head, rows, trained)
        if quantizer.trains:
            simulated = qat.simulated(context, quantizer, head, rows)
            found["parity_trained"] = compare(simulated, _outputs(out / report.file, head, rows, context), head)
            found["training"] = json.loads((context.output("qat") / "training.json").read_text())
    (out / "quantization.json").write_text(json.dumps(found, indent=1, sort_keys=True))
    context.seal("quantized")


def graph_of(context: Context) -> tuple[Path, str] | None:
    """The quantized graph and its precision; None where the scheme leaves the float graph as it is."""
    folder = context.output("quantized")
    told = json.loads((folder / "quantization.json").read_text())
    if "file" not in told and told["scheme"] != "none":  # sealed by an earlier release, which had one name for all
        told |= {"file": "model_int8.onnx", "precision": "int8"}
    return (folder / told["file"], told["precision"]) if told.get("file") else None


def hold_float(parity: dict[str, float]) -> None:
    """Raises ExportMismatch unless the float graph gives the trained model's answers. NaN does not pass."""
    apart, cosine = parity.get("max_abs_logit_diff", 0.0), parity.get("min_cosine", 1.0)
    if not (apart <= FLOAT_TOLERANCE and cosine >= LEAST_COSINE):
        raise ExportMismatch(
            f"The exported model's logits differ from the trained model's by {apart:.3g} (allowed {FLOAT_TOLERANCE:g}), "
            f"its vectors have a cosine of {cosine:.6f}.",
            param="student",
            hint="This architecture does not survive the export. Choose a BERT, RoBERTa, ELECTRA or DistilBERT student.",
        )


def _trained(head: Head, folder: Path, rows: Rows) -> Outputs:
    """Everything that the exported graph answers."""
    outputs = outputs_of(head)
    wants = Wants(logits="logits" in outputs, embedding="embedding" in outputs)
    return head.predict(head.load(folder), rows, torch.device("cpu"), _BATCH, wants=wants)


def _int8_parity(context: Context, path: Path, head: Head, rows: Rows, trained: Outputs) -> dict[str, float]:
    """Against the trained model; `batch_drift` is how far a sequence's answer moves between batch 1 and a padded batch."""
    session = open_session(path, threads=1)
    parity = compare(trained, onnx_outputs(session, head, rows, _BATCH, context.stop), head)
    parity["batch_drift"] = _batch_drift(session, rows)
    if parity.get("agreement", 1.0) < _DRIFT:
        share = f"{1 - parity['agreement']:.1%} of {len(rows.examples)} validation rows"
        context.warn("int8_drift", f"The INT8 student answers {share} differently from the float student.")
    return parity


def _batch_drift(session: Any, rows: Rows) -> float:
    """Largest difference of the first output's numbers, over the shortest sequences: alone, and beside a longer one."""
    names = [i.name for i in session.get_inputs()]
    few = rows.sequences().only(range(min(32, len(rows))))
    worst = 0.0
    for feed in feeds(few, names, 2):
        length = int(feed["attention_mask"][0].sum())
        alone = session.run(None, {name: value[:1, :length] for name, value in feed.items()})[0][0]
        beside = session.run(None, feed)[0][0]
        worst = max(worst, float(np.abs(alone - beside[: len(alone)]).max()))
    return worst


def _calibration(context: Context, head: Head, graph: Path) -> Calibration:
    rows = _some(context, head, "train", CALIBRATION_ROWS).sequences()
    rows = rows.only(range(min(len(rows), 2 * CALIBRATION_ROWS)))
    names = [i.name for i in open_session(graph, threads=1).get_inputs()]
    return Calibration(graph, feeds(rows, names, _BATCH))


def _some(context: Context, head: Head, split: str, limit: int) -> Rows:
    """Examples of the split, drawn without replacement, in file order; of the training split where it has none."""
    student = context.output("student")
    rows = runs.rows(context, split, student, head)
    if not len(rows):
        rows = runs.rows(context, "train", student, head)
    if len(rows.examples) <= limit:
        return rows
    drawn = np.random.default_rng(context.spec.seed).choice(len(rows.examples), size=limit, replace=False)
    return rows.only(sorted(int(r) for r in drawn))


def _outputs(path: Path, head: Head, rows: Rows, context: Context) -> Outputs:
    return onnx_outputs(open_session(path, threads=1), head, rows, _BATCH, context.stop)
