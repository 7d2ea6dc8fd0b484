"""What everything that runs on a worker's slots shares, and the environment that its children get."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import worker
from app.domain.db import Sessions
from app.domain.storage import BlobStore
from app.settings import Settings, run_environment
from worker.failpoints import Failpoint
from worker.run import protocol

RUN_COMMAND = (sys.executable, "-m", "worker.run")


@dataclass(frozen=True)
class Surroundings:
    settings: Settings
    sessions: Sessions
    blobs: BlobStore
    command: tuple[str, ...] = RUN_COMMAND
    ended: Callable[[], None] = lambda: None  # called when a slot becomes free

    def environment(self, slot: int, workdir: Path) -> dict[str, str]:
        """Minimal: no keys, no addresses, no network for models; and no module is ever found in the work folder."""
        settings = self.settings
        threads = str(settings.threads or max(1, (os.cpu_count() or 1) // max(1, settings.worker_slots)))
        env = {
            "PATH": os.defpath,
            **run_environment(),
            "HOME": str(workdir),
            "PYTHONPATH": str(Path(worker.__file__).parents[1]),
            "PYTHONSAFEPATH": "1",
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": threads,
            **protocol.TUNING,
        }
        if settings.worker_device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        elif settings.worker_slots > 1:
            visible = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
            env["CUDA_VISIBLE_DEVICES"] = visible[slot] if slot < len(visible) and visible[0] else str(slot)
        if settings.fault and settings.fault.partition("=")[0] not in {*Failpoint}:
            env["RETORT_FAULT"] = settings.fault
        return env
