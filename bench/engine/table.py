"""What is kept of a run, and the table of all runs of a size: means over seeds."""

import json
import statistics
from pathlib import Path
from typing import Any

from bench.engine.harness import Outcome
from bench.engine.methods import OWN_BASELINE

Told = dict[str, Any]
COLUMNS: tuple[tuple[str, str, str], ...] = (  # head, key, format
    ("teacher", "teacher", ".4f"),
    ("without", "baseline", ".4f"),
    ("student", "student", ".4f"),
    ("INT8", "quantized", ".4f"),
    ("spread", "spread", ".4f"),
    ("retained", "retention", ".1%"),
    ("gain", "gain", "+.4f"),
    ("× speed (32)", "speedup_batch_32", ".1f"),
    ("bytes", "size_ratio", ".1%"),
    ("job s", "seconds", ".0f"),
    ("train s", "training", ".0f"),
)


def told(outcome: Outcome) -> Told:
    """What the table needs of one run."""
    if outcome.code or not outcome.summary:
        return {"error": outcome.error or f"exit code {outcome.code}"}
    s, models = outcome.summary, outcome.report["models"]
    served = s.get("quantized") or s["student"]
    rates = {who: models[who]["speed"]["rows_per_second"] for who in ("teacher", "quantized") if models.get(who, {}).get("speed")}
    return {
        "error": None,
        "metric": s["metric"],
        "rows": outcome.report["data"]["counts"],
        "teacher": s["teacher"]["quality"],
        "baseline": (s.get("baseline") or {}).get("quality"),
        "student": s["student"]["quality"],
        "quantized": served["quality"],
        "retention": s["retention"],
        "speedup_batch_32": rates["quantized"]["32"] / rates["teacher"]["32"] if len(rates) == 2 else None,
        "speedup_best": s["speedup"],
        "size_ratio": s["size_ratio"],
        "bytes": served["bytes"],
        "seconds": outcome.seconds,
        "training": outcome.phases.get("training"),
        "phases": outcome.phases,
    }


def table(folder: Path) -> str:
    """Of every data set below `folder`, written beside it too. `without`: the same student taught by labels alone, where a method
    has a student of another kind; else that of the set's plain method. `spread`: standard deviation over the seeds."""
    lines = [f"size: {folder.name}", "", "| data set | method | seeds | " + " | ".join(head for head, _, _ in COLUMNS) + " |"]
    lines.append("|" + " --- |" * (3 + len(COLUMNS)))
    for place in sorted(p for p in folder.glob("*/") if list(p.glob("*-*.json"))):
        lines += _rows(place)
    text = "\n".join(lines) + "\n"
    folder.with_name(f"table-{folder.name}.md").write_text(text)
    return text


def _rows(place: Path) -> list[str]:
    groups: dict[str, list[Told]] = {}
    for path in sorted(place.glob("*-*.json")):
        groups.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text()))
    shared = [run for method, runs in groups.items() if method not in OWN_BASELINE for run in runs]
    common = _mean(shared, "baseline")
    found = []
    for method, runs in groups.items():
        good = [run for run in runs if run["error"] is None]
        if not good:
            found.append(f"| {place.name} | {method} | 0 | {str(runs[0]['error'])[:80]} |" + " |" * (len(COLUMNS) - 1))
            continue
        values = {key: _mean(good, key) for _, key, _ in COLUMNS}
        values["baseline"] = values["baseline"] if values["baseline"] is not None else common
        values["spread"] = statistics.stdev(run["quantized"] for run in good) if len(good) > 1 else None
        if values["baseline"] is not None and values["quantized"] is not None:
            values["gain"] = values["quantized"] - values["baseline"]
        cells = ["-" if (value := values[key]) is None else format(value, form) for _, key, form in COLUMNS]
        found.append("| " + " | ".join([place.name, method, str(len(good)), *cells]) + " |")
    return found


def _mean(runs: list[Told], key: str) -> float | None:
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.fmean(values) if values else None
