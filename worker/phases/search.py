"""The smallest student that meets the job's target: every candidate's speed and bytes first, then successive halving.

Speed, bytes and latency need no trained weights, so candidates that cannot meet them are never trained. The others train a
little, the better half more, the rest in full, on as many workers as are free (`trials`); quality is that of the validation
rows. Fills search/ (trials.json), and the winner's initial/, labelled/ and student/ become the job's own.
"""

import json
import shutil
import time
from dataclasses import asdict
from typing import Any

import torch

from app.domain.errors import TargetMissed
from app.domain.spec import Target
from worker import plugins
from worker.evaluators import latency
from worker.evaluators.base import feeds, open_session
from worker.exporters.onnx import Onnx
from worker.phases import initial, runs
from worker.phases.base import Context
from worker.phases.trials import Trials
from worker.quantizers.base import Calibration
from worker.search.halving import Trial, best, pareto, rungs, survivors
from worker.search.space import Candidate, candidates
from worker.search.target import shortfalls

NAME = "training"
MEASURED = 0.15  # share of the phase by which speeds are known
SEARCHED = 0.75  # and by which the winner is
_TEXTS = 48
_SECONDS = 1.5  # of measuring per candidate
_SHARE_OF_TIME = 0.6  # of the job's time budget that a search may take
_COST = ("min_speedup", "max_size_ratio", "max_latency_ms")


def run(context: Context) -> None:
    target = context.spec.target
    assert target is not None
    out = context.fresh("search")
    search = _Search(context, target)
    trials = search.measured()
    feasible = [t for t in trials if t.meets_cost]
    if not feasible:
        nearest = min(trials, key=lambda t: len(_cost_missed(target, t)))
        raise _missed(f"No student of the {len(trials)} that were measured is small and fast enough", target, nearest, trials)
    winner = search.halved(feasible[: target.trials])
    winner.chosen = True
    front = pareto(trials)
    told = [{**asdict(t), "pareto": t.name in front} for t in trials]
    (out / "trials.json").write_text(json.dumps({"target": target.model_dump(mode="json"), "trials": told}, sort_keys=True))
    made = search.trials.made(winner.name, winner.share, "student")
    assert made is not None
    for name in ("initial", "labelled", "student", "curves"):
        if (made.parent / name).is_dir():
            shutil.rmtree(context.output(name), ignore_errors=True)
            shutil.copytree(made.parent / name, context.output(name))
    context.seal("search")


def hold(context: Context, figures: dict[str, float | None]) -> list[dict[str, Any]]:
    """What the finished student misses of its target; raises TargetMissed unless the job asked to serve the best all the same."""
    target = context.spec.target
    if target is None:
        return []
    missed = shortfalls(target, figures)
    if missed and not target.serve_best:
        raise TargetMissed(
            "The best student that was found " + " and ".join(m["message"] for m in missed) + ".",
            param="target",
            hint="Loosen the target, allow more trials or epochs, or set target.serve_best to publish it all the same.",
            details=missed,
        )
    return missed


class _Search:
    def __init__(self, context: Context, target: Target) -> None:
        self.context, self.target = context, target
        self.trials = Trials(context, context.workdir, lambda what: self.context.advance(NAME, self.done, stage=what))
        self.head, self.teacher_head = self.trials.head, self.trials.teacher_head
        self.teacher = self.teacher_head.load(context.output("teacher"))
        self.shape = self.teacher_head.shape(self.teacher)
        self.began = time.monotonic()
        self.done = MEASURED

    # -- cost --------------------------------------------------------------------------------------------------------

    def measured(self) -> list[Trial]:
        """Speed, bytes and latency of every candidate's INT8 graph with untrained weights, beside the teacher's float graph."""
        known = self.context.output("measured") / "trials.json"
        if self.context.sealed("measured"):
            return [Trial(**entry) for entry in json.loads(known.read_text())]
        out = self.context.fresh("measured")
        rows = runs.rows(self.context, "validation", self.context.output("teacher"), self.teacher_head).sequences()
        rows = rows.only(range(min(_TEXTS, len(rows))))
        graph = Onnx().export(self.context.output("teacher"), self.context.fresh(".measuring"), self.teacher_head)
        teacher = latency.Subject(open_session(graph, 1), rows)
        weights = sum(p.stat().st_size for p in self.context.output("teacher").glob("model*.safetensors"))
        found: list[Trial] = []
        space = candidates(self.shape, self.target.layers, self.target.hidden_sizes)
        for n, candidate in enumerate(space):
            self.context.stop()
            found.append(self._cost(candidate, teacher, weights))
            self.context.advance(NAME, MEASURED * (n + 1) / len(space), stage="measuring")
        shutil.rmtree(self.context.output(".measuring"), ignore_errors=True)
        found.sort(key=lambda t: (t.bytes, t.latency_ms))
        (out / "trials.json").write_text(json.dumps([asdict(t) for t in found]))
        self.context.seal("measured")
        return found

    def _cost(self, candidate: Candidate, teacher: latency.Subject, weights: int) -> Trial:
        asked = candidate.changes(self.context.spec.student.params, self.shape)
        trial = self.trials.context(candidate.name, "cost", asked, 0.0)
        initial.make(trial)
        folder = trial.output("initial")
        graph = Onnx().export(folder, trial.fresh("graph"), self.head)
        own = runs.rows(trial, "validation", folder, self.head).sequences()
        own = own.only(range(min(_TEXTS, len(own))))
        block = self.context.spec.quantization
        scheme = plugins.get("quantizers", block.scheme)(**block.params)
        names = [i.name for i in open_session(graph, 1).get_inputs()]
        report = scheme.quantize(graph, trial.output("graph"), Calibration(graph, feeds(own, names, 32)))
        served = trial.output("graph") / report.file if report.file is not None else graph
        subjects = {"teacher": teacher, "student": latency.Subject(open_session(served, 1), own)}
        speed = latency.measure(subjects, budget_seconds=_SECONDS, rounds=5, rows=_TEXTS, stop=self.context.stop)
        ours, theirs = speed["student"], speed["teacher"]
        shutil.rmtree(trial.workdir, ignore_errors=True)
        made = Trial(
            name=candidate.name,
            student=asked,
            bytes=report.bytes,
            latency_ms=round(ours["latency_ms"]["p50"], 4),
            throughput=round(ours["throughput"], 2),
            speedup=round(ours["throughput"] / theirs["throughput"], 3),
            size_ratio=round(report.bytes / weights, 5),
            meets_cost=True,
        )
        missed = _cost_missed(self.target, made)
        made.meets_cost, made.notes = not missed, [m["message"] for m in missed]
        return made

    # -- quality -----------------------------------------------------------------------------------------------------

    def halved(self, trials: list[Trial]) -> Trial:
        teacher = self._teacher_quality()
        remaining, shares = list(trials), rungs(len(trials))
        total = sum(share * max(1, len(trials) // 2**n) for n, share in enumerate(shares))
        done = 0.0
        for n, share in enumerate(shares):
            by_name = {trial.name: trial for trial in remaining}
            students = {trial.name: trial.student for trial in remaining}
            late = self._late if share < 1.0 else lambda: False
            for name, quality in self.trials.rung(students, share, late):
                trial = by_name[name]
                if quality is None:
                    trial.notes.append("not trained further: the time for searching was used up")
                    continue
                trial.quality, trial.share = quality, share
                trial.retention = quality / teacher if teacher > 0 else None
                done += share
                self.done = MEASURED + (SEARCHED - MEASURED) * min(1.0, done / total)
                self.context.advance(NAME, self.done, stage=f"trial-{trial.name}")
            if n + 1 < len(shares):
                remaining = survivors(remaining, self.target.min_retention)
        return best(trials, self.target.min_retention)

    def _teacher_quality(self) -> float:
        rows = runs.rows(self.context, "validation", self.context.output("teacher"), self.teacher_head)
        outputs = self.teacher_head.predict(self.teacher, rows, torch.device("cpu"))
        own = self.teacher_head.comparable(outputs, rows)
        try:
            return self.teacher_head.judge(outputs, rows, own).value
        except ValueError:
            return 1.0

    def _late(self) -> bool:
        limit = self.context.spec.budget.max_wall_seconds
        return limit is not None and time.monotonic() - self.began > _SHARE_OF_TIME * limit


def _cost_missed(target: Target, trial: Trial) -> list[dict[str, Any]]:
    figures = {"speedup": trial.speedup, "size_ratio": trial.size_ratio, "latency_ms": trial.latency_ms}
    return shortfalls(target, figures, _COST)


def _missed(what: str, target: Target, nearest: Trial, trials: list[Trial]) -> TargetMissed:
    why = " and ".join(m["message"] for m in _cost_missed(target, nearest))
    table = [{"student": t.name, "bytes": t.bytes, "speedup": t.speedup, "latency_ms": t.latency_ms} for t in trials]
    return TargetMissed(f"{what}; the nearest, {nearest.name}, {why}.", param="target", hint="Loosen the target.", details=table)
