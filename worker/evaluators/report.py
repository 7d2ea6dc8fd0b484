"""The report of a job: one dictionary for programs, one Markdown page for people, and the summary that the API shows."""

from collections.abc import Callable
from typing import Any

ORDER = ("teacher", "baseline", "student", "quantized")
TITLES = {"teacher": "teacher", "baseline": "student, not distilled", "student": "student", "quantized": "student, INT8"}
_SHOWN = ("macro_f1", "agreement", "ece")

HOW = (
    "Quality: teacher, baseline and student with their trained weights in float32, the INT8 student through ONNX Runtime; "
    "95 % intervals by bootstrap over the test rows. "
    "The student that is not distilled starts from the same weights, made from the teacher's, and learns from the labels alone.",
    "Speed: all models as ONNX Runtime sessions on the CPU with {threads} thread(s), the same {texts} test texts, "
    "{rounds} interleaved rounds. "
    "Latency is of single texts; throughput is the best of batch sizes 1, 8 and 32 with batches sorted by length.",
    "Bytes: the weights file (safetensors; for INT8 the ONNX file). "
    "Peak memory: growth of a fresh process that loads the ONNX model and runs one batch of 32 rows.",
    "Retention, speed-up and size ratio compare the {served} with the teacher.",
)


def summarize(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`models[who]` holds {quality, speed, bytes, peak_memory_bytes, params}; the result is api.md's `report` block."""
    summary: dict[str, Any] = {"metric": "accuracy"}
    for who in ORDER:
        if who not in models:
            continue
        entry, quality, speed = models[who], models[who]["quality"], models[who].get("speed") or {}
        summary[who] = {
            "quality": quality["accuracy"],
            "ci95": quality["accuracy_ci95"],
            **{key: quality[key] for key in _SHOWN},
            "throughput": speed.get("throughput"),
            "latency_ms": speed.get("latency_ms"),
            **{key: entry.get(key) for key in ("bytes", "peak_memory_bytes", "params")},
        }
    teacher, served = summary["teacher"], summary[served_name(models)]
    return summary | {
        "retention": _ratio(served["quality"], teacher["quality"]),
        "speedup": _ratio(served["throughput"], teacher["throughput"]),
        "size_ratio": _ratio(served["bytes"], teacher["bytes"]),
    }


def served_name(models: dict[str, Any]) -> str:
    return "quantized" if "quantized" in models else "student"


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def markdown(report: dict[str, Any]) -> str:
    summary, models = report["summary"], report["models"]
    present = [who for who in ORDER if who in models]
    parts = [f"# {report['name']}", "", _headline(summary), "", *_overview(present, summary, models), ""]
    parts += ["## Per class (F1)", "", *_per_class(present, models), ""]
    parts += ["## By length (accuracy)", "", *_by_length(present, models), ""]
    if parity := report["quantization"].get("parity"):
        parts += ["## INT8 against float", "", _parity(report["quantization"], parity), ""]
    parts += ["## Plan", "", *_plan(report), ""]
    if report["warnings"]:
        parts += ["## Warnings", "", *(f"- `{w['code']}`: {w['message']}" for w in report["warnings"]), ""]
    parts += ["## How it was measured", "", *(f"- {line}" for line in report["how"]), ""]
    return "\n".join(parts)


def _headline(summary: dict[str, Any]) -> str:
    kept, faster, smaller = summary["retention"], summary["speedup"], summary["size_ratio"]
    texts = [
        "" if kept is None else f"**{kept:.1%}** of the teacher's accuracy",
        "" if faster is None else f"**{faster:.1f}×** its throughput",
        "" if smaller is None else f"**{smaller:.1%}** of its bytes",
    ]
    return ", ".join(t for t in texts if t) + "."


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [_row(head), _row(["---"] + ["---:"] * (len(head) - 1)), *(_row(r) for r in rows)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _overview(present: list[str], summary: dict[str, Any], models: dict[str, Any]) -> list[str]:
    def line(title: str, show: Callable[[str], str]) -> list[str]:
        return [title, *(show(who) for who in present)]

    quality = {who: models[who]["quality"] for who in present}
    block = {who: summary[who] for who in present}
    speed = {who: models[who].get("speed") or {} for who in present}
    ms = {who: speed[who].get("latency_ms") or {} for who in present}
    rates = {who: speed[who].get("rows_per_second") or {} for who in present}
    rows = [
        line("accuracy", lambda w: f"{quality[w]['accuracy']:.4f}"),
        line("95 % interval", lambda w: "{:.3f}-{:.3f}".format(*quality[w]["accuracy_ci95"])),
        line("macro F1", lambda w: f"{quality[w]['macro_f1']:.4f}"),
        line("agreement with the teacher", lambda w: f"{quality[w]['agreement']:.4f}"),
        line("calibration error (ECE)", lambda w: f"{quality[w]['ece']:.4f}"),
        line("latency p50 / p99, ms", lambda w: f"{ms[w]['p50']:.2f} / {ms[w]['p99']:.2f}" if ms[w] else "-"),
        *(
            line(f"rows/s at batch {size}", lambda w, size=size: f"{rates[w][size]:,.0f}" if rates[w] else "-")  # type: ignore[misc]
            for size in ("1", "8", "32")
        ),
        line("throughput, rows/s", lambda w: f"{speed[w]['throughput']:,.0f}" if speed[w] else "-"),
        line("bytes", lambda w: f"{block[w]['bytes']:,}"),
        line("parameters", lambda w: f"{block[w]['params']:,}"),
        line("peak memory, MB", lambda w: f"{block[w]['peak_memory_bytes'] / 1e6:.0f}" if block[w]["peak_memory_bytes"] else "-"),
    ]
    teacher = block["teacher"]
    rows += [
        line("accuracy retained", lambda w: _percent(_ratio(block[w]["quality"], teacher["quality"]))),
        line("speed-up", lambda w: _times(_ratio(block[w]["throughput"], teacher["throughput"]))),
        line("size ratio", lambda w: _percent(_ratio(block[w]["bytes"], teacher["bytes"]))),
    ]
    return _table(["", *(TITLES[who] for who in present)], rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}×"


def _per_class(present: list[str], models: dict[str, Any]) -> list[str]:
    first = models[present[0]]["quality"]["per_class"]
    rows = [
        [c["label"], str(c["support"]), *(f"{models[who]['quality']['per_class'][n]['f1']:.3f}" for who in present)]
        for n, c in enumerate(first)
    ]
    return _table(["class", "rows", *(TITLES[who] for who in present)], rows)


def _by_length(present: list[str], models: dict[str, Any]) -> list[str]:
    rows = []
    for n, bucket in enumerate(models[present[0]]["by_length"]):
        span = "{}-{}".format(*bucket["tokens"])
        rows.append([span, str(bucket["rows"]), *(f"{models[who]['by_length'][n]['accuracy']:.3f}" for who in present)])
    return _table(["tokens", "rows", *(TITLES[who] for who in present)], rows)


def _parity(quantization: dict[str, Any], parity: dict[str, float]) -> str:
    return (
        f"Over {quantization['rows']} validation rows: same answer for {parity['agreement']:.2%}, smallest cosine of the vectors "
        f"{parity['min_cosine']:.5f}, largest logit difference {parity['max_abs_logit_diff']:.3f}; a row's logits move by at most "
        f"{parity['batch_logit_diff']:.1e} with its batch. {quantization['quantized']} weight matrices are INT8, "
        f"{quantization['kept_float']} stayed in float."
    )


def _plan(report: dict[str, Any]) -> list[str]:
    data, plan = report["data"], report["plan"]
    lines = [
        f"- rows: {data['counts']['train']:,} train, {data['counts']['validation']:,} validation, {report['rows']:,} evaluated"
        + (" (the validation rows: no test file was given)" if data["test_is_validation"] else ""),
        f"- labels: {len(data['labels'])}; texts cut at {data['max_length']} tokens; seed {report['seed']}",
        f"- teacher: `{plan['teacher']['source']}:{plan['teacher']['model']}`",
        f"- student: {_pairs(plan['student'])}",
    ]
    made = report["training"].get("student", {})
    if layers := made.get("layer_map"):
        chosen = ", ".join(f"{student} ← {teacher}" for student, teacher in layers.items())
        lines.append(f"- layers, student ← teacher: {chosen}")
    widths = [name for name in ("hidden_size", "intermediate_size", "attention_heads") if name in made]
    lines += ["- {}: {} → {}".format(name.replace("_", " "), *made[name]) for name in widths]
    taught = {stage["name"]: stage for stage in report["training"].get("stages", [])}
    for stage in plan.get("stages") or []:
        objectives = " + ".join(o["type"] for o in stage["objectives"])
        rate = f"{stage['epochs']} epochs, learning rate {stage['learning_rate']:g}, batch {stage['batch_size']}"
        done = taught.get(stage["name"])
        lines.append(
            f"- stage `{stage['name']}`: {objectives}; {rate}"
            + (f"; {done['steps']:,} steps, {done['seconds']:.0f} s" if done else "")
        )
    if not plan.get("stages") and plan.get("recipe"):
        lines.append(f"- recipe: {_pairs(plan['recipe']) if isinstance(plan['recipe'], dict) else plan['recipe']}")
    return [*lines, f"- quantization: {_pairs(plan['quantization'])}"]


def _pairs(block: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in block.items())
