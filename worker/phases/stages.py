"""The stages of the spec as things that run: objectives, who teaches, and what the job's teacher is asked for them."""

from typing import Any

from app.domain.schedule import Schedule
from app.domain.spec import Stage
from worker import plugins
from worker.objectives.base import Objective
from worker.phases.base import Context
from worker.signals import Shape, Wants
from worker.teachers.base import Source
from worker.training.determinism import derived
from worker.training.plan import Plan


def objectives(stage: Stage) -> list[tuple[Objective, Schedule]]:
    return [(plugins.get("objectives", o.type)(**o.params), o.weight) for o in stage.objectives]


def source(stage: Stage) -> Source | None:
    """None for a stage in which nobody teaches."""
    if not any("teacher" in objective.needs for objective, _ in objectives(stage)):
        return None
    made: Source = plugins.get("teachers", stage.teacher.type)(**stage.teacher.params)
    return made


def plan(context: Context, stage: Stage, wanted: list[tuple[Objective, Schedule]], frozen: list[str]) -> Plan:
    mixup = next((a.params.get("alpha", 0.4) for a in context.spec.augmentation if a.type == "mixup"), None)
    return Plan(
        name=stage.name,
        objectives=wanted,
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
        frozen=frozen,
        mixup=mixup,
        balance=stage.balance,
    )


def asked_of_teacher(context: Context, student: Shape, teacher: Shape) -> Wants:
    """Everything that the stages taught by the job's own teacher want of it."""
    wanted = Wants()
    for stage in context.spec.stages or []:
        if stage.teacher.type != "main":
            continue
        for objective, _ in objectives(stage):
            objective.setup(student, teacher)
            wanted = wanted | objective.teacher_wants()
    return wanted


def needs_influence(context: Context) -> bool:
    """Whether a layer map is chosen by how much the teacher's layers move the state."""
    found: list[Any] = [o.params.get("layers") for stage in context.spec.stages or [] for o in stage.objectives]
    return "block_influence" in found
