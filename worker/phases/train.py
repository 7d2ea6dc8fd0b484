"""The student taught stage by stage, or searched for first, and beside it the same student taught by labels alone.

student/   after training        baseline/   without the teacher        search/   what a target's search found
"""

import json
from dataclasses import replace
from pathlib import Path

from app.domain.schedule import Schedule
from worker import plugins
from worker.heads.base import Head
from worker.objectives.base import Objective
from worker.phases import runs, search, stages
from worker.phases.base import Context
from worker.phases.teaching import Taught
from worker.rows import Rows
from worker.run.faults import Failpoint, hit
from worker.surgery import adapters
from worker.training.determinism import seed_everything
from worker.training.loop import Lessons, fit

BASELINE = 0.6  # of the student's time: the baseline sees only labelled rows and hears nobody


def run(context: Context) -> None:
    spec = context.spec
    if spec.target is not None and not context.sealed("search"):
        search.run(context)
        for name in ("initial", "labelled", "student"):
            context.seal(name)
    epochs = sum(stage.epochs for stage in spec.stages or [])
    full = epochs * (1 + BASELINE * spec.evaluation.baseline)
    if not context.sealed("student"):
        Taught(context, epochs / full).run()
        context.seal("student")
        hit(Failpoint.PHASE_SEALED)
    if spec.evaluation.baseline and not context.sealed("baseline"):
        _baseline(context, epochs / full)
        context.seal("baseline")


def _baseline(context: Context, low: float) -> None:
    """The same student and stages with hard labels only: what it reaches without a teacher. Without labels it stays as it began."""
    initial, head = context.output("initial"), runs.head(context, "student")
    taught = Taught(context, low)
    model = taught.first()
    train = _own(context, head, initial).labelled()
    hard: list[tuple[Objective, Schedule]] = []
    todo = context.spec.stages or []
    whole, done = sum(stage.epochs for stage in todo), 0
    for n, stage in enumerate(todo):
        if not len(train):
            break
        if stage.restart and n:
            model = taught.first()
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
