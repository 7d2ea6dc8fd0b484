"""The child's ear on stdin, over a real pipe."""

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest

from worker.phases.base import StopRequested
from worker.run import exitcodes
from worker.run.watchdog import Watchdog


class Line:
    def __init__(self) -> None:
        read_end, self.write_end = os.pipe()
        self.stdin = os.fdopen(read_end, "rb")
        self.exits: list[int] = []

    def watchdog(self, stall: float = 60.0) -> Watchdog:
        made = Watchdog(self.stdin, stall, self.exits.append)
        made.start()
        return made

    def say(self, text: str) -> None:
        os.write(self.write_end, text.encode())


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    if made.write_end:
        os.close(made.write_end)


def _within(seconds: float, check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return
        time.sleep(0.01)
    raise AssertionError("not in time")


@pytest.mark.parametrize(("command", "keeps"), [("cancel", False), ("checkpoint_and_exit", True)])
def test_a_command_is_raised_at_the_next_check(line: Line, command: str, keeps: bool) -> None:
    watchdog = line.watchdog()
    watchdog.check()
    line.say('{"command": "from the future"}\nnot json\n' + json.dumps({"command": command}) + "\n")
    time.sleep(0.2)
    with pytest.raises(StopRequested) as stop:
        watchdog.check()
    assert stop.value.checkpoint is keeps
    assert not line.exits


def test_the_end_of_stdin_is_the_end(line: Line) -> None:
    line.watchdog()
    os.close(line.write_end)
    line.write_end = 0
    _within(2, lambda: line.exits == [exitcodes.TRY_AGAIN])


def test_a_stalled_step_is_noticed_and_a_living_one_is_not(line: Line) -> None:
    watchdog = line.watchdog(stall=0.4)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        watchdog.beat()
        time.sleep(0.02)
    assert not line.exits
    _within(3, lambda: exitcodes.TRY_AGAIN in line.exits)
