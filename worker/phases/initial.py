"""The student before training: made from the teacher, from another model or from nothing, with its tokenizer. Fills initial/."""

import json
from pathlib import Path

from worker import plugins
from worker.phases import runs
from worker.phases.base import Context
from worker.students.base import Origin
from worker.training.determinism import derived, seed_everything

SAMPLES = 2048  # rows on which activations are measured


def make(context: Context) -> None:
    given, head = context.request.student_dir, runs.head(context, "student")
    records = runs.records(context, "train")
    init = plugins.get("students", context.spec.student.init)(**context.spec.student.params)
    origin = Origin(
        teacher_dir=context.output("teacher"),
        student_dir=Path(given) if given else None,
        head=head,
        teacher_head=runs.head(context, "teacher"),
        sample=records[:SAMPLES],
        corpus=records,
        held_out=runs.records(context, "validation"),
        scratch=context.fresh(".making"),
        max_length=context.spec.data.max_length,
    )
    seed_everything(derived(context.spec.seed, "student"), context.spec.deterministic)
    model = init.build(origin)
    out = context.fresh("initial")
    head.save(model, init.tokenizer_dir(origin), out)
    (out / "plan.json").write_text(json.dumps(init.plan, sort_keys=True))
