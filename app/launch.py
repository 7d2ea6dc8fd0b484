"""`retort up` as a child of another program: the demo and the benchmarks start theirs so."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from app.client import Client
from app.installation import Installation, OperatorError

READY_SECONDS = 120.0
STOP_SECONDS = 30.0


class Launched:
    """A context: ready inside, ended with all its children after."""

    def __init__(self, data: Path, port: int = 0, workers: int = 1) -> None:
        self.data = data
        self._arguments = ["up", "--port", str(port), "--workers", str(workers)]
        self._process: subprocess.Popen[bytes] | None = None
        self.url, self.key = "", ""

    @property
    def client(self) -> Client:
        return Client(self.url, self.key)

    def retort(self, *arguments: str) -> int:
        """Run one `retort` command against this installation; its exit code."""
        return subprocess.run(self.command(*arguments), check=False).returncode

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "app.cli", *arguments, "--data", str(self.data)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self.command(*self._arguments))
        try:
            self._wait_ready(self._process)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def wait(self) -> None:
        """Until somebody ends it."""
        if self._process is not None:
            self._process.wait()

    def _wait_ready(self, process: "subprocess.Popen[bytes]") -> None:
        home = Installation(self.data)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise OperatorError(f"`retort up` ended with exit code {process.returncode}.", f"Logs: {self.data / 'logs'}")
            server, key = home.server(), home.key()
            if server and key and server["pid"] == process.pid and _ready(str(server["url"])):
                self.url, self.key = str(server["url"]), key
                return
            time.sleep(0.1)
        raise OperatorError(f"`retort up` was not ready within {READY_SECONDS:.0f} s.", f"Logs: {self.data / 'logs'}")

    def _stop(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise OperatorError(f"`retort up` did not end within {STOP_SECONDS:.0f} s and was killed.") from None


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
