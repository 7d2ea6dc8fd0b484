"""A report as the evaluate phase leaves it, of models that answer by chance: real figures, made in milliseconds."""

from typing import Any

import numpy as np

from app import quality
from app.quality import Quality, by_length
from worker.evaluators import report

LABELS = ["card_arrival", "lost_or_stolen_card", "refund", "top_up_failed"]
NOISE = {"teacher": 1.0, "baseline": 2.2, "student": 1.4, "quantized": 1.45}


def qualities(rows: int = 300, labels: list[str] = LABELS) -> dict[str, Quality]:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, len(labels), rows)
    right, noise = 3 * np.eye(len(labels))[targets], rng.normal(size=(rows, len(labels)))
    answers = {who: right + scale * noise + 0.3 * rng.normal(size=noise.shape) for who, scale in NOISE.items()}
    return {who: quality.evaluate("single_label", z, targets, answers["teacher"], labels) for who, z in answers.items()}


def regression_qualities(rows: int = 200) -> dict[str, Quality]:
    rng = np.random.default_rng(1)
    targets, noise = rng.normal(size=rows), rng.normal(size=rows)
    teacher = targets + 0.5 * noise
    return {who: quality.evaluate("regression", targets + s * noise, targets, teacher) for who, s in NOISE.items()}


def sample(found: dict[str, Quality] | None = None, **changes: Any) -> dict[str, Any]:
    """Every part that a report can have; `changes` replace parts."""
    found = found or qualities()
    lengths = np.random.default_rng(2).integers(3, 60, len(found["student"]))
    sizes = {"teacher": 90_900_000, "baseline": 22_600_000, "student": 22_600_000, "quantized": 5_840_000}
    rates = {"teacher": 218.0, "baseline": 2310.0, "student": 2304.0, "quantized": 3870.0}
    models = {
        who: {
            "quality": found[who].to_json(),
            "by_length": by_length(lengths, found[who].scores_N),
            "bytes": sizes[who],
            "params": sizes[who] // 4,
            "peak_memory_bytes": 2 * sizes[who],
            "speed": {
                "latency_ms": {"p50": 1e3 / rates[who], "p99": 1.7e3 / rates[who]},
                "throughput": rates[who],
                "batch": 1,
                "rows_per_second": {"1": rates[who], "8": 0.9 * rates[who], "32": 0.8 * rates[who]},
                "texts": 96,
                "rounds": 7,
            },
        }
        for who in found
    }
    whole = {
        "format": 1,
        "name": "support intents",
        "summary": report.summarize(models, found),
        "models": models,
        "rows": len(found["student"]),
        "data": _data(),
        "seed": 7,
        "plan": _plan(),
        "training": _training(),
        "quantization": {
            "rows": 24,
            "quantized": 12,
            "kept_float": 3,
            "parity": {"agreement": 0.99, "min_cosine": 0.999, "max_abs_logit_diff": 0.04, "batch_drift": 1e-6},
            "fallbacks": [{"matrix": "layer.0.query", "form": "float", "error_before": 0.04, "error_after": 0.01}],
        },
        "warnings": [{"code": "not_exported", "message": "No speed of the teacher: a 'strange' classifier."}],
        "how": [line.format(threads=1, texts=96, rounds=7, served="student, INT8") for line in report.HOW],
        "curves": {"features": _curve(["hidden_mse"], 60), "output": _curve(["response", "hard_label"], 120)},
    }
    return whole | changes


def _data() -> dict[str, Any]:
    counts = {"train": 9000, "validation": 1000, "test": 300}
    return {"labels": LABELS, "counts": counts, "test_is_validation": False, "max_length": 64}


def _plan() -> dict[str, Any]:
    stage = {"epochs": 3, "learning_rate": 5e-5, "batch_size": 32, "train": "all"}
    constant = {"schedule": "constant", "start": 0.3, "end": None, "at": [], "values": [], "warmup": 0.0}
    cosine = {**constant, "schedule": "cosine", "start": 8.0, "end": 1.0}
    step = {**constant, "schedule": "step", "start": 1.0, "at": [0.5], "values": [0.7], "warmup": 0.1}
    return {
        "task": "text-classification",
        "teacher": {"source": "local", "model": "minilm", "revision": None, "ensemble": []},
        "student": {"init": "teacher_layers", "layers": 2, "hidden_size": 192, "adapter": None},
        "recipe": None,
        "augmentation": [],
        "stages": [
            {"name": "features", "objectives": [{"type": "hidden_mse", "weight": constant, "layers": "uniform"}], **stage},
            {
                "name": "output",
                "objectives": [
                    {"type": "response", "weight": step, "temperature": cosine},
                    {"type": "hard_label", "weight": constant},
                ],
                **stage,
            },
        ],
        "quantization": {"scheme": "int8_dynamic"},
    }


def _training() -> dict[str, Any]:
    resolved = {"hidden_mse": {"layers": [[1, 3], [2, 6]], "projections": {"layer_1_3": [192, 384]}}}
    return {
        "student": {
            "init": "teacher_layers",
            "layer_map": {"0": 2, "1": 5},
            "hidden_size": [384, 192],
            "vocabulary": "the teacher's, 30,522 tokens",
            "parameters": 5_650_000,
        },
        "stages": [
            {"name": "features", "steps": 846, "seconds": 61.2, "final_loss": 0.31, "objectives": resolved},
            {"name": "output", "steps": 1692, "seconds": 118.9, "final_loss": 0.052},
        ],
    }


def _curve(objectives: list[str], steps: int) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    at = list(range(0, 10 * steps, 10))
    values: dict[str, list[float | None]] = {"loss": _decay(rng, steps, 2.0), "grad_norm": _decay(rng, steps, 5.0)}
    for n, name in enumerate(objectives):
        values[f"{name}/loss"] = _decay(rng, steps, 1.5 - n)
        values[f"{name}/grad_norm"] = [v if i % 5 == 0 else None for i, v in enumerate(_decay(rng, steps, 0.1))]
        values[f"{name}/weight"] = [0.5] * steps
    values["learning_rate"] = [1e-4] * steps
    return {"steps": at, "values": values}


def _decay(rng: np.random.Generator, steps: int, start: float) -> list[float | None]:
    return [float(start * np.exp(-3 * i / steps) * (1 + 0.2 * rng.random())) for i in range(steps)]
