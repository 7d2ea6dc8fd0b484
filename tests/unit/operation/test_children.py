"""Nothing that `retort up` started outlives it, and what dies is brought back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.children import Child, Children

ROOT = Path(__file__).parents[3]
SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(120)",
]
ENV = {"PYTHONPATH": str(ROOT), "PATH": os.defpath}


def _until(check: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _guarded(child: Child) -> list[psutil.Process]:
    assert child.process is not None
    return psutil.Process(child.process.pid).children()


@pytest.fixture
def child(tmp_path: Path) -> Child:
    return Child("sleeper", SLEEP, ENV, tmp_path / "logs" / "sleeper.log")


def test_the_command_ends_when_the_parent_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from app.children import Child
child = Child("sleeper", {SLEEP!r}, {ENV!r}, Path({str(tmp_path / "log")!r}))
child.start()
print(child.process.pid, flush=True)
time.sleep(120)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=ENV)
    assert parent.stdout is not None
    guard = int(parent.stdout.readline())
    _until(lambda: psutil.Process(guard).children())
    command = psutil.Process(guard).children()[0].pid
    parent.kill()
    parent.wait()
    _until(lambda: _gone(guard) and _gone(command))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_command_ends_when_its_guard_is_killed(child: Child) -> None:
    child.start()
    _until(lambda: _guarded(child))
    command = _guarded(child)[0].pid
    child.signal(signal.SIGKILL)
    _until(lambda: _gone(command))
    child.kill()


def test_a_dead_child_is_started_again_and_a_stopped_one_is_not(child: Child) -> None:
    children = Children()
    children.add(child)
    children.watch()
    first = child.process
    _until(lambda: _guarded(child))
    _guarded(child)[0].kill()
    _until(lambda: child.process is not first and child.alive)
    _until(lambda: _guarded(child))
    command = _guarded(child)[0].pid
    children.stop(time.monotonic() + 5)
    assert not child.alive
    assert _gone(command)
    time.sleep(1.2)  # longer than the first back-off
    assert not child.alive


def test_what_ignores_sigterm_is_killed_at_the_deadline(tmp_path: Path) -> None:
    child = Child("deaf", STUBBORN, ENV, tmp_path / "deaf.log")
    children = Children()
    children.add(child)
    _until(lambda: "deaf" in child.log.read_text())
    command = _guarded(child)[0].pid
    began = time.monotonic()
    children.stop(began + 1)
    assert time.monotonic() - began < 5
    _until(lambda: _gone(command))
