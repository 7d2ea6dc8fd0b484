"""The child's events, batched into what the database keeps: progress on the job's row, metrics in a table, the rest as events."""

import time
from collections.abc import Callable
from typing import Any

from app.domain.models import Job
from app.domain.repositories.events import NewEvent, NewMetric
from app.domain.repositories.leases import Batch
from worker.run import protocol

ROW_SECONDS = 1.0  # progress on the job's row, and how long events may wait
STORED_SECONDS = 5.0  # progress as an event
MAX_LOGS = 2000  # per attempt; a child gone wild must not fill the database
MAX_WARNINGS = 100
MAX_HELPERS = 64


class Recorder:
    def __init__(self, job: Job, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._events: list[NewEvent] = []
        self._metrics: list[NewMetric] = []
        self._progress: dict[str, Any] | None = None
        self._phases = [dict(p) for p in job.phases]
        self._warnings = [*job.warnings]
        self._changed: set[str] = set()
        self._helpers = 0
        self._urgent = False
        self._written = self._stored = -1e9
        self._logs = self._malformed = 0
        self.phase: str | None = None
        self.done: protocol.DoneEvent | None = None
        self.failed: protocol.FailedEvent | None = None

    def add(self, event: protocol.Event, wall_time: float) -> None:
        """`wall_time`: the database's time, roughly; it is shown, nothing depends on it."""
        match event:
            case protocol.PhaseEvent():
                self._phase(event, wall_time)
            case protocol.ProgressEvent():
                self._step(event)
            case protocol.MetricsEvent():
                if 0 <= event.step < 2**31:
                    self._metrics.append(NewMetric(event.stage, event.step, dict(event.values)))
            case protocol.CheckpointEvent():
                data = {"stage": event.stage, "step": event.step, "metrics": event.metrics}
                self._say(NewEvent("checkpoint", f"Checkpoint of {event.stage} at step {event.step}.", data))
            case protocol.LogEvent():
                self._log(event)
            case protocol.WarningEvent():
                self._warn(event.code, event.message)
            case protocol.TrialsEvent():
                self._helpers = max(0, min(event.count, MAX_HELPERS))
                self._changed.add("helpers")
                self._urgent = True
            case protocol.EvaluationEvent():
                self._say(NewEvent("evaluation", "Evaluated.", event.summary))
            case protocol.DoneEvent():
                self.done = event
            case protocol.FailedEvent():
                self.failed = event

    def add_malformed(self, line: bytes) -> None:
        """A line that is no event is noted, a few times, and otherwise ignored."""
        self._malformed += 1
        if self._malformed <= 5:
            self._say(NewEvent("log", f"Ignored a malformed event: {line[:200].decode('utf-8', 'replace')}", {}, "warning"))

    @property
    def due(self) -> bool:
        return self._pending and (self._urgent or self._clock() - self._written >= ROW_SECONDS)

    @property
    def _pending(self) -> bool:
        return self.backlog > 0

    @property
    def backlog(self) -> int:
        return len(self._events) + len(self._metrics) + len(self._changed)

    def later(self) -> None:
        """The database does not answer: try again after a while, not at once."""
        self._written = self._clock()
        self._urgent = False

    def take(self) -> Batch:
        """Everything not yet written; `written` forgets it once it is stored."""
        return Batch(
            events=tuple(self._events),
            metrics=tuple(self._metrics),
            progress=self._progress if "progress" in self._changed else None,
            phase=self.phase if "phases" in self._changed else None,
            phases=[dict(p) for p in self._phases] if {"phases", "progress"} & self._changed else None,
            warnings=[*self._warnings] if "warnings" in self._changed else None,
            helpers=self._helpers if "helpers" in self._changed else None,
        )

    def written(self, batch: Batch) -> None:
        del self._events[: len(batch.events)]
        del self._metrics[: len(batch.metrics)]
        self._changed.clear()
        self._urgent = False
        self._written = self._clock()

    # ----------------------------------------------------------------------------------------------------------------

    def _say(self, event: NewEvent) -> None:
        self._events.append(event)

    def _phase(self, event: protocol.PhaseEvent, at: float) -> None:
        entry = next((p for p in self._phases if p["name"] == event.name), None)
        if entry is None:
            entry = {"name": event.name, "status": "pending", "percent": 0.0, "started_at": None, "finished_at": None}
            self._phases.append(entry)
        if event.status == "in_progress":
            self.phase = event.name[:16]
            entry |= {
                "status": event.status,
                "percent": event.percent,
                "started_at": entry["started_at"] or at,
                "finished_at": None,
            }
        elif not (event.status == "skipped" and entry["status"] == "completed"):  # an earlier attempt did it
            percent = 100.0 if event.status in ("completed", "skipped") else entry["percent"]
            entry |= {"status": event.status, "percent": percent, "finished_at": at}
        self._changed.add("phases")
        self._urgent = True
        message = event.message or f"{event.name.capitalize()}: {event.status.replace('_', ' ')}."
        self._say(NewEvent("phase", message, {"name": event.name, "status": event.status, "percent": entry["percent"]}))

    def _step(self, event: protocol.ProgressEvent) -> None:
        data = event.model_dump(exclude={"event"})
        self._progress = data
        self._changed.add("progress")
        for entry in self._phases:
            if entry["name"] == event.phase and entry["status"] == "in_progress":
                entry["percent"] = event.phase_percent
        if self._clock() - self._stored >= STORED_SECONDS:
            self._stored = self._clock()
            self._say(NewEvent("progress", f"{event.percent:.1f} %", data))

    def _log(self, event: protocol.LogEvent) -> None:
        self._logs += 1
        if self._logs <= MAX_LOGS:
            self._say(NewEvent("log", event.message, {}, event.level))
        elif self._logs == MAX_LOGS + 1:
            self._say(NewEvent("log", f"More than {MAX_LOGS} log lines; the rest of this attempt is not kept.", {}, "warning"))

    def _warn(self, code: str, message: str) -> None:
        warning = {"code": code, "message": message}
        if warning in self._warnings or len(self._warnings) >= MAX_WARNINGS:
            return
        self._warnings.append(warning)
        self._changed.add("warnings")
        self._say(NewEvent("warning", message, {"code": code}, "warning"))
