"""How long and how large a job will be, before it runs: a rule of thumb that says what it assumes.

Work of a transformer encoder: 2 P operations per token forward, 6 P forward and backward, P its parameters without the
embedding table. Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1.
"""

import math
from dataclasses import dataclass
from typing import Any

from app.domain.modelfiles import ModelInfo
from app.domain.spec import JobSpec

_RATE = {"cpu": 5e10, "cuda": 2e13}  # operations per second that small encoders reach
_STEP_SECONDS = {"cpu": 0.01, "cuda": 0.01}  # of a step that no arithmetic explains
_FIXED_SECONDS = 20.0  # loading, export, packaging
_SPREAD = 4.0  # low = expected / this, high = expected * this
_CHARACTERS_PER_TOKEN = 4.5


@dataclass(frozen=True)
class Sizes:
    rows: int  # of the training file that are usable
    validation: int | None  # None: split off the training rows
    test: int
    characters: float


def estimate(
    spec: JobSpec, sizes: Sizes, teacher: ModelInfo | None, student: ModelInfo | None, device: str, free_bytes: int
) -> dict[str, Any]:
    """`spec` is expanded: its stages are written out."""
    rows = min(sizes.rows, spec.data.max_examples or sizes.rows)
    train = rows if sizes.validation is not None else max(1, round(rows * (1 - spec.data.validation_split)))
    held = sizes.validation if sizes.validation is not None else rows - train
    tokens = min(spec.data.max_length, 2 + sizes.characters / _CHARACTERS_PER_TOKEN)
    big, small = _encoder(teacher), _student(spec, teacher, student)
    steps = [_steps(train, s.batch_size * s.gradient_accumulation, s.epochs, s.max_steps) for s in spec.stages or []]
    seen = sum(n * s.batch_size * s.gradient_accumulation for n, s in zip(steps, spec.stages or [], strict=True))
    work = 2 * big * tokens * (train + held + sizes.test)
    optimiser_steps = sum(steps) * (2 if spec.evaluation.baseline else 1)
    work += 6 * small * tokens * seen * (2 if spec.evaluation.baseline else 1)
    if (fit := spec.teacher.finetune) is not None:
        work += 6 * big * tokens * train * fit.epochs
        optimiser_steps += _steps(train, fit.batch_size, fit.epochs, None)
    seconds = _FIXED_SECONDS + work / _RATE[device] + optimiser_steps * _STEP_SECONDS[device]
    disk = _disk(teacher, small, train)
    return {
        "steps": sum(steps),
        "duration_seconds": {"low": round(seconds / _SPREAD), "expected": round(seconds), "high": round(seconds * _SPREAD)},
        "device_memory_bytes": _memory(teacher, small, spec, tokens),
        "disk_bytes": disk,
        "teacher_tokens": round(tokens * (train + held + sizes.test)),
        "cost": None,
        "fits": disk < 0.9 * free_bytes,
        "basis": "heuristic",
        "assumptions": [
            f"{train:,} training rows of about {tokens:.0f} tokens",
            f"teacher {big / 1e6:.1f} M, student {small / 1e6:.1f} M parameters without embeddings"
            + ("" if teacher is not None else " (the hub's model is not known yet: a base-size encoder assumed)"),
            f"{_RATE[device]:.0e} operations per second ({device}), a worker is free, nothing else runs on it",
        ],
    }


def _steps(rows: int, batch: int, epochs: int, most: int | None) -> int:
    steps = math.ceil(rows / batch) * epochs
    return min(steps, most) if most is not None else steps


def _encoder(info: ModelInfo | None) -> float:
    if info is None:
        return 86e6  # a base-size encoder
    return max(1.0, info.params - (info.vocab_size or 0) * (info.hidden_size or 0))


def _student(spec: JobSpec, teacher: ModelInfo | None, student: ModelInfo | None) -> float:
    if spec.student.init != "teacher_layers":
        return _encoder(student)
    asked = spec.student.params
    layers = len(asked["layers"]) if isinstance(asked.get("layers"), list) else int(asked.get("layers") or 2)
    width = int(asked.get("hidden_size") or (teacher.hidden_size if teacher else None) or 768)
    wide = int(asked.get("intermediate_size") or 4 * width)
    return float(layers * (4 * width**2 + 2 * width * wide))


def _memory(teacher: ModelInfo | None, small: float, spec: JobSpec, tokens: float) -> int:
    """The larger of the two that train: weights, gradients and two moments in float32, and the batch's hidden states."""
    table = float((teacher.vocab_size or 0) * (teacher.hidden_size or 0)) if teacher else 30e6
    width, depth = (teacher.hidden_size or 768, teacher.num_layers or 12) if teacher else (768, 12)
    batch = max((s.batch_size for s in spec.stages or []), default=32)
    states = batch * tokens * width * depth * 4 * 16  # about 16 values are kept per position, width and layer
    big = (teacher.params if teacher else 110e6) * (16 if spec.teacher.finetune is not None else 4)
    return round(max(big, 16 * (small + table)) + states)


def _disk(teacher: ModelInfo | None, small: float, train: int) -> int:
    """Teacher kept twice when fitted, its logits, and for the student: weights, optimiser state of two checkpoints, exports."""
    table = (teacher.vocab_size or 0) * (teacher.hidden_size or 0) if teacher else 30e6
    return round(3 * (teacher.bytes if teacher else 5e8) + 4 * (small + table) * 10 + 1000 * train)
