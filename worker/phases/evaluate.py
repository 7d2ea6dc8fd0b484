"""Teacher, undistilled baseline, student and INT8 student: quality, speed, size and memory in one run on one machine."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from app.domain.errors import DatasetInvalid, UnsupportedMethod
from app.quality import Quality, by_length
from worker.answers.ensemble import Answers
from worker.evaluators import latency, memory, page, report
from worker.evaluators.base import compare, onnx_outputs, open_session
from worker.exporters.onnx import Onnx
from worker.heads.base import Head, Outputs
from worker.phases import label, runs, search
from worker.phases.base import Context
from worker.phases.quantize import graph_of, hold_float
from worker.rows import Rows
from worker.run import protocol

NAME = "evaluating"
_BATCH = 32
_THREADS = 1  # of the measured sessions; two on a busy machine would measure the neighbours
_SPEED_SECONDS = 12.0
_MEMORY_TOKENS = 64
_TRANSFORMERS = ("teacher", "baseline", "student")  # models that are a transformers folder of the same name


def run(context: Context) -> None:
    """Fills evaluation/: report.json, report.md and report.html; emits the summary."""
    out = context.fresh("evaluation")
    data = json.loads((context.output("prepared") / "data.json").read_text(encoding="utf-8"))
    temporary = context.workdir / ".measuring"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        measured = _Run(context, data, temporary)
        measured.quality()
        measured.speed()
        measured.memory()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = _report(context, data, measured)
    _hold_target(context, found)
    (out / "report.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "report.md").write_text(report.markdown(found), encoding="utf-8")
    (out / "report.html").write_text(page.render(found), encoding="utf-8")
    context.seal("evaluation")
    context.emit(protocol.EvaluationEvent(summary=found["summary"]))


class _Run:
    """`models[who]` gathers quality, by_length, bytes, params, speed and peak_memory_bytes."""

    def __init__(self, context: Context, data: dict[str, Any], temporary: Path) -> None:
        self.context, self.data, self.temporary = context, data, temporary
        self.heads: dict[str, Head] = {
            who: runs.head(context, "teacher" if who == "teacher" else "student") for who in (*_TRANSFORMERS, "quantized")
        }
        self.models: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, Rows] = {}
        self.graphs: dict[str, Path] = {}
        self.quality_of: dict[str, Quality] = {}
        self._teacher: Outputs | None = None
        self.told = {"quantization": json.loads((context.output("quantized") / "quantization.json").read_text())}
        self.graphs["student"] = context.output("quantized") / "model.onnx"
        if (quantized := graph_of(context)) is not None:
            self.graphs["quantized"] = quantized[0]

    def quality(self) -> None:
        device = torch.device("cuda" if self.context.request.device != "cpu" and torch.cuda.is_available() else "cpu")
        present = [who for who in _TRANSFORMERS if (self.context.output(who) / "config.json").is_file()]
        for n, who in enumerate(present):
            source, head = self.context.output(who), self.heads[who]
            rows = self.rows[who] = self._rows(head, source)
            outputs = head.predict(head.load(source), rows, device, _BATCH)
            weights = sorted(source.glob("model*.safetensors"))
            if who == "teacher":
                self._teacher = self._ensemble(rows) or head.comparable(outputs, rows)
            self._add(who, outputs, sum(w.stat().st_size for w in weights), _parameters(weights))
            if who != "student":
                self._export(who, source, outputs)
            self.context.advance(NAME, 0.35 * (n + 1) / len(present))
        if "quantized" in self.graphs:
            rows = self.rows["quantized"] = self.rows["student"]
            session = open_session(self.graphs["quantized"], _THREADS)
            outputs = onnx_outputs(session, self.heads["quantized"], rows, _BATCH, self.context.stop)
            self._add("quantized", outputs, self.graphs["quantized"].stat().st_size, self.models["student"]["params"])
        self.context.advance(NAME, 0.4)

    def _rows(self, head: Head, folder: Path) -> Rows:
        rows = runs.rows(self.context, "test", folder, head)
        labelled = rows.labelled() if self.context.spec.task != "masked-lm" else rows
        if len(labelled):
            rows = labelled
        elif self.context.spec.task in ("text-classification", "token-classification") or not len(rows):
            raise DatasetInvalid(
                "No labelled row is left to evaluate on.", param="data.test_file", hint="Give test rows that have a label."
            )
        limit = self.context.spec.evaluation.max_items
        if limit is None or limit >= len(rows.examples):
            return rows
        drawn = np.random.default_rng(self.context.spec.seed).choice(len(rows.examples), size=limit, replace=False)
        return rows.only(sorted(int(r) for r in drawn))

    def _ensemble(self, rows: Rows) -> Outputs | None:
        """What several teachers say together; the job's quality is held against that."""
        if not self.context.spec.teacher.ensemble:
            return None
        members = label.members(self.context, "test")
        return ensemble_outputs(Answers(members), rows)

    def _add(self, who: str, outputs: Outputs, size: int, params: int) -> None:
        head, rows = self.heads[who], self.rows[who]
        judged = self._teacher if who == "teacher" and self.context.spec.teacher.ensemble else outputs
        assert judged is not None
        try:
            quality = head.judge(judged, rows, self._teacher, resamples=1000, seed=self.context.spec.seed)
        except ValueError as error:
            raise DatasetInvalid(
                f"The {report.titles(self.told)[who]} cannot be judged on the test rows: {error}.",
                param="data.test_file",
                hint="Give test rows that differ, with labels the teacher knows.",
            ) from error
        self.quality_of[who] = quality
        told = {"quality": quality.to_json(), "bytes": size, "params": params, "row_score": quality.row_score}
        lengths = [max(len(rows.tokens[i]) for i in example) for example in rows.examples]
        if len(lengths) == len(quality.scores_N):
            told["by_length"] = by_length(np.array(lengths), quality.scores_N)
        self.models[who] = told

    def _export(self, who: str, source: Path, outputs: Outputs) -> None:
        """The float graph that the speed is measured on, held against the model it came from."""
        self.context.stop()
        out = self.temporary / who
        out.mkdir()
        head, rows = self.heads[who], self.rows[who]
        try:
            graph = Onnx().export(source, out, head)
        except UnsupportedMethod as error:
            self.context.warn("not_exported", f"No speed of the {who}: {error.message}")
            return
        few = rows.only(range(min(16, len(rows.examples))))
        session = open_session(graph, _THREADS)
        trained = head.predict(head.load(source), few, torch.device("cpu"), _BATCH)
        hold_float(compare(trained, onnx_outputs(session, head, few, _BATCH), head))
        self.graphs[who] = graph

    def speed(self) -> None:
        self._started, self._shown = time.monotonic(), 0.0
        subjects = {
            who: latency.Subject(open_session(self.graphs[who], _THREADS), self.rows[who].sequences())
            for who in report.ORDER
            if who in self.graphs and who in self.rows
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


def ensemble_outputs(answers: Answers, rows: Rows) -> Outputs:
    """All members' answers to the rows, averaged or routed, in the shape that `judge` compares."""
    from worker.rows import by_length as batches
    from worker.rows import collate

    head, found = answers.first.head, []
    for examples in batches(answers.first.rows, _BATCH):
        batch = collate(answers.first.rows, examples)
        found.append((examples, answers(batch.to(answers.first.device), head.answers()), batch))
    outputs = head.gather(answers.first.rows, found)
    return head.comparable(outputs, rows)


def _hold_target(context: Context, found: dict[str, Any]) -> None:
    """The finished student against what was asked of it; see `search.hold`."""
    if context.spec.target is None:
        return
    summary = found["summary"]
    served = summary[report.served_name(found["models"])]
    figures = {name: summary[name] for name in ("retention", "speedup", "size_ratio")}
    missed = search.hold(context, {**figures, "latency_ms": (served["latency_ms"] or {}).get("p50")})
    found["search"] = {**json.loads((context.output("search") / "trials.json").read_text()), "missed": missed}
    for shortfall in missed:
        context.warn("target_missed", f"The student {shortfall['message']}.")


def _report(context: Context, data: dict[str, Any], measured: _Run) -> dict[str, Any]:
    models = measured.models
    training = context.output("student") / "training.json"
    speed = models["student"].get("speed") or {}
    served = report.titles(measured.told)[report.served_name(models)]
    how = [
        line.format(threads=_THREADS, texts=speed.get("texts"), rounds=speed.get("rounds"), served=served) for line in report.HOW
    ]
    made = context.output("augmented") / "augmentation.json"
    told = {teacher.name: context.output(f"{teacher.name}.json") for teacher in label.teachers(context)}
    fitted = {name: json.loads(path.read_text()) for name, path in told.items() if path.is_file()}
    return {
        "format": 2,
        "name": context.spec.name,
        "task": context.spec.task,
        "summary": report.summarize(models, measured.quality_of, context.spec.seed),
        "models": models,
        "rows": len(measured.rows["student"].examples),
        "data": data,
        "seed": context.spec.seed,
        "plan": context.spec.resolved(),
        "training": json.loads(training.read_text()) if training.is_file() else {},
        "teachers": fitted,
        "labels": json.loads((context.output("labelled") / "labels.json").read_text()),
        "augmentation": json.loads(made.read_text()) if made.is_file() else None,
        **measured.told,
        "curves": runs.curves(context),
        "warnings": context.warnings,
        "how": how,
    }


def _parameters(weights: list[Path]) -> int:
    total = 0
    for path in weights:
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                total += int(np.prod(tensors.get_slice(name).get_shape()))
    return total
