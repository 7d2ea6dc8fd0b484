"""What every phase shares: the run's context, its folders, and the rule that a finished phase is never done twice.

A phase is a module with `run(context) -> None` that fills `context.output("<name>")` and ends with `context.seal(...)`.
A sealed folder (valid MANIFEST.json of the same config hash) is skipped on resume, or adopted from an earlier attempt.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.domain import manifest
from app.domain.errors import ArtifactCorrupt
from app.domain.spec import JobSpec
from worker.run import protocol

# Phase → the stretch of the whole job's progress bar that it fills, in percent.
SHARES: dict[str, tuple[float, float]] = {
    "preparing": (0, 2),
    "labelling": (2, 25),
    "training": (25, 78),
    "quantizing": (78, 82),
    "evaluating": (82, 98),
    "packaging": (98, 100),
}


class StopRequested(Exception):
    """Raised at a safe point after a `cancel` or `checkpoint_and_exit` command; `checkpoint` says which."""

    def __init__(self, checkpoint: bool) -> None:
        super().__init__("stop requested")
        self.checkpoint = checkpoint


@dataclass
class Context:
    request: protocol.RunRequest
    spec: JobSpec
    workdir: Path
    emit: Callable[[protocol.Event], None]
    stop: Callable[[], None] = lambda: None  # raises StopRequested when asked to stop; call it often
    warnings: list[dict[str, Any]] = field(default_factory=list)
    percent: float = 0.0

    def output(self, name: str) -> Path:
        return self.workdir / name

    def sealed(self, name: str) -> bool:
        """True when the phase's output is complete here, or could be taken over from an earlier attempt."""
        if self.valid(self.workdir / name):
            return True
        for previous in self.request.previous:
            source = Path(previous) / name
            if self.valid(source):
                target = self.workdir / name
                shutil.rmtree(target, ignore_errors=True)
                staged = self.workdir / f".{name}.adopting"
                shutil.rmtree(staged, ignore_errors=True)
                shutil.copytree(source, staged)
                staged.rename(target)
                return True
        return False

    def fresh(self, name: str) -> Path:
        """An empty output folder; what a crash left there is removed."""
        folder = self.workdir / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def seal(self, name: str) -> dict[str, Any]:
        return manifest.write(self.workdir / name, config_hash=self.request.config_hash)

    def warn(self, code: str, message: str) -> None:
        self.warnings.append({"code": code, "message": message})
        self.emit(protocol.WarningEvent(code=code, message=message))

    def advance(self, phase: str, share: float, **fields: Any) -> None:
        """Emit progress: `share` in [0, 1] of this phase is done; `fields` are those of ProgressEvent."""
        first, last = SHARES[phase]
        self.percent = max(self.percent, first + (last - first) * share)  # never falls within an attempt
        self.emit(protocol.ProgressEvent(percent=round(self.percent, 2), phase=phase, phase_percent=100 * share, **fields))

    def valid(self, folder: Path) -> bool:
        """Whether its manifest holds and names this job's settings."""
        try:
            return bool(manifest.verify(folder).get("config_hash") == self.request.config_hash)
        except ArtifactCorrupt:
            return False
