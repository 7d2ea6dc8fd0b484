"""Checkpoints without pickle: safetensors + JSON + manifest, written aside, fsynced, renamed. The last two are kept.

    checkpoints/<run>/step-000400/   model, optimizer, rng [, best] .safetensors   state.json   MANIFEST.json

A folder is a checkpoint only once its manifest verifies; a crash at any point leaves the one before it good.
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from app.domain import manifest
from app.domain.errors import ArtifactCorrupt
from worker.run.faults import Failpoint, hit

KEEP = 2


@dataclass
class State:
    """Where a run stands: everything but tensors that a resume needs to go on bit for bit."""

    step: int = 0  # optimiser steps done
    epoch: int = 0
    window: int = 0  # accumulation windows done within the epoch
    finished: bool = False
    best_score: float | None = None
    best_loss: float | None = None  # decides between equal scores
    stale_epochs: int = 0
    scores: list[float] = field(default_factory=list)
    metric: str | None = None
    last_loss: float | None = None
    seconds: float = 0.0
    config_hash: str = ""


Optimizers = Sequence[torch.optim.Optimizer]


def save(folder: Path, state: State, model: nn.Module, optimizers: Optimizers, best: dict[str, Tensor] | None) -> Path:
    """Write `folder/step-N` atomically and drop all but the newest two.

    `model` holds everything that changes while training: the student, what is learned beside it, and what a teacher learns.
    """
    target = folder / f"step-{state.step:06d}"
    staged = folder / f".{target.name}.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    save_file(_plain(model.state_dict()), staged / "model.safetensors")
    save_file(_moments(model, optimizers), staged / "optimizer.safetensors")
    save_file(_rng(), staged / "rng.safetensors")
    if best is not None:
        save_file(best, staged / "best.safetensors")
    (staged / "state.json").write_text(json.dumps(asdict(state)))
    hit(Failpoint.CHECKPOINT_WRITTEN)
    manifest.write(staged)
    hit(Failpoint.CHECKPOINT_BEFORE_RENAME)
    if target.exists():
        shutil.rmtree(target)
    staged.rename(target)
    _sync(folder)
    hit(Failpoint.CHECKPOINT_RENAMED)
    for old in _steps(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(folders: Iterable[Path], config_hash: str) -> tuple[Path, State] | None:
    """The furthest checkpoint among the folders whose manifest verifies and whose spec is ours; damaged ones are passed over."""
    candidates = sorted((step for folder in folders for step in _steps(folder)), key=lambda p: p.name, reverse=True)
    for path in candidates:
        try:
            manifest.verify(path)
            state = State(**json.loads((path / "state.json").read_text()))
        except (ArtifactCorrupt, ValueError, TypeError, OSError):
            continue
        if state.config_hash == config_hash:
            return path, state
    return None


def restore(path: Path, model: nn.Module, optimizers: Optimizers) -> dict[str, Tensor] | None:
    """Load weights, moments and the random state; returns the student's best weights kept, if any."""
    model.load_state_dict(load_file(path / "model.safetensors"))
    _load_moments(model, optimizers, load_file(path / "optimizer.safetensors"))
    rng = load_file(path / "rng.safetensors")
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng and torch.cuda.is_available():
        torch.cuda.set_rng_state(rng["cuda"])
    best = path / "best.safetensors"
    return load_file(best) if best.exists() else None


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights on the CPU."""
    return _plain(model.state_dict(), copy=True)


def _plain(state: dict[str, Tensor], copy: bool = False) -> dict[str, Tensor]:
    """Contiguous CPU tensors, each with memory of its own: safetensors refuses shared storage."""
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        plain = tensor.detach().cpu().contiguous()
        kept[name] = plain.clone() if copy or plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return kept


def _moments(model: nn.Module, optimizers: Optimizers) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                flat[f"{key}/{name}"] = value.detach().cpu().contiguous().clone()
    return flat or {"empty": torch.zeros(1)}


def _load_moments(model: nn.Module, optimizers: Optimizers, flat: dict[str, Tensor]) -> None:
    owners = {parameter: o for o in optimizers for group in o.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        entry: dict[str, Any] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if (value := flat.get(f"{key}/{name}")) is not None:
                entry[key] = value if key == "step" else value.to(parameter.device)
        if entry:
            owners[parameter].state[parameter] = entry


def _rng() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-[0-9]*")) if folder.is_dir() else []


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
