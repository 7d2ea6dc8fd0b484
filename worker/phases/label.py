"""The teacher: fitted on the labelled rows if asked, then asked once for every training row.

teacher/    a transformers folder        labelled/labels.json   {"fingerprint", "kind": "logits", "shards": […]}
"""

import json
import os
import shutil
from pathlib import Path

from app.domain.schedule import Schedule
from worker.objectives.hard_label import HardLabel
from worker.phases import runs
from worker.phases.base import Context
from worker.run.faults import Failpoint, hit
from worker.teachers import cached, local_hf
from worker.training.determinism import derived, seed_everything
from worker.training.loop import Plan, fit
from worker.training.precision import device_of

FITTED = 0.85  # share of the phase that fitting takes


def run(context: Context) -> None:
    if not context.sealed("teacher"):
        _teacher(context)
        context.seal("teacher")
        hit(Failpoint.PHASE_SEALED)
    folder = context.output("teacher")
    rows = runs.rows(context, "train", folder)
    spec = context.spec.teacher
    teacher = local_hf.LocalHF(folder, device_of(context.request.device), spec.dtype, spec.batch_size)

    def tell(done: int) -> None:
        context.advance(
            "labelling",
            FITTED + (1 - FITTED) * done / max(1, len(rows)),
            examples_done=done,
            examples_total=len(rows),
            stage="labels",
        )

    key, shards = cached.label(teacher, rows, Path(context.request.cache_dir), context.stop, tell)
    out = context.fresh("labelled")
    (out / "labels.json").write_text(json.dumps({"fingerprint": key, "kind": "logits", "rows": len(rows), "shards": shards}))
    context.seal("labelled")


def _teacher(context: Context) -> None:
    """Fill teacher/: the given folder's own files when it classifies already, the fitted model otherwise."""
    source, labels = Path(context.request.teacher_dir), runs.labels_of(context)
    wanted = context.spec.teacher.finetune
    if wanted is None:
        local_hf.require_head(source, labels)
        out = context.fresh("teacher")
        for path in source.iterdir():
            if path.is_file() and not path.name.startswith((".", "MANIFEST", "retort.json")):
                _link(path, out / path.name)
        return
    seed = derived(context.spec.seed, "teacher")
    seed_everything(seed, context.spec.deterministic)
    model = local_hf.load_for(source, labels)
    plan = Plan(
        name="teacher",
        objectives=[(HardLabel(), Schedule(start=1.0))],
        epochs=wanted.epochs,
        learning_rate=wanted.learning_rate,
        batch_size=wanted.batch_size,
        train=wanted.train,
        seed=seed,
    )
    train, validation = runs.rows(context, "train", source).labelled(), runs.rows(context, "validation", source)
    outcome = fit(model, plan, train, validation, None, runs.place(context, "teacher", "labelling", 0.0, FITTED))
    out = context.fresh("teacher")
    local_hf.save(model, source, out)
    told = {"steps": outcome.steps, "seconds": outcome.seconds, "validation_accuracy": outcome.best_score}
    context.output("teacher.json").write_text(json.dumps(told))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
