"""The table of exit codes: what becomes of a job."""

import signal

import pytest

from worker.outcomes import MAX_DIVISOR, Action, Asked, Ended, decide
from worker.run import exitcodes
from worker.run.protocol import DoneEvent, FailedEvent

DONE = DoneEvent(model_dir="package", digest="d", reports=[], summary={}, params=1)


@pytest.mark.parametrize(
    ("end", "action", "code", "free"),
    [
        (Ended(0, done=DONE), Action.PUBLISH, None, False),
        (Ended(0, Asked.CANCEL, done=DONE), Action.PUBLISH, None, False),
        (Ended(0), Action.REQUEUE, "internal_error", False),
        (Ended(exitcodes.BAD_DATA), Action.FAIL, "dataset_invalid", False),
        (Ended(exitcodes.BAD_SPEC), Action.FAIL, "invalid_parameter", False),
        (Ended(exitcodes.DIVERGED), Action.FAIL, "loss_diverged", False),
        (Ended(exitcodes.DISK_FULL), Action.FAIL, "disk_full", False),
        (Ended(exitcodes.TRY_AGAIN, Asked.STOP), Action.REQUEUE, "worker_lost", True),
        (Ended(exitcodes.TRY_AGAIN, Asked.PAUSE), Action.REQUEUE, "worker_lost", True),
        (Ended(exitcodes.TRY_AGAIN), Action.REQUEUE, "worker_lost", False),
        (Ended(exitcodes.TRY_AGAIN, Asked.TIME), Action.FAIL, "timed_out", False),
        (Ended(exitcodes.CANCELLED, Asked.CANCEL), Action.REQUEUE, "worker_lost", True),
        (Ended(exitcodes.CANCELLED), Action.REQUEUE, "internal_error", False),
        (Ended(exitcodes.BUG), Action.REQUEUE, "internal_error", False),
        (Ended(exitcodes.OUT_OF_MEMORY), Action.REQUEUE, "out_of_memory", True),
        (Ended(exitcodes.OUT_OF_MEMORY, micro_batch_divisor=MAX_DIVISOR), Action.FAIL, "out_of_memory", False),
        (Ended(-signal.SIGKILL, oom_killed=True), Action.REQUEUE, "out_of_memory", True),
        (Ended(-signal.SIGKILL), Action.REQUEUE, "worker_lost", False),
        (Ended(-signal.SIGKILL, Asked.STOP), Action.REQUEUE, "worker_lost", True),
        (Ended(-64), Action.REQUEUE, "worker_lost", False),
        (Ended(1), Action.REQUEUE, "internal_error", False),
    ],
)
def test_decide(end: Ended, action: Action, code: str | None, free: bool) -> None:
    verdict = decide(end)
    assert (verdict.action, verdict.error.get("code"), verdict.free) == (action, code, free)


def test_the_childs_own_words_win() -> None:
    failed = FailedEvent(code="label_missing", message="row 3", param="data.label", hint="fix it", details=[{"line": 3}])
    error = decide(Ended(exitcodes.BAD_DATA, failed=failed, phase="preparing")).error
    assert error == {
        "code": "label_missing",
        "message": "row 3",
        "param": "data.label",
        "phase": "preparing",
        "hint": "fix it",
        "retryable": False,
        "details": [{"line": 3}],
    }


def test_out_of_memory_doubles_the_divisor() -> None:
    assert decide(Ended(exitcodes.OUT_OF_MEMORY, micro_batch_divisor=2)).micro_batch_divisor == 4
