"""The processes that `retort up` starts: kept alive while it lives, all ended within its grace when it stops."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger("retort.up")

_STEADY_SECONDS = 60.0  # a child that lived this long has its back-off forgotten
_BACKOFF_SECONDS = (0.5, 1, 2, 5, 10, 30)


@dataclass
class Child:
    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    deaths: int = 0
    restart_at: float | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.guard", *self.command],
                stdin=subprocess.PIPE,  # never written to: its closing tells the guard that we are gone
                stdout=out,
                stderr=out,
                env=self.env,
                start_new_session=True,  # Ctrl-C reaches us alone; we end the children in order
            )
        self.started, self.restart_at = time.monotonic(), None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """The guard and everything in its session."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.process.wait()


@dataclass
class Children:
    """Started in order, ended in reverse order."""

    members: list[Child] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, child: Child) -> None:
        with self._lock:
            child.start()
            self.members.append(child)

    def watch(self) -> None:
        """Start the thread that brings back what died."""
        threading.Thread(target=self._watch, name="children", daemon=True).start()

    def _watch(self) -> None:
        while not self._stopping.wait(0.25):
            for child in self.members:
                self._revive(child)

    def _revive(self, child: Child) -> None:
        with self._lock:
            if self._stopping.is_set() or child.alive or child.process is None:
                return
            now = time.monotonic()
            if child.restart_at is None:
                child.deaths = 0 if now - child.started > _STEADY_SECONDS else child.deaths
                pause = _BACKOFF_SECONDS[min(child.deaths, len(_BACKOFF_SECONDS) - 1)]
                child.deaths += 1
                child.restart_at = now + pause
                log.warning("%s ended (code %s), again in %.1f s: %s", child.name, child.process.returncode, pause, child.log)
            elif now >= child.restart_at:
                child.start()

    def begin_stop(self, names: str = "") -> None:
        """Ask the children whose name starts so to end; safe to call from a signal handler and more than once."""
        self._stopping.set()
        for child in self.members:
            if child.name.startswith(names):
                child.signal(signal.SIGTERM)

    def stop(self, deadline: float) -> None:
        """End all, last started first; at `deadline` (monotonic seconds) whatever is left is killed."""
        self._stopping.set()
        with self._lock:  # nobody is being started any more
            for child in reversed(self.members):
                child.signal(signal.SIGTERM)
                try:
                    if child.process is not None:
                        child.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    log.warning("%s did not end in time and is killed", child.name)
                child.kill()
