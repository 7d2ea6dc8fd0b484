"""One run of either side, from starting the process to the student on disk, with the same threads and environment."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine.harness import ROOT, run
from bench.peers import cases
from bench.peers.cases import Case
from bench.peers.quality import quality
from bench.peers.task import Task

AFTER = ("quantizing", "evaluating", "packaging")  # phases of a job that a training script has no part of


@dataclass(frozen=True)
class Peer:
    name: str
    script: str  # of bench/peers/scripts
    task: str
    variant: str = ""
    students: tuple[str, ...] = ("whole", "trimmed")
    package: str | None = None  # installed apart, without what it depends on


LOOP = ("whole",)  # a teacher that runs beside its student reads the same token ids: the student keeps the whole vocabulary
PEERS = (
    Peer("sentence-transformers, PCA + MSELoss", "sentence_transformers_vectors", "embedding", "mse"),
    Peer("sentence-transformers, EmbedDistillLoss", "sentence_transformers_vectors", "embedding", "embed_distill"),
    Peer("HF Trainer, teacher in the loop", "trainer_kd", "text-classification", "loop", LOOP),
    Peer("HF Trainer, stored logits", "trainer_kd", "text-classification", "stored"),
    Peer("torchdistill, DistillationBox", "torchdistill_kd", "text-classification", "", LOOP, "torchdistill==1.1.5"),
)


def ours(case: Case, student: str, seed: int, work: Path, threads: int) -> dict[str, Any]:
    """The cache is empty, so that the teacher is asked anew. `all`: the job without what comes after training."""
    cache = work.with_name("cache-run")
    shutil.rmtree(cache, ignore_errors=True)
    spec = cases.ours(case, case.epochs, seed)
    outcome = run(spec, case.data.files, case.teacher, work, cache, threads, case.students[student], keep=True)
    if outcome.code:
        raise SystemExit(f"{case.data.name}: our job failed: {outcome.error}")
    same_start(work / "initial", case.students[student])
    told = json.loads((work / "student" / "training.json").read_text())
    return {
        "all": round(outcome.seconds - sum(outcome.phases[name] for name in AFTER), 1),
        "train": round(sum(stage["seconds"] for stage in told["stages"]), 2),
        "quality": quality(work / "student", case.data),
        "phases": outcome.phases,
    }


def theirs(peer: Peer, case: Case, student: str, seed: int, work: Path, threads: int, packages: Path) -> dict[str, Any]:
    shutil.rmtree(work, ignore_errors=True)
    (work / "out").mkdir(parents=True)
    Task(
        teacher=str(case.teacher),
        student=str(case.students[student]),
        train=str(case.data.files["training"]),
        validation=str(case.data.files["validation"]),
        out=str(work / "out"),
        epochs=case.epochs,
        batch_size=case.batch,
        max_length=case.data.columns["max_length"],
        learning_rate=cases.RATE,
        seed=seed,
        threads=threads,
        variant=peer.variant,
        soft_weight=cases.SOFT,
        temperature=cases.TEMPERATURE,
    ).write(work / "task.json")
    env = {"PATH": os.environ["PATH"], "HOME": str(work), "PYTHONPATH": f"{ROOT}:{packages}", "HF_HUB_OFFLINE": "1"}
    env |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"} if threads else {}
    command = [sys.executable, "-m", f"bench.peers.scripts.{peer.script}", str(work / "task.json")]
    began = time.monotonic()
    with (work / "log").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env=env, cwd=work, check=False).returncode
    seconds = time.monotonic() - began
    if code:
        raise SystemExit(f"{peer.name} failed:\n{(work / 'log').read_text()[-2000:]}")
    parts = json.loads((work / "out" / "seconds.json").read_text())
    return {"all": round(seconds, 1), "train": parts["train"], "quality": quality(work / "out", case.data), "parts": parts}


def same_start(made: Path, given: Path) -> None:
    """Both sides begin with the same numbers."""
    import torch
    from safetensors.torch import load_file

    ours, theirs = (load_file(folder / "model.safetensors") for folder in (made, given))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise SystemExit("our job did not start from the student that its peer was given")


def installed(peer: Peer, packages: Path) -> str | None:
    """None once the peer's own package is there, else why not."""
    if peer.package is None or (packages / peer.package.partition("==")[0]).is_dir():
        return None
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), peer.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr[-500:]
