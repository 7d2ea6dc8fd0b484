"""How many cores this process may really use: affinity and the control group's quota, not what the machine has."""

import math
import os
from pathlib import Path


def quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores granted by cgroup v2 or v1; None without a limit."""
    limits: list[float] = []
    for line in _read(membership).splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            folders = _with_parents(root, path)
            limits += [float(a) / float(b) for f in folders for a, _, b in [_read(f / "cpu.max").partition(" ")] if a.isdigit()]
        elif "cpu" in controllers.split(","):
            for folder in _with_parents(root / "cpu", path):
                granted, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
                if granted.isdigit() and period.isdigit():
                    limits.append(int(granted) / int(period))
    return min(limits, default=None)


def cores() -> int:
    """Whole cores to plan for, at least one."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    granted = quota()
    return max(1, usable if granted is None else min(usable, math.floor(granted + 0.5)))


def _with_parents(root: Path, path: str) -> list[Path]:
    folder = root / path.lstrip("/")
    return [folder, *(p for p in folder.parents if p.is_relative_to(root))]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
