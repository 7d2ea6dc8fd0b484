"""How an attempt ended decides what becomes of the job: a pure function of exit code, last events and what was asked."""

import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.domain.repositories.leases import problem
from worker.run import exitcodes
from worker.run.protocol import DoneEvent, FailedEvent

MAX_DIVISOR = 8  # three halvings of the micro-batch


class Asked(StrEnum):
    """What the supervisor asked of the child, weakest first."""

    NOTHING = "nothing"
    PAUSE = "pause"
    STOP = "stop"  # this worker is going down
    TIME = "time"  # budget.max_wall_seconds is used up
    CANCEL = "cancel"


@dataclass(frozen=True)
class Ended:
    code: int  # negative: killed by that signal
    asked: Asked = Asked.NOTHING
    done: DoneEvent | None = None
    failed: FailedEvent | None = None
    phase: str | None = None
    oom_killed: bool = False
    micro_batch_divisor: int = 1
    log_tail: str = ""


class Action(StrEnum):
    PUBLISH = "publish"
    FAIL = "fail"
    REQUEUE = "requeue"


@dataclass(frozen=True)
class Verdict:
    """`free`: nobody's fault, costs no attempt. A job being cancelled or paused ends there whatever the verdict."""

    action: Action
    error: dict[str, Any]
    reason: str = ""
    free: bool = False
    micro_batch_divisor: int | None = None


_FINAL = {
    exitcodes.BAD_DATA: ("dataset_invalid", "The rows cannot be used.", False),
    exitcodes.BAD_SPEC: ("invalid_parameter", "This job cannot be run as specified.", False),
    exitcodes.DIVERGED: ("loss_diverged", "The loss became NaN or infinite.", False),
    exitcodes.DISK_FULL: ("disk_full", "There is no space left on the worker's disk.", True),
}


def decide(end: Ended) -> Verdict:
    if end.code == exitcodes.DONE and end.done is not None:
        return Verdict(Action.PUBLISH, {})
    if end.asked is Asked.TIME:
        hint = "resume continues from the last checkpoint with a fresh budget; or raise budget.max_wall_seconds."
        message = "The job used up budget.max_wall_seconds."
        error = problem("timed_out", message, retryable=True, phase=end.phase, hint=hint, param="budget.max_wall_seconds")
        return Verdict(Action.FAIL, error)
    if end.code in _FINAL:
        code, message, retryable = _FINAL[end.code]
        return Verdict(Action.FAIL, _error(end, code, message, retryable))
    if end.code == exitcodes.OUT_OF_MEMORY or (end.code == -signal.SIGKILL and end.oom_killed):
        return _out_of_memory(end)
    if end.asked is not Asked.NOTHING:
        error = problem("worker_lost", f"Stopped by request ({end.asked}).", retryable=True, phase=end.phase)
        return Verdict(Action.REQUEUE, error, reason=_REASONS[end.asked], free=True)
    if end.code < 0:
        name = _SIGNALS.get(-end.code, f"signal {-end.code}")
        hint = "If it happens again, see the job's logs; resume continues from the last checkpoint."
        error = problem("worker_lost", f"The run was killed by {name}.", retryable=True, phase=end.phase, hint=hint)
        return Verdict(Action.REQUEUE, error, reason="worker_lost")
    if end.code == exitcodes.TRY_AGAIN:
        return Verdict(Action.REQUEUE, _error(end, "worker_lost", "The run asked to be tried again.", True), reason="try_again")
    message = "The run ended without a result." if end.code == exitcodes.DONE else f"The run ended with code {end.code}."
    return Verdict(Action.REQUEUE, _error(end, "internal_error", message, True), reason="internal_error")


_SIGNALS = {int(s): s.name for s in signal.Signals}
_REASONS = {Asked.PAUSE: "requested", Asked.STOP: "worker_stopping", Asked.CANCEL: "requested"}


def _out_of_memory(end: Ended) -> Verdict:
    error = _error(end, "out_of_memory", "The run needs more memory than there is.", True)
    if end.micro_batch_divisor >= MAX_DIVISOR:
        hint = f"Even 1/{end.micro_batch_divisor} of the batch does not fit: lower max_length, or use a smaller teacher or student."
        return Verdict(Action.FAIL, error | {"hint": error["hint"] or hint})
    return Verdict(Action.REQUEUE, error, "out_of_memory", free=True, micro_batch_divisor=end.micro_batch_divisor * 2)


def _error(end: Ended, code: str, message: str, retryable: bool) -> dict[str, Any]:
    """The child's own words when it had any, else the last line it printed."""
    if end.failed is not None:
        said = end.failed
        known = problem(said.code, said.message, retryable=said.retryable, phase=said.phase or end.phase)
        return known | {"param": said.param, "hint": said.hint} | ({"details": said.details} if said.details else {})
    lines = [line for line in end.log_tail.strip().splitlines() if line.strip()]
    if lines and code == "internal_error":
        message = f"{message} Its last words: {lines[-1].strip()[:300]}"
    return problem(code, message, retryable=retryable, phase=end.phase)
