"""Run a command that must not outlive its parent: `python -m app.guard redis-server …`.

stdin is a pipe whose other end only the parent holds, so its end means that the parent is gone, even by SIGKILL.
SIGTERM and SIGINT are handed on. Should this process itself be killed, Linux kills the command (PR_SET_PDEATHSIG is
safe here: the thread that starts the command is the main one, which lives as long as the process).
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from types import FrameType

GRACE_SECONDS = 25.0
_PR_SET_PDEATHSIG = 1


def _die_with_guard() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run(command: list[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    def watch_parent() -> None:
        while os.read(0, 4096):
            pass
        child.terminate()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, hand_on)
    threading.Thread(target=watch_parent, name="parent", daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    code = run(sys.argv[1:])
    sys.exit(code if code >= 0 else 128 - code)
