"""The child's ear on stdin, in a thread: commands, the parent's death, and a step that has stalled."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from pydantic import ValidationError

from worker.phases.base import StopRequested
from worker.run import exitcodes
from worker.run.protocol import Command


class Watchdog:
    """`check()` raises StopRequested after a command; calling it is also the sign of life that `stall_seconds` waits for."""

    def __init__(self, stdin: BinaryIO, stall_seconds: float, exit: Callable[[int], None] = os._exit) -> None:
        self._stdin, self._stall, self._exit = stdin, stall_seconds, exit
        self._command: str | None = None
        self._alive_at = time.monotonic()

    def start(self) -> None:
        threading.Thread(target=self._listen, name="watchdog-stdin", daemon=True).start()
        threading.Thread(target=self._watch, name="watchdog-stall", daemon=True).start()

    def check(self) -> None:
        self._alive_at = time.monotonic()
        if self._command is not None:
            raise StopRequested(checkpoint=self._command == "checkpoint_and_exit")

    def beat(self) -> None:
        self._alive_at = time.monotonic()

    def _listen(self) -> None:
        for line in iter(self._stdin.readline, b""):
            try:
                self._command = Command.model_validate_json(line).command
            except ValidationError:
                continue  # a newer supervisor's command: not for us
        self._exit(exitcodes.TRY_AGAIN)  # end of file: the supervisor is gone; os._exit, for a thread may hold the GIL's work

    def _watch(self) -> None:
        while time.monotonic() - self._alive_at <= self._stall:
            time.sleep(min(5.0, self._stall / 4))
        print(f"no sign of life for {self._stall:.0f} s", file=sys.stderr, flush=True)  # noqa: T201
        faulthandler.dump_traceback(file=sys.stderr)
        self._exit(exitcodes.TRY_AGAIN)
