"""How long and how large a job will be, before it runs: a rule of thumb that says what it assumes.

Work of a transformer encoder: 2 P operations per token forward, 6 P forward and backward, P its parameters without the
embedding table. Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1.
"""

import math
from dataclasses import dataclass
from typing import Any

from app.domain import catalog
from app.domain.model_checks import Models, body
from app.domain.modelfiles import ModelInfo
from app.domain.spec import JobSpec, Stage
from app.services import endpoints

_RATE = {"cpu": 5e10, "cuda": 2e13}  # operations per second that small encoders reach
_STEP_SECONDS = {"cpu": 0.01, "cuda": 0.01}  # of a step that no arithmetic explains
_FIXED_SECONDS = 20.0  # loading, export, packaging
_SPREAD = 4.0  # low = expected / this, high = expected * this
_CHARACTERS_PER_TOKEN = 4.5
_CACHED_BYTES = 4 * 2**30  # of hidden states that cache = auto keeps
_UNKNOWN = 86e6  # parameters of a base-size encoder, assumed of a model of the hub


@dataclass(frozen=True)
class Sizes:
    rows: int  # of the training file that are usable
    validation: int | None  # None: split off the training rows
    test: int
    characters: float  # of one sequence
    sequences: float = 1.0  # that a model reads per row


@dataclass(frozen=True)
class _Load:
    """What flows through the models: rows, and tokens per row."""

    train: int  # rows that are trained on, made ones among them
    given: int  # those that have labels, or may have
    held: int  # validation and test rows
    tokens: float


def estimate(spec: JobSpec, sizes: Sizes, models: Models, device: str, free_bytes: int) -> dict[str, Any]:
    """`spec` is expanded: its stages are written out."""
    load, stages = _load(spec, sizes), spec.stages or []
    big = float(body(models.teacher)) if models.teacher else _UNKNOWN
    small = _student(spec, models)
    steps = [_steps(load.train, s.batch_size * s.gradient_accumulation, s.epochs, s.max_steps) for s in stages]
    seen = [n * s.batch_size * s.gradient_accumulation for n, s in zip(steps, stages, strict=True)]
    times = (2 if spec.evaluation.baseline else 1) * (1 + math.log2(spec.target.trials) if spec.target else 1)
    asked = (1 + len(spec.teacher.ensemble)) * (load.train + load.held)  # rows that the teachers answer once, and are judged on
    work = 2 * big * load.tokens * asked + 6 * small * load.tokens * sum(seen) * times
    work += sum(_taught(spec, stage, big, small) * load.tokens * n for stage, n in zip(stages, seen, strict=True))
    optimiser_steps = round(sum(steps) * times)
    for fit in (m.finetune for m in (spec.teacher, *spec.teacher.ensemble) if m.finetune is not None):
        work += 6 * big * load.tokens * load.given * fit.epochs
        optimiser_steps += _steps(load.given, fit.batch_size, fit.epochs, None)
    seconds = _FIXED_SECONDS + work / _RATE[device] + optimiser_steps * _STEP_SECONDS[device]
    disk = _disk(spec, models, small, load)
    return {
        "steps": sum(steps),
        "duration_seconds": {"low": round(seconds / _SPREAD), "expected": round(seconds), "high": round(seconds * _SPREAD)},
        "device_memory_bytes": _memory(models.teacher, small, spec, load.tokens),
        "disk_bytes": disk,
        "teacher_tokens": round(load.tokens * asked),
        "cost": None,
        "fits": disk < 0.9 * free_bytes,
        "basis": "heuristic",
        "assumptions": [
            f"{load.train:,} training rows of about {load.tokens:.0f} tokens",
            f"teacher {big / 1e6:.1f} M, student {small / 1e6:.1f} M parameters without embeddings"
            + ("" if models.teacher is not None else " (the hub's model is not known yet: a base-size encoder assumed)"),
            f"{_RATE[device]:.0e} operations per second ({device}), a worker is free, nothing else runs on it",
            *(
                f"up to {endpoints.requests(a.params, load.given):,} requests to {a.params['base_url']}, whose time is not in this"
                for a in spec.augmentation
                if a.params.get("source") == endpoints.SOURCE
            ),
            *([f"the search costs {math.log2(spec.target.trials):.1f} trainings more"] if spec.target else []),
        ],
    }


def _load(spec: JobSpec, sizes: Sizes) -> _Load:
    rows = min(sizes.rows, spec.data.max_examples or sizes.rows)
    given = rows if sizes.validation is not None else max(1, round(rows * (1 - spec.data.validation_split)))
    held = sizes.validation if sizes.validation is not None else rows - given
    made = sum(float(a.params.get("factor") or 0) for a in spec.augmentation)
    length = min(spec.data.max_length, 2 + sizes.characters / _CHARACTERS_PER_TOKEN)
    return _Load(round(given * (1 + made)), given, held + sizes.test, length * sizes.sequences)


def _taught(spec: JobSpec, stage: Stage, big: float, small: float) -> float:
    """Operations per token and epoch of whoever teaches while the student trains; 0 when it was asked before."""
    needs = {need for o in stage.objectives for need in catalog.room("objectives")[o.type].get("needs", ())}
    if "teacher" not in needs:
        return 0.0
    match stage.teacher.type:
        case catalog.MAIN:
            anew = spec.task == "masked-lm" or "qkv" in needs or ("hidden" in needs and spec.teacher.cache == "never")
            return 2 * big * (1 + len(spec.teacher.ensemble)) if anew else 0.0
        case "mutual":
            return 6 * small * float(stage.teacher.params.get("peers") or 1)
        case _:
            return 2 * small


def _steps(rows: int, batch: int, epochs: int, most: int | None) -> int:
    steps = math.ceil(rows / batch) * epochs
    return min(steps, most) if most is not None else steps


def _student(spec: JobSpec, models: Models) -> float:
    if models.student is not None:
        return float(body(models.student))
    asked, teacher = spec.student.params, models.teacher
    if asked.get("model"):
        return _UNKNOWN
    layers = len(asked["layers"]) if isinstance(asked.get("layers"), list) else int(asked.get("layers") or 2)
    width = int(asked.get("hidden_size") or (teacher.hidden_size if teacher else None) or 768)
    wide = int(asked.get("intermediate_size") or 4 * width)
    return float(layers * (4 * width**2 + 2 * width * wide))


def _memory(teacher: ModelInfo | None, small: float, spec: JobSpec, tokens: float) -> int:
    """The larger of the two that train: weights, gradients and two moments in float32, and the batch's hidden states."""
    width, depth = (teacher.hidden_size or 768, teacher.num_layers or 12) if teacher else (768, 12)
    batch = max((s.batch_size for s in spec.stages or []), default=32)
    states = batch * tokens * width * depth * 4 * 16  # about 16 values are kept per position, width and layer
    big = (teacher.params if teacher else 110e6) * (16 if spec.teacher.finetune is not None else 4)
    return round(max(big * (1 + len(spec.teacher.ensemble)), 16 * (small + _table(teacher))) + states)


def _disk(spec: JobSpec, models: Models, small: float, load: _Load) -> int:
    """Teachers, twice when fitted; what they said; and of the student weights, optimiser state of two checkpoints, exports."""
    teacher = models.teacher
    kept = 3 * (teacher.bytes if teacher else 5e8) * (1 + len(spec.teacher.ensemble))
    return round(kept + 4 * (small + _table(teacher)) * 10 + 1000 * load.train + _states(spec, models, load))


def _states(spec: JobSpec, models: Models, load: _Load) -> float:
    """Hidden states in half precision, one layer of the teacher for each of the student's."""
    needs = {need for s in spec.stages or [] for o in s.objectives for need in catalog.room("objectives")[o.type].get("needs", ())}
    if "hidden" not in needs or spec.teacher.cache == "never" or spec.task == "masked-lm":
        return 0.0
    width = (models.teacher.hidden_size if models.teacher else None) or 768
    layers = spec.student.params.get("layers")
    depth = len(layers) if isinstance(layers, list) else layers if isinstance(layers, int) else 6
    size = 2.0 * load.train * load.tokens * width * depth
    return size if spec.teacher.cache == "always" or size <= _CACHED_BYTES else 0.0


def _table(teacher: ModelInfo | None) -> float:
    return float((teacher.vocab_size or 0) * (teacher.hidden_size or 0)) if teacher else 30e6
