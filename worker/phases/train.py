"""The student: taught stage by stage, and beside it the same student taught by labels alone.

student/   after training, + training.json, projections and adapter beside it        baseline/   without the teacher
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel

from app.domain.schedule import Schedule
from app.domain.spec import Stage
from worker import adapters, plugins
from worker.heads.base import Head, Outputs
from worker.objectives.base import Objective
from worker.phases import label, runs, stages
from worker.phases.base import Context
from worker.rows import Rows
from worker.run.faults import Failpoint, hit
from worker.training.determinism import seed_everything
from worker.training.loop import Lessons, fit
from worker.training.plan import Outcome

BASELINE = 0.6  # of the student's time: the baseline sees only labelled rows and hears nobody


def run(context: Context) -> None:
    spec = context.spec
    epochs = sum(stage.epochs for stage in spec.stages or [])
    full = epochs * (1 + BASELINE * spec.evaluation.baseline)
    if not context.sealed("student"):
        Taught(context, epochs / full).run()
        context.seal("student")
        hit(Failpoint.PHASE_SEALED)
    if spec.evaluation.baseline and not context.sealed("baseline"):
        _baseline(context, epochs / full)
        context.seal("baseline")


class Taught:
    """The student's way through its stages; `until` is the share of the phase at which it ends."""

    def __init__(self, context: Context, until: float) -> None:
        self.context, self.until = context, until
        self.initial = context.output("initial")
        self.head = runs.head(context, "student")
        self.rows = {split: runs.rows(context, split, self.initial, self.head) for split in ("train", "validation")}
        self.frozen: list[str] = json.loads((self.initial / "plan.json").read_text()).get("frozen_patterns", [])
        self.outcomes: dict[str, Outcome] = {}
        self.beside: dict[str, Any] = {}

    def run(self) -> None:
        context, todo = self.context, self.context.spec.stages or []
        model, previous, done = self._first(), None, 0
        whole = sum(stage.epochs for stage in todo)
        for n, stage in enumerate(todo):
            if stage.restart and n:
                model = self._first()
            low, high = self.until * done / whole, self.until * (done + stage.epochs) / whole
            self.outcomes[stage.name] = self._stage(model, stage, previous, low, high)
            done += stage.epochs
            if n + 1 < len(todo) and todo[n + 1].teacher.type == "previous":
                previous = copy.deepcopy(model)
        out = context.fresh("student")
        if (adapter := context.spec.student.adapter) is not None:
            if not adapter.merge:
                adapters.save_apart(model, out / "adapter")
            model = adapters.merge(model)
        self.head.save(model, self.initial, out)
        if self.beside:
            save_file(self.beside, out / "projections.safetensors")
        (out / "training.json").write_text(json.dumps(self._told(model), sort_keys=True))

    def _first(self) -> PreTrainedModel:
        model = self.head.load(self.initial)
        if self.context.spec.student.adapter is not None:
            seed_everything(self.context.spec.seed, self.context.spec.deterministic)
            adapters.attach(model, self.context.spec.student.adapter)
        return model

    def _stage(self, model: PreTrainedModel, stage: Stage, previous: PreTrainedModel | None, low: float, high: float) -> Outcome:
        context = self.context
        wanted, source = stages.objectives(stage), stages.source(stage)
        plan = stages.plan(context, stage, wanted, self.frozen)
        seed_everything(plan.seed, context.spec.deterministic)
        lessons = Lessons(self.rows["train"], self.rows["validation"], source, previous=previous)
        if source is not None and stage.teacher.type == "main":
            answers, influence = label.answers(context)
            first = answers.first
            lessons = replace(lessons, main=answers, main_shape=first.head.shape(first.model, tuple(influence)))
        lessons = replace(lessons, validation_teacher=validation_teacher(context, self.rows["validation"]))
        outcome = fit(model, self.head, plan, lessons, runs.place(context, stage.name, "training", low, high))
        for objective, _ in wanted:
            for name, value in objective.projections.state_dict().items():
                self.beside[f"{stage.name}/{objective.name}/{name}"] = value.detach().cpu().contiguous()
        return outcome

    def _told(self, model: PreTrainedModel) -> dict[str, Any]:
        return {
            "student": json.loads((self.initial / "plan.json").read_text()),
            "params": sum(p.numel() for p in model.parameters()),
            "stages": [
                {
                    "name": name,
                    "steps": o.steps,
                    "seconds": o.seconds,
                    "final_loss": o.final_loss,
                    "metric": o.metric,
                    "validation": o.best_score,
                    "validation_scores": o.scores,
                    "objectives": o.plan,
                }
                for name, o in self.outcomes.items()
            ],
        }


def validation_teacher(context: Context, rows: Rows) -> Outputs | None:
    """What the teacher said of the validation rows, where they have no labels to be judged by."""
    described = json.loads((context.output("labelled") / "labels.json").read_text())
    if not any(entry["split"] == "validation" for entry in described["members"]):
        return None
    answers, _ = label.answers(context, "validation")
    return teacher_outputs(answers.first)


def teacher_outputs(member: Any) -> Outputs:
    """A member's cached answers as `judge` takes them."""
    which = range(len(member.rows))
    kinds = member.kinds_for(member.head.answers())
    logits = None
    if "logits" in kinds:
        taken = [part.numpy() for part in member.kept.take("logits", which)]
        logits = taken if member.rows.positions is not None else _stacked(taken)
    vectors = _stacked([part.numpy() for part in member.kept.take("embedding", which)]) if "embedding" in kinds else None
    outputs: Outputs = member.head.comparable(Outputs(logits, vectors), member.rows)
    return outputs


def _stacked(parts: Sequence[Any]) -> Any:
    import numpy as np

    return np.concatenate(parts)


def _baseline(context: Context, low: float) -> None:
    """The same student and stages with hard labels only: what it reaches without a teacher. Without labels it stays as it began."""
    initial, head = context.output("initial"), runs.head(context, "student")
    taught = Taught(context, low)
    model = taught._first()
    train = _own(context, head, initial).labelled()
    hard: list[tuple[Objective, Schedule]] = []
    todo = context.spec.stages or []
    whole, done = sum(stage.epochs for stage in todo), 0
    for n, stage in enumerate(todo):
        if not len(train):
            break
        if stage.restart and n:
            model = taught._first()
        hard = [(plugins.get("objectives", name)(**params), Schedule(start=1.0)) for name, params in head.hard]
        plan = replace(stages.plan(context, stage, hard, taught.frozen), name=f"baseline-{stage.name}", mixup=None)
        seed_everything(plan.seed, context.spec.deterministic)
        begin, end = (low + (1 - low) * d / whole for d in (done, done + stage.epochs))
        place = runs.place(context, plan.name, "training", begin, end)
        fit(model, head, plan, Lessons(train, taught.rows["validation"]), place)
        done += stage.epochs
    out = context.fresh("baseline")
    head.save(adapters.merge(model) if context.spec.student.adapter is not None else model, initial, out)


def _own(context: Context, head: Head, tokenizer_dir: Path) -> Rows:
    """The rows that were given, without those that were made with the teacher's help."""
    with (context.output("prepared") / "train.jsonl").open(encoding="utf-8") as f:
        return runs.encoded([json.loads(line) for line in f], tokenizer_dir, head)
