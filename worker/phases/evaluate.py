"""Teacher, undistilled baseline, student and INT8 student: quality, speed, size and memory in one run on one machine."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from app.domain.errors import DatasetInvalid, UnsupportedMethod
from worker.evaluators import latency, memory, report
from worker.evaluators.base import Encoded, Floats, Outputs, encode, onnx_outputs, open_session, torch_outputs
from worker.evaluators.classification import Classification, by_length
from worker.exporters.onnx import Onnx
from worker.phases import prepared
from worker.phases.base import Context
from worker.phases.quantize import compare, hold_float
from worker.run import protocol

NAME = "evaluating"
_BATCH = 32
_THREADS = 1  # of the measured sessions; two on a busy machine would measure the neighbours
_SPEED_SECONDS = 12.0
_MEMORY_TOKENS = 64
_TRANSFORMERS = ("teacher", "baseline", "student")  # models that are a transformers folder of the same name


def run(context: Context) -> None:
    """Fills evaluation/: report.json and report.md; emits the summary."""
    out = context.fresh("evaluation")
    folder = context.output("prepared")
    data = prepared.describe(folder)
    split = prepared.read_split(folder, "test", limit=context.spec.evaluation.max_items, seed=context.spec.seed)
    if not len(split):
        raise DatasetInvalid(
            "No labelled row is left to evaluate on.", param="data.test_file", hint="Give test rows that have a label."
        )
    temporary = context.workdir / ".measuring"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        run_ = _Run(context, split, data, temporary)
        run_.quality()
        run_.speed()
        run_.memory()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = _report(context, data, len(split), run_.models)
    (out / "report.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "report.md").write_text(report.markdown(found), encoding="utf-8")
    context.seal("evaluation")
    context.emit(protocol.EvaluationEvent(summary=found["summary"]))


class _Run:
    """`models[who]` gathers quality, by_length, bytes, params, speed and peak_memory_bytes."""

    def __init__(self, context: Context, split: prepared.Split, data: dict[str, Any], temporary: Path) -> None:
        self.context, self.split, self.data, self.temporary = context, split, data, temporary
        self.models: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, Encoded] = {}
        self.graphs: dict[str, Path] = {}
        self._logits: dict[str, Floats] = {}
        quantized = context.output("quantized")
        self.graphs["student"] = quantized / "model.onnx"
        if (quantized / "model_int8.onnx").is_file():
            self.graphs["quantized"] = quantized / "model_int8.onnx"

    def quality(self) -> None:
        device = "cuda" if self.context.request.device != "cpu" and torch.cuda.is_available() else "cpu"
        present = [who for who in _TRANSFORMERS if (self.context.output(who) / "config.json").is_file()]
        for n, who in enumerate(present):
            source = self.context.output(who)
            rows = encode(source, self.split.texts, int(self.data["max_length"]))
            outputs = torch_outputs(source, rows, _BATCH, device, self.context.stop)
            self.rows[who], self._logits[who] = rows, outputs.logits
            weights = sorted(source.glob("*.safetensors"))
            self._add(who, sum(w.stat().st_size for w in weights), _parameters(weights))
            if who != "student":
                self._export(who, source, outputs)
            self.context.advance(NAME, 0.35 * (n + 1) / len(present))
        if "quantized" in self.graphs:
            rows = self.rows["quantized"] = self.rows["student"]
            session = open_session(self.graphs["quantized"], _THREADS)
            self._logits["quantized"] = onnx_outputs(session, rows, _BATCH, self.context.stop).logits
            self._add("quantized", self.graphs["quantized"].stat().st_size, self.models["student"]["params"])
        self.context.advance(NAME, 0.4)

    def _add(self, who: str, size: int, params: int) -> None:
        evaluator = Classification(seed=self.context.spec.seed)
        logits, labels = self._logits[who], self.split.labels
        quality = evaluator.evaluate(logits, labels, self.data["labels"], self._logits["teacher"])
        lengths = torch.tensor([len(ids) for ids in self.rows["teacher"].ids]).numpy()
        buckets = by_length(lengths, logits.argmax(axis=1) == labels)
        self.models[who] = {"quality": quality, "by_length": buckets, "bytes": size, "params": params}

    def _export(self, who: str, source: Path, outputs: Outputs) -> None:
        """The float graph that the speed is measured on, held against the model it came from."""
        self.context.stop()
        out = self.temporary / who
        out.mkdir()
        few = range(min(16, len(self.split)))
        try:
            graph = Onnx().export(source, out)
        except UnsupportedMethod as error:
            self.context.warn("not_exported", f"No speed of the {who}: {error.message}")
            return
        trained = Outputs(*(values[: len(few)] for values in outputs))
        hold_float(compare(trained, onnx_outputs(open_session(graph, _THREADS), self.rows[who].take(few), _BATCH)))
        self.graphs[who] = graph

    def speed(self) -> None:
        self._started, self._shown = time.monotonic(), 0.0
        subjects = {
            who: latency.Subject(open_session(self.graphs[who], _THREADS), self.rows[who])
            for who in report.ORDER
            if who in self.graphs
        }
        for who, figures in latency.measure(subjects, budget_seconds=_SPEED_SECONDS, stop=self._measuring).items():
            self.models[who]["speed"] = figures
        self.context.advance(NAME, 0.9)

    def _measuring(self) -> None:
        self.context.stop()
        share = min(1.0, (time.monotonic() - self._started) / _SPEED_SECONDS)
        if share >= self._shown + 0.1:  # at most ten of these
            self._shown = share
            self.context.advance(NAME, 0.4 + 0.5 * share)

    def memory(self) -> None:
        tokens = min(_MEMORY_TOKENS, int(self.data["max_length"]))
        for who in self.models:
            self.context.stop()
            if who in self.graphs:
                self.models[who]["peak_memory_bytes"] = memory.peak_memory(self.graphs[who], _BATCH, tokens)
        self.context.advance(NAME, 1.0)


def _report(context: Context, data: dict[str, Any], rows: int, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    training = context.output("student") / "training.json"
    speed = models["student"].get("speed") or {}
    served = report.TITLES[report.served_name(models)]
    how = [
        line.format(threads=_THREADS, texts=speed.get("texts"), rounds=speed.get("rounds"), served=served) for line in report.HOW
    ]
    return {
        "format": 1,
        "name": context.spec.name,
        "summary": report.summarize(models),
        "models": models,
        "rows": rows,
        "data": data,
        "seed": context.spec.seed,
        "plan": context.spec.resolved(),
        "training": json.loads(training.read_text()) if training.is_file() else {},
        "quantization": json.loads((context.output("quantized") / "quantization.json").read_text()),
        "warnings": context.warnings,
        "how": how,
    }


def _parameters(weights: list[Path]) -> int:
    total = 0
    for path in weights:
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                size = 1
                for d in tensors.get_slice(name).get_shape():
                    size *= d
                total += size
    return total
