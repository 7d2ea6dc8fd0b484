"""The run child: one RunRequest in, six phases, events out, an exit code that decides what happens next.

It owns the device and gives all its memory back by ending. It knows no database and no Redis, and of the network only the
endpoints that its job names.
"""

import contextlib
import errno
import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from app.domain.errors import (
    DatasetInvalid,
    DiskFull,
    DomainError,
    EndpointAnswerInvalid,
    EndpointRefused,
    EndpointUnavailable,
    ExportMismatch,
    InvalidRequest,
    LossDiverged,
    ObjectivesOutOfBalance,
    OutOfMemory,
    SilentObjective,
)
from app.domain.spec import JobSpec
from app.domain.states import Phase
from worker.phases.base import Context, StopRequested
from worker.run import exitcodes, faults, protocol
from worker.run.watchdog import Watchdog

PHASES = {
    Phase.PREPARING: ("prepare", ["prepared"]),
    Phase.LABELLING: ("label", ["teacher", "initial", "labelled"]),
    Phase.TRAINING: ("train", ["student"]),
    Phase.QUANTIZING: ("quantize", ["quantized"]),
    Phase.EVALUATING: ("evaluate", ["evaluation"]),
    Phase.PACKAGING: ("package", []),  # cheap, and result.json lies beside its folder: always done
}


class Events:
    """JSON lines on the pipe that the supervisor reads."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "wb", buffering=0)
        self._lock = threading.Lock()

    def emit(self, event: protocol.Event) -> None:
        with self._lock:
            self._pipe.write(event.model_dump_json().encode() + b"\n")


def main() -> int:
    request = protocol.RunRequest.model_validate_json(sys.stdin.buffer.readline())
    events = Events(int(os.environ[protocol.EVENT_FD_VARIABLE]))  # noqa: TID251  (how the supervisor hands us the pipe)
    faults.arm(request.attempt)
    watchdog = Watchdog(sys.stdin.buffer, request.stall_seconds)
    watchdog.start()
    phase: list[str] = [Phase.PREPARING]

    def emit(event: protocol.Event) -> None:
        watchdog.beat()
        events.emit(event)

    try:
        _run(request, emit, watchdog, phase)
    except StopRequested as stop:
        return exitcodes.TRY_AGAIN if stop.checkpoint else exitcodes.CANCELLED
    except BaseException as error:
        traceback.print_exc()
        code, failure = _explain(error, phase[0])
        with contextlib.suppress(OSError):
            emit(protocol.PhaseEvent(name=phase[0], status="failed"))
            emit(failure)
        return code
    return exitcodes.DONE


def _run(request: protocol.RunRequest, emit: Callable[[protocol.Event], None], watchdog: Watchdog, current: list[str]) -> None:
    spec = JobSpec.model_validate(request.spec)
    if request.plugins_dir is not None:
        from worker import plugins

        plugins.also_in(Path(request.plugins_dir))
    if request.threads:
        import torch

        torch.set_num_threads(request.threads)
    context = Context(request, spec, Path(request.workdir), emit, watchdog.check)
    if request.helps is not None:
        from worker.phases import trials

        return trials.assist(context)
    for phase, (module, outputs) in PHASES.items():
        current[0] = phase
        watchdog.check()
        emit(protocol.PhaseEvent(name=phase, status="in_progress"))
        context.advance(phase, 0.0)
        if spec.evaluation.baseline and phase is Phase.TRAINING:
            outputs = [*outputs, "baseline"]
        if spec.target is not None and phase is Phase.LABELLING:
            outputs = ["teacher"]  # the rest once it is known whom to teach
        if not outputs or not all(context.sealed(name) for name in outputs):
            importlib.import_module(f"worker.phases.{module}").run(context)
            faults.hit(faults.Failpoint.PHASE_SEALED)
        context.advance(phase, 1.0)
        emit(protocol.PhaseEvent(name=phase, status="completed", percent=100))
    watchdog.check()
    faults.hit(faults.Failpoint.BEFORE_DONE)
    emit(protocol.DoneEvent.model_validate(json.loads(context.output("result.json").read_text())))


def _explain(error: BaseException, phase: str) -> tuple[int, protocol.FailedEvent]:
    """Exit code and what the user is told; an unexpected exception's text stays in the log."""
    if _is_out_of_memory(error):
        error = OutOfMemory("The device ran out of memory.", hint="Lower batch_size or data.max_length, or use a larger device.")
        return exitcodes.OUT_OF_MEMORY, _failed(error, phase)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = DiskFull("The worker's disk is full.", hint="Free space, then POST …/resume: the last checkpoint is intact.")
        return exitcodes.DISK_FULL, _failed(full, phase)
    if isinstance(error, DatasetInvalid):
        return exitcodes.BAD_DATA, _failed(error, phase)
    if isinstance(error, LossDiverged | SilentObjective | ObjectivesOutOfBalance | ExportMismatch):  # the same again next time
        return exitcodes.DIVERGED, _failed(error, phase)
    if isinstance(error, EndpointUnavailable):
        return exitcodes.TRY_AGAIN, _failed(error, phase)
    if isinstance(error, InvalidRequest | EndpointRefused | EndpointAnswerInvalid):
        return exitcodes.BAD_SPEC, _failed(error, phase)
    if isinstance(error, DomainError):
        return exitcodes.BUG, _failed(error, phase)
    told = protocol.FailedEvent(
        code="internal_error",
        message=f"Unexpected {type(error).__name__} while {phase}; the worker's log has the trace.",
        phase=phase,
    )
    return exitcodes.BUG, told


def _failed(error: DomainError, phase: str) -> protocol.FailedEvent:
    return protocol.FailedEvent(
        code=error.code,
        message=error.message,
        phase=phase,
        param=error.param,
        hint=error.hint,
        retryable=error.retryable,
        details=error.details,
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and (
        isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # no atexit hook of a library may hang a finished run
