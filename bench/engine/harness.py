"""One job in the real run child, without server and database: what the engine does and how long it takes."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.domain import catalog
from app.domain.ids import FILE, new_id
from app.domain.spec import JobSpec, config_hash
from worker.run import protocol

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    code: int
    summary: dict[str, Any]
    report: dict[str, Any]
    seconds: float
    phases: dict[str, float] = field(default_factory=dict)
    error: str | None = None


def run(
    spec: dict[str, Any],
    files: dict[str, Path],
    teacher: Path,
    workdir: Path,
    cache: Path,
    threads: int = 1,
    student: Path | None = None,
    keep: bool = False,
) -> Outcome:
    """Expand, spawn, listen, read the report. `files`: training, validation, test; the work folder is removed unless to `keep`."""
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    request = _request(spec, files, threads, workdir=str(workdir), cache_dir=str(cache), teacher_dir=str(teacher))
    request = request.model_copy(update={"student_dir": None if student is None else str(student)})
    began = time.monotonic()
    child, events = _spawn(request, workdir)
    phases, error = _listen(events)
    code = child.wait()
    assert child.stdin is not None
    child.stdin.close()
    seconds = time.monotonic() - began
    found = workdir / "evaluation" / "report.json"
    report = json.loads(found.read_text()) if found.is_file() else {}
    if code and error is None:
        error = (workdir / "log").read_text()[-2000:]
    if code == 0 and not keep:
        shutil.rmtree(workdir, ignore_errors=True)
    return Outcome(code, report.get("summary", {}), report, round(seconds, 1), phases, error)


def _request(spec: dict[str, Any], files: dict[str, Path], threads: int, **folders: str) -> protocol.RunRequest:
    data = {**spec["data"], **{f"{role}_file": new_id(FILE) for role in files}}
    resolved = catalog.expand(JobSpec.model_validate({**spec, "data": data})).resolved()
    stable = json.loads(json.dumps(resolved))
    stable["data"] = {k: v for k, v in stable["data"].items() if not k.endswith("_file")}
    return protocol.RunRequest(
        job_id="djob_bench",
        attempt=1,
        spec=resolved,
        config_hash=config_hash(stable),
        files={role: str(path) for role, path in files.items()},
        formats=dict.fromkeys(files, "jsonl"),
        device="cpu" if threads else "auto",
        threads=threads,
        **folders,
    )


def _spawn(request: protocol.RunRequest, workdir: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """The child with its request, and the descriptor that its events come from."""
    read_end, write_end = os.pipe()
    env = {"PATH": os.environ["PATH"], "HOME": str(workdir), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    env |= {protocol.EVENT_FD_VARIABLE: str(write_end), "OMP_NUM_THREADS": str(request.threads), **protocol.TUNING}
    with (workdir / "log").open("wb") as log:
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log, "pass_fds": (write_end,), "env": env}
        child = subprocess.Popen([sys.executable, "-m", "worker.run"], cwd=workdir, **options)
    os.close(write_end)
    assert child.stdin is not None
    child.stdin.write(request.model_dump_json().encode() + b"\n")
    child.stdin.flush()
    return child, read_end


def _listen(descriptor: int) -> tuple[dict[str, float], str | None]:
    """Seconds of every phase, and why the run failed."""
    entered: dict[str, float] = {}
    phases: dict[str, float] = {}
    error = None
    with os.fdopen(descriptor, "rb") as pipe:
        for line in pipe:
            event = protocol.EVENT.validate_json(line)
            if isinstance(event, protocol.PhaseEvent):
                now = time.monotonic()
                if event.status == "in_progress":
                    entered[event.name] = now
                elif event.name in entered:
                    phases[event.name] = round(now - entered[event.name], 1)
            elif isinstance(event, protocol.FailedEvent):
                error = f"{event.code}: {event.message}"
    return phases, error
