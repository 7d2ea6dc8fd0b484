"""A teacher's folder: the given model's own files, or the model fitted on the labelled rows first. A fitted teacher is kept.

<cache>/fitted-<key>/     key: everything that decides the fitted weights, so that the next job on the same rows takes it over
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from app.domain import manifest
from app.domain.errors import ArtifactCorrupt, DatasetInvalid
from app.domain.schedule import Schedule
from app.domain.spec import Finetune
from worker import plugins
from worker.answers.cache import model_digest
from worker.heads.base import Head
from worker.phases import runs
from worker.phases.base import Context
from worker.precision import device_of, mixed_precision
from worker.training.determinism import derived, seed_everything
from worker.training.loop import Lessons, fit
from worker.training.plan import Plan


def fill(context: Context, head: Head, name: str, source: Path, wanted: Finetune | None, low: float, high: float) -> None:
    """Fill `<workdir>/<name>/`; `low` and `high` are the stretch of the labelling phase that this takes."""
    if wanted is None:
        head.require(source)
        _take(source, context.fresh(name))
        return
    kept = Path(context.request.cache_dir) / f"fitted-{_key(context, head, name, source, wanted)}"
    if (known := _whole(kept)) is not None:
        _take(kept, context.fresh(name))
        (kept / "USED").touch()
        saved = {"seconds_saved": known["seconds"]} if "seconds" in known else {}
        context.output(f"{name}.json").write_text(json.dumps({"steps": 0, "seconds": 0.0, "reused": True, **saved}))
        return
    seed = _seed(context, name, wanted)
    seed_everything(seed, context.spec.deterministic)
    model = head.load(source)
    plan = Plan(
        name=name,
        objectives=[(plugins.get("objectives", type_)(**params), Schedule(start=1.0)) for type_, params in head.hard],
        epochs=wanted.epochs,
        learning_rate=wanted.learning_rate,
        batch_size=wanted.batch_size,
        train=wanted.train,
        seed=seed,
    )
    train = runs.rows(context, "train", source, head).labelled()
    if not len(train):
        message = "No training row has a label to fit the teacher on."
        raise DatasetInvalid(message, param="teacher.finetune", hint="Leave finetune out, or give labels.")
    lessons = Lessons(train, runs.rows(context, "validation", source, head))
    outcome = fit(model, head, plan, lessons, runs.place(context, name, "labelling", low, high))
    out = context.fresh(name)
    head.save(model, source, out)
    told = {"steps": outcome.steps, "seconds": outcome.seconds, "metric": outcome.metric, "validation": outcome.best_score}
    context.output(f"{name}.json").write_text(json.dumps(told))
    _keep(out, kept, outcome.seconds)


def _seed(context: Context, name: str, wanted: Finetune) -> int:
    return derived(context.spec.seed if wanted.seed is None else wanted.seed, name)


def _key(context: Context, head: Head, name: str, source: Path, wanted: Finetune) -> str:
    prepared = context.output("prepared")
    told = {
        "source": model_digest(source),
        "finetune": wanted.model_dump(mode="json"),
        "rows": [manifest.sha256_file(prepared / f"{split}.jsonl") for split in ("train", "validation")],
        "about": str(head.about),
        "seed": _seed(context, name, wanted),
        "deterministic": context.spec.deterministic,
        "device": context.request.device,
        "precision": mixed_precision(context.spec.compute.precision, device_of(context.request.device)),
        "divisor": context.request.micro_batch_divisor,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _whole(kept: Path) -> dict[str, Any] | None:
    try:
        return manifest.verify(kept)
    except ArtifactCorrupt:
        return None


def _keep(folder: Path, kept: Path, seconds: float) -> None:
    """`seconds` of fitting stand in the manifest: what the next job saves."""
    staged = kept.with_name(f".{kept.name}.{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True, mode=0o700)
    _take(folder, staged)
    manifest.write(staged, seconds=round(seconds, 3))
    shutil.rmtree(kept, ignore_errors=True)
    staged.rename(kept)


def _take(source: Path, out: Path) -> None:
    """The model's files, by hard link where the disk allows."""
    for path in source.iterdir():
        if path.is_file() and not path.name.startswith((".", "MANIFEST", "retort.json", "USED")):
            try:
                os.link(path, out / path.name)
            except OSError:
                shutil.copyfile(path, out / path.name)
