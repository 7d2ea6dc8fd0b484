"""The report of a job: the summary that the API shows, and what both of its pages are made from (`markdown.py`, `page.py`).

The dictionary: name, summary, models {who: quality, by_length, bytes, params, speed, peak_memory_bytes}, rows, data, seed, plan,
training, quantization, warnings, how; and where they exist curves {stage: {steps, values {name: […]}}} and search {trials
[{name, latency_ms, bytes, quality, share, chosen}]}. A model may be missing, and so may any figure of one.
"""

from collections.abc import Mapping
from typing import Any

from app.quality import Quality, difference
from worker.evaluators.markdown import markdown
from worker.evaluators.tables import ORDER, titles

__all__ = ["HOW", "ORDER", "PRICE", "cost_per_million", "gains", "markdown", "served_name", "summarize", "titles"]

PRICE = 0.05  # USD per core-hour: about what an x86 core is rented for; an assumption, and said to be one
_SHOWN = ("macro_f1", "agreement", "ece")

HOW = (
    "Quality: teacher, baseline and student with their trained weights in float32, the quantized student through ONNX Runtime; "
    "95 % intervals by bootstrap over the test rows. "
    "The student that is not distilled starts from the same weights, made from the teacher's, and learns from the labels alone.",
    "Speed: all models as ONNX Runtime sessions on the CPU with {threads} thread(s), the same {texts} test texts, "
    "{rounds} interleaved rounds. "
    "Latency is of single texts; throughput is the best of batch sizes 1, 8 and 32 with batches sorted by length.",
    f"Cost: a million requests at that throughput on one core that is always busy, at an assumed {PRICE:.2f} USD per core-hour.",
    "Bytes: the weights file (safetensors; of the quantized student the ONNX file). "
    "Peak memory: growth of a fresh process that loads the ONNX model and runs one batch of 32 rows.",
    "Retention, speed-up and size ratio compare the {served} with the teacher.",
)


def summarize(
    models: Mapping[str, dict[str, Any]], qualities: Mapping[str, Quality] | None = None, seed: int = 0
) -> dict[str, Any]:
    """api.md's `report` block. `models[who]`: {quality, speed, bytes, peak_memory_bytes, params}; with `qualities`, also gains."""
    present = [who for who in ORDER if who in models]
    summary: dict[str, Any] = {"metric": models[present[0]]["quality"]["metric"]}
    for who in present:
        entry, quality, speed = models[who], models[who]["quality"], models[who].get("speed") or {}
        summary[who] = {
            "quality": quality["value"],
            "ci95": quality["ci95"],
            **{key: quality[key] for key in _SHOWN if key in quality},
            "throughput": speed.get("throughput"),
            "latency_ms": speed.get("latency_ms"),
            **{key: entry.get(key) for key in ("bytes", "peak_memory_bytes", "params")},
            "cost_per_million": cost_per_million(speed.get("throughput")),
        }
    teacher, served = summary.get("teacher", {}), summary[served_name(models)]
    summary |= {
        "retention": _ratio(served["quality"], teacher.get("quality")),
        "speedup": _ratio(served["throughput"], teacher.get("throughput")),
        "size_ratio": _ratio(served["bytes"], teacher.get("bytes")),
        "gap_closed": _gap_closed(summary),
        "price_per_core_hour": PRICE,
    }
    return summary if qualities is None else summary | {"gains": gains(qualities, seed)}


def gains(qualities: Mapping[str, Quality], seed: int = 0) -> list[dict[str, Any]]:
    """What each step gained or lost, by paired bootstrap over the same rows: {of, over, value, ci95, significant}."""
    steps = [("student", "baseline"), ("quantized", "student"), (served_name(qualities), "teacher")]
    return [
        {"of": of, "over": over, **difference(qualities[over], qualities[of], seed=seed).to_json()}
        for of, over in steps
        if of in qualities and over in qualities
    ]


def served_name(models: Mapping[str, Any]) -> str:
    return "quantized" if "quantized" in models else "student"


def cost_per_million(throughput: float | None) -> float | None:
    """USD for a million requests on one core: 1e6 / throughput seconds of it."""
    return 1e6 / throughput / 3600 * PRICE if throughput else None


def _gap_closed(summary: dict[str, Any]) -> float | None:
    """(student - baseline) / (teacher - baseline): 1 where distillation brings all that the teacher is better."""
    if not {"teacher", "baseline", "student"} <= summary.keys():
        return None
    teacher, baseline, student = (float(summary[who]["quality"]) for who in ("teacher", "baseline", "student"))
    return (student - baseline) / (teacher - baseline) if teacher > baseline else None


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b is not None and b > 0 else None
