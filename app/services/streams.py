"""A job as a stream of frames, read from the database: whoever listens changes nothing, and may come back where they left."""

from dataclasses import dataclass, field
from typing import Any

from app.domain.db import Sessions, reading
from app.domain.errors import NotFound
from app.domain.repositories.events import Events
from app.domain.repositories.jobs import Jobs
from app.domain.states import TERMINAL, Status
from app.services import views

_MOST_EVENTS = 500  # per look; the rest comes with the next one
_MOST_METRICS = 200


@dataclass(frozen=True)
class Frame:
    event: str
    data: dict[str, Any]
    id: int | None = None  # a stored event's number; what has none cannot be replayed


@dataclass
class Follower:
    """`look` gives what is new since the last look. `ended`: nothing more will come."""

    sessions: Sessions
    project_id: str
    job_id: str
    seen: int = 0
    snapshot: bool = True
    ended: bool = False
    _progress: dict[str, Any] | None = None
    _metrics: set[tuple[str, int]] | None = field(default=None)

    def look(self) -> list[Frame]:
        with reading(self.sessions) as session:
            jobs = Jobs(session, self.project_id)
            job = jobs.get(self.job_id)
            if job is None:
                raise NotFound("job", self.job_id)
            ahead = jobs.jobs_ahead(job) if job.status == Status.QUEUED else None
            events = Events(session)
            stored = events.list(job.id, self.seen, _MOST_EVENTS)
            metrics = events.metrics(job.id, limit=_MOST_METRICS)
        frames: list[Frame] = []
        if self.snapshot:
            frames.append(Frame("snapshot", views.job_object(job, ahead)))
            self.snapshot = False
            if not self.seen:  # the snapshot says it all, up to here
                stored = [event for event in stored if event.seq > job.last_seq]
                self.seen = job.last_seq
                self._progress = job.progress
        for event in stored:
            said = {"seq": event.seq, "message": event.message, "level": event.level, "attempt": event.attempt}
            frames.append(Frame(event.type, {**event.data, **said, "at": views.at(event.created_at)}, event.seq))
            self.seen = event.seq
        known = self._metrics
        self._metrics = {(m.stage, m.step) for m in metrics} | (known or set())
        if known is not None:
            frames += [Frame("metrics", views.metric_object(m)) for m in metrics if (m.stage, m.step) not in known]
        if job.progress != self._progress:
            self._progress = job.progress
            if job.progress:
                frames.append(Frame("progress", job.progress))
        return self._closed(frames, Status(job.status), len(stored) < _MOST_EVENTS)

    def _closed(self, frames: list[Frame], status: Status, complete: bool) -> list[Frame]:
        """`end` comes last, and once, also for a listener who came after it."""
        if status not in TERMINAL or not complete:
            return frames
        self.ended = True
        last = [frame for frame in frames if frame.event == "end"] or [Frame("end", {"status": status.value})]
        return [frame for frame in frames if frame.event != "end"] + last[-1:]
