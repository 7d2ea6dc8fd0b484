"""The student: made, taught stage by stage, and beside it the same student taught by labels alone.

initial/   the student before training        student/   after it, + training.json        baseline/   without the teacher
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from app.domain.schedule import Schedule
from app.domain.spec import Stage
from worker import plugins
from worker.objectives.base import Objective
from worker.objectives.hard_label import HardLabel
from worker.phases import runs
from worker.phases.base import Context
from worker.run.faults import Failpoint, hit
from worker.students.base import Origin
from worker.teachers import cached, local_hf
from worker.training.determinism import derived, seed_everything
from worker.training.loop import Outcome, Plan, fit

SAMPLES = 2048  # texts on which a narrower student's directions are measured


def run(context: Context) -> None:
    if not context.sealed("initial"):
        _make_initial(context)
        context.seal("initial")
    initial = context.output("initial")
    stages = context.spec.stages or []
    wants_baseline = context.spec.evaluation.baseline
    steps = sum(stage.epochs for stage in stages)
    full = steps * (1.6 if wants_baseline else 1.0)  # the baseline sees only labelled rows
    if not context.sealed("student"):
        model, outcomes, done = _load(initial), {}, 0.0
        for stage in stages:
            outcomes[stage.name] = _stage(context, model, stage, done / full, (done + stage.epochs) / full)
            done += stage.epochs
        out = context.fresh("student")
        local_hf.save(model, initial, out)
        (out / "training.json").write_text(json.dumps(_told(context, model, outcomes), sort_keys=True))
        context.seal("student")
        hit(Failpoint.PHASE_SEALED)
    if wants_baseline and not context.sealed("baseline"):
        model = _load(initial)
        done = float(steps)
        for stage in stages:
            _baseline(context, model, stage, done / full, (done + 0.6 * stage.epochs) / full)
            done += 0.6 * stage.epochs
        out = context.fresh("baseline")
        local_hf.save(model, initial, out)
        context.seal("baseline")


def _make_initial(context: Context) -> None:
    labels, teacher = runs.labels_of(context), context.output("teacher")
    given = context.request.student_dir
    texts = [record["text"] for record in runs.records(context, "train")[:SAMPLES]]
    origin = Origin(teacher, Path(given) if given else None, labels, texts, context.spec.data.max_length)
    init = plugins.get("students", context.spec.student.init)(**context.spec.student.params)
    seed_everything(derived(context.spec.seed, "student"), context.spec.deterministic)
    model = init.build(origin)
    out = context.fresh("initial")
    local_hf.save(model, init.tokenizer_dir(origin), out)
    (out / "plan.json").write_text(json.dumps(init.plan, sort_keys=True))


def _load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, dtype="float32"
    )
    return model


def _stage(context: Context, model: PreTrainedModel, stage: Stage, low: float, high: float) -> Outcome:
    plan = _plan(context, stage, [(_objective(o.type, o.params), o.weight) for o in stage.objectives])
    teacher_NC = _teacher_logits(context) if any("dense_logits" in o.needs for o, _ in plan.objectives) else None
    seed_everything(plan.seed, context.spec.deterministic)
    train = runs.rows(context, "train", context.output("initial"))
    return fit(model, plan, train, _validation(context), teacher_NC, runs.place(context, stage.name, "training", low, high))


def _baseline(context: Context, model: PreTrainedModel, stage: Stage, low: float, high: float) -> None:
    """The same stage with hard labels only: what the student reaches without a teacher."""
    plan = replace(_plan(context, stage, [(HardLabel(), Schedule(start=1.0))]), name=f"baseline-{stage.name}")
    seed_everything(plan.seed, context.spec.deterministic)
    train = runs.rows(context, "train", context.output("initial")).labelled()
    fit(model, plan, train, _validation(context), None, runs.place(context, plan.name, "training", low, high))


def _plan(context: Context, stage: Stage, objectives: list[tuple[Objective, Schedule]]) -> Plan:
    return Plan(
        name=stage.name,
        objectives=objectives,
        epochs=stage.epochs,
        learning_rate=stage.learning_rate,
        batch_size=stage.batch_size,
        seed=derived(context.spec.seed, stage.name),
        gradient_accumulation=stage.gradient_accumulation,
        weight_decay=stage.weight_decay,
        warmup_ratio=stage.warmup_ratio,
        max_grad_norm=stage.max_grad_norm,
        max_steps=stage.max_steps,
        patience=stage.early_stopping.patience if stage.early_stopping else None,
        train=stage.train,
    )


def _objective(name: str, params: dict[str, Any]) -> Objective:
    made: Objective = plugins.get("objectives", name)(**params)
    return made


def _validation(context: Context) -> Any:
    return runs.rows(context, "validation", context.output("initial"))


def _teacher_logits(context: Context) -> Tensor:
    described = json.loads((context.output("labelled") / "labels.json").read_text())
    folder = Path(context.request.cache_dir) / described["fingerprint"]
    return cached.read(folder, described["shards"], runs.rows(context, "train", context.output("teacher")))


def _told(context: Context, model: PreTrainedModel, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    return {
        "student": json.loads((context.output("initial") / "plan.json").read_text()),
        "params": sum(p.numel() for p in model.parameters()),
        "stages": [
            {
                "name": name,
                "steps": o.steps,
                "seconds": o.seconds,
                "final_loss": o.final_loss,
                "validation_accuracy": o.best_score,
                "validation_scores": o.scores,
            }
            for name, o in outcomes.items()
        ],
    }
