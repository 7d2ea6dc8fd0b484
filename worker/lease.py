"""Keeps one attempt's lease alive and notices what is asked of it, on a thread of its own: publishing may take minutes."""

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from app.domain.db import Sessions, reading, transaction
from app.domain.repositories.leases import Leases

log = logging.getLogger(__name__)
PEEK_SECONDS = 1.0


class Lease:
    """`cancel` and `pause` are wishes seen so far; `lost` means fenced out: kill the child, write nothing more.

    A database that does not answer is no reason to give up: as long as `attempt` is unchanged nobody else runs the job.
    """

    def __init__(self, sessions: Sessions, job_id: str, attempt: int, lease_seconds: float, heartbeat_seconds: float) -> None:
        self.cancel, self.pause, self.lost = threading.Event(), threading.Event(), threading.Event()
        self._sessions, self._job_id, self._attempt = sessions, job_id, attempt
        self._lease_seconds, self._heartbeat_seconds = lease_seconds, heartbeat_seconds
        self._closed, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{job_id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def look(self) -> None:
        """Look at the wishes now: a hint came."""
        self._wake.set()

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._closed.is_set() and not self.lost.is_set():
            self._wake.wait(min(PEEK_SECONDS, self._heartbeat_seconds))
            self._wake.clear()
            if self._closed.is_set():
                return
            try:
                if time.monotonic() - renewed >= self._heartbeat_seconds:
                    self._beat(renew=True)
                    renewed = time.monotonic()
                else:
                    self._beat(renew=False)
            except SQLAlchemyError as error:
                log.warning("job %s: no heartbeat, the database does not answer (%s)", self._job_id, type(error).__name__)

    def _beat(self, renew: bool) -> None:
        if renew:
            with transaction(self._sessions) as session:
                seen = Leases(session).heartbeat(self._job_id, self._attempt, self._lease_seconds)
        else:
            with reading(self._sessions) as session:
                seen = Leases(session).peek(self._job_id, self._attempt)
        if seen is None:
            if not self._closed.is_set():  # else the job ended through us
                self.lost.set()
            return
        if seen.cancel:
            self.cancel.set()
        if seen.pause:
            self.pause.set()
