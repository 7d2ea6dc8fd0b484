"""Who trains which trial of a rung: files in the attempt's work folder, because the children that train have no database.

trials/rung.json         what is to be trained now; written by the job's own child alone
trials/claims/<trial>    made with O_EXCL, so that one of many makes it; holds who did
helpers/<name>/alive     a number that rises for as long as the helper lives
helpers/<name>/ended     it is gone: its supervisor saw its end

Silence is measured by the watcher's own clock, from the number it saw last: machines need not agree on the time.
"""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.run.protocol import ENDED, HELPERS, RUNG

OWN = "job"  # the child that decides; everybody else goes by the name of a helper's folder
_NAME = re.compile(r"[\w-]{1,64}")


@dataclass(frozen=True)
class Rung:
    """Trials of one round, by name, and what decides their bits beside the spec."""

    share: float  # of the full training
    trials: dict[str, dict[str, Any]]  # name → the spec's student block
    device: str
    threads: int


class Claims:
    def __init__(self, workdir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._workdir, self._clock = workdir, clock
        self._heard: dict[str, tuple[str, float]] = {}  # trial → the last sign of its helper, and when it was new

    def open(self, rung: Rung) -> None:
        staged = self._rung.with_suffix(".tmp")
        staged.write_text(json.dumps(asdict(rung), sort_keys=True))
        staged.rename(self._rung)

    def close(self) -> None:
        self._rung.unlink(missing_ok=True)

    def rung(self) -> Rung | None:
        """None: there is nothing to train, or this folder cannot be seen from here."""
        try:
            return Rung(**json.loads(self._rung.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def take(self, trial: str, who: str) -> bool:
        """Whether it is `who` that trains this trial from now on."""
        path = self._claim(trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as claim:
            claim.write(who)
        return True

    def lost(self, trial: str, after_seconds: float) -> bool:
        """Whether the helper that took it has ended, or has not been heard of for so long; to be asked again and again."""
        who = _read(self._claim(trial))
        if who == OWN:
            return False
        folder = self._workdir / HELPERS / who if _NAME.fullmatch(who) else None
        if folder is not None and (folder / ENDED).exists():
            return True
        sign = f"{who} {_read(folder / 'alive')}" if folder is not None else ""  # taken, and not signed yet
        last, since = self._heard.get(trial, (None, 0.0))
        if sign != last:
            self._heard[trial] = (sign, self._clock())
            return False
        return self._clock() - since > after_seconds

    @property
    def _rung(self) -> Path:
        return self._workdir / RUNG

    def _claim(self, trial: str) -> Path:
        return self._workdir / "trials" / "claims" / trial


def show_life(folder: Path, every_seconds: float) -> threading.Event:
    """Count up in `folder/alive`, from now until the event is set or the process ends."""
    ended, mark = threading.Event(), folder / "alive"
    mark.write_text("0")

    def count() -> None:
        number = 0
        while not ended.wait(every_seconds):
            number += 1
            with contextlib.suppress(OSError):  # a full disk: the next one may succeed
                mark.write_text(str(number))

    threading.Thread(target=count, name="alive", daemon=True).start()
    return ended


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
