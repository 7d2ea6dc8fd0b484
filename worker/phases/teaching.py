"""The student's way through its stages: made anew or gone on with, taught, and written down with what was learned beside it.

student/   a transformers folder, + training.json, projections.safetensors, adapter/
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from safetensors.torch import save_file
from transformers import PreTrainedModel

from app.domain.spec import Stage
from worker.heads.base import Outputs
from worker.phases import label, runs, stages
from worker.phases.base import Context
from worker.rows import Rows
from worker.surgery import adapters
from worker.training.determinism import seed_everything
from worker.training.loop import Lessons, fit
from worker.training.plan import Outcome


def teach(context: Context) -> None:
    """The student alone; the caller seals it."""
    Taught(context, 1.0).run()


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
        model, previous, done = self.first(), None, 0
        whole = sum(stage.epochs for stage in todo)
        for n, stage in enumerate(todo):
            if stage.restart and n:
                model = self.first()
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

    def first(self) -> PreTrainedModel:
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
        for called, objective, _ in plan.named:
            for name, value in objective.projections.state_dict().items():
                self.beside[f"{stage.name}/{called}/{name}"] = value.detach().cpu().contiguous()
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
    return np.concatenate(parts)
