"""The worker process: claims jobs for its slots, renews its own row, reconciles, relays hints, runs imports.

One ticker thread does all of it every half second, whether or not Celery and Redis are there: the database is the queue,
a hint only makes the ticker look at once. Each claimed job has an `Attempt` with threads of its own; a slot that no job
wants is lent to a search as a `Helper`, until a job wants it.
"""

import logging
import secrets
import socket
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from app.domain import ids
from app.domain.db import Sessions, reading, transaction
from app.domain.repositories.helpers import Helpers
from app.domain.repositories.imports import ImportLeases
from app.domain.repositories.leases import Leases
from app.domain.repositories.workers import Workers
from app.domain.storage import BlobStore
from app.settings import Settings
from worker.attempt import PAUSE_GRACE, Attempt
from worker.failpoints import Failpoint, hit
from worker.helper import Helper
from worker.imports import ImportRun
from worker.outbox import Relay, Send
from worker.reconciler import reconcile, sweep
from worker.surroundings import RUN_COMMAND, Surroundings

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
SWEEP_SECONDS = 3600.0
STOP_SHARE = 0.85  # of the grace is the children's; the rest is for writing down how they ended


class Supervisor:
    def __init__(
        self,
        settings: Settings,
        sessions: Sessions,
        blobs: BlobStore,
        *,
        send: Send | None = None,
        command: tuple[str, ...] = RUN_COMMAND,
    ) -> None:
        self.id = ids.new_id(ids.WORKER)
        self.sessions = self._sessions = sessions
        self._settings, self._blobs = settings, blobs
        self._around = Surroundings(settings, sessions, blobs, command, ended=self.nudge)
        self._attempts: dict[int, Attempt | Helper] = {}  # by slot
        self._unable: set[str] = set()  # jobs whose trials come to nothing here
        self._import: ImportRun | None = None
        self._relay = Relay(sessions, send) if send is not None else None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)
        self._seen = self._reconciled = self._swept = -1e9
        self._healthy_since = time.monotonic()

    def start(self) -> None:
        log.info("worker %s: %d slots", self.id, self._settings.worker_slots)
        if self._relay is not None:
            self._relay.start()
        self._thread.start()

    def nudge(self) -> None:
        """Look for work now."""
        self._wake.set()

    def reconcile_soon(self) -> None:
        self._reconciled = -1e9
        self._wake.set()

    def hint(self, job_id: str) -> None:
        """Somebody wants something of this job: look at its row now."""
        for attempt in [*self._attempts.values()]:
            if attempt.job.id == job_id:
                attempt.look()

    @property
    def busy(self) -> int:
        return sum(attempt.alive for attempt in [*self._attempts.values()])

    def begin_stop(self) -> None:
        """Claim nothing more; every child writes a checkpoint and its job goes back to the queue, at no cost to it."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        with self._lock:
            for attempt in self._attempts.values():
                attempt.stop(self._settings.stop_grace_seconds * STOP_SHARE)
            if self._import is not None:
                self._import.stop()
        self._wake.set()

    def stop(self) -> None:
        """Returns when everything has ended, or the grace is over."""
        began = time.monotonic()
        self.begin_stop()
        deadline = began + self._settings.stop_grace_seconds
        self._thread.join(max(0.1, deadline - time.monotonic()))  # first: it may be in the middle of a claim
        for thread in [a.thread for a in self._attempts.values()] + ([self._import.thread] if self._import else []):
            thread.join(max(0.1, deadline - time.monotonic()))
        if self._relay is not None:
            self._relay.stop()
        try:
            with transaction(self._sessions) as session:
                Workers(session).gone(self.id)
        except SQLAlchemyError:
            log.warning("worker %s: the database does not answer, its row goes by itself", self.id)

    # ----------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._tick()
            except SQLAlchemyError as error:
                log.warning("worker %s: the database does not answer (%s)", self.id, type(error).__name__)
                self._healthy_since = time.monotonic()
                self._stopping.wait(1.0)
            except Exception:
                log.exception("worker %s: a tick failed", self.id)
                self._stopping.wait(1.0)
            if time.monotonic() - began > self._settings.heartbeat_seconds:
                self._healthy_since = time.monotonic()
            self._wake.wait(min(TICK_SECONDS, self._settings.poll_seconds))
            self._wake.clear()

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._seen >= self._settings.heartbeat_seconds:
            self._announce()
            self._seen = now
        self._claim()
        self._help()
        self._claim_import()
        if now - self._reconciled >= self._settings.poll_seconds and self._trustworthy(now):
            reconcile(self._sessions)
            self._reconciled = now
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def _trustworthy(self, now: float) -> bool:
        """After an outage every lease looks dead: first give their owners the time of two heartbeats to renew them."""
        return now - self._healthy_since >= 2 * self._settings.heartbeat_seconds

    def _announce(self) -> None:
        with transaction(self._sessions) as session:
            Workers(session).seen(
                self.id,
                hostname=socket.gethostname(),
                slots=self._settings.worker_slots,
                busy=self.busy,
                device=self._settings.worker_device,
                stopping=self._stopping.is_set(),
            )

    def _claim(self) -> None:
        """Fill the free slots with jobs. A read first: most of the time nothing waits, and a read holds up nobody."""
        free = self._free()
        helpers = [h for h in self._attempts.values() if isinstance(h, Helper)]
        if not (free or helpers) or not self._waiting():
            return
        for slot in free:
            with transaction(self._sessions) as session:
                job = Leases(session).claim(self.id, self._settings.lease_seconds)
            if job is None:
                return
            hit(self._settings.fault, Failpoint.CLAIMED)
            log.info("worker %s slot %d: job %s attempt %d", self.id, slot, job.id, job.attempt)
            self._begin(slot, Attempt(job, slot, self._around))
        if not free and not any(h.leaving for h in helpers):
            helpers[0].stop(PAUSE_GRACE)  # its trial goes on elsewhere from its checkpoint

    def _waiting(self) -> bool:
        with reading(self._sessions) as session:
            return Leases(session).waiting()

    def _help(self) -> None:
        """Slots that no job wants train trials of a search, of this worker's or of another's."""
        for slot in self._free():
            with reading(self._sessions) as session:
                if not Helpers(session).wanted(self._unable):
                    return
            with transaction(self._sessions) as session:
                job = Helpers(session).join(self.id, self._unable)
            if job is None:
                return
            log.info("worker %s slot %d: helps job %s attempt %d", self.id, slot, job.id, job.attempt)
            self._begin(slot, Helper(job, slot, self._around))

    def _free(self) -> list[int]:
        self._unable |= {h.job.id for h in self._attempts.values() if isinstance(h, Helper) and h.failed}
        with self._lock:
            self._attempts = {slot: held for slot, held in self._attempts.items() if held.alive}
        return [slot for slot in range(self._settings.worker_slots) if slot not in self._attempts]

    def _begin(self, slot: int, held: Attempt | Helper) -> None:
        with self._lock:
            self._attempts[slot] = held
            if self._stopping.is_set():
                held.stop(self._settings.stop_grace_seconds * STOP_SHARE)
            held.start()

    def _claim_import(self) -> None:
        if self._stopping.is_set() or (self._import is not None and self._import.thread.is_alive()):
            return
        with reading(self._sessions) as session:
            if not ImportLeases(session).waiting():
                return
        owner = f"{self.id}-{secrets.token_hex(6)}"
        with transaction(self._sessions) as session:
            claimed = ImportLeases(session).claim(owner, self._settings.lease_seconds)
        if claimed is not None:
            run = ImportRun(claimed, owner, self._settings, self._sessions, self._blobs)
            with self._lock:
                self._import = run
                run.start()

    def _sweep(self) -> None:
        try:
            sweep(self._sessions, self._blobs, self._settings.sweep_after_seconds)
        except (OSError, SQLAlchemyError):
            log.exception("worker %s: the sweep failed", self.id)
