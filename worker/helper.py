"""A free slot lent to a search: a run child that trains trials of a job which this slot does not own.

It renews no lease, writes nothing to the job's row and decides nothing: what its child makes counts once it is sealed in the
job's work folder. It ends when no trial is unclaimed, when the job is no longer that attempt's, or when a job wants the slot.
One that fails gives its place back, and this worker does not come to that job again.
"""

import contextlib
import logging
import math
import queue
import threading
import time
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from app.domain import ids
from app.domain.db import transaction
from app.domain.errors import DomainError
from app.domain.models import Job
from app.domain.repositories.helpers import Helpers
from worker import fetcher
from worker.attempt import PAUSE_GRACE
from worker.child import Child
from worker.inputs import Inputs, build_request
from worker.lease import Lease
from worker.run import exitcodes, protocol
from worker.surroundings import Surroundings

log = logging.getLogger(__name__)


class Helper:
    def __init__(self, job: Job, slot: int, around: Surroundings) -> None:
        self.job, self.slot = job, slot
        self._around, self._settings = around, around.settings
        self._lease = Lease(around.sessions, job.id, job.attempt, math.inf, math.inf)  # looks, and never renews
        self._leave_at: float | None = None  # when it must be gone
        self.failed = False
        self.thread = threading.Thread(target=self._guarded, name=f"helper-{job.id}", daemon=True)

    def start(self) -> None:
        self._lease.start()
        self.thread.start()

    def look(self) -> None:
        self._lease.look()

    def stop(self, within: float) -> None:
        """Write a checkpoint and leave the trial to the search, `within` seconds."""
        until = time.monotonic() + within
        self._leave_at = until if self._leave_at is None else min(self._leave_at, until)

    @property
    def leaving(self) -> bool:
        return self._leave_at is not None

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    # ----------------------------------------------------------------------------------------------------------------

    def _guarded(self) -> None:
        useful = False
        try:
            useful = self._run()
        except (DomainError, OSError) as reason:
            log.warning("job %s: no help from here: %s", self.job.id, reason)
        except fetcher.Stopped:
            pass
        except Exception:
            log.exception("job %s: helping failed", self.job.id)
        finally:
            self.failed = not useful and not self._unwanted()
            self._lease.close()
            if not useful:
                self._give_back()
            self._around.ended()

    def _give_back(self) -> None:
        try:
            with transaction(self._around.sessions) as session:
                Helpers(session).leave(self.job.id, self.job.attempt)
        except SQLAlchemyError as error:
            log.warning("job %s: a helper's place is lost, the database does not answer (%s)", self.job.id, type(error).__name__)

    def _run(self) -> bool:
        """Whether it trained until nothing was left, or there was nothing."""
        workdir = self._around.blobs.run(self.job.id, self.job.attempt)
        if not workdir.is_dir():
            log.warning("job %s: no help from here, its folder is not in this blob store: %s", self.job.id, workdir)
            return False
        if not (workdir / protocol.RUNG).is_file():
            return True
        request = build_request(self.job, Inputs(self._settings, self._around.blobs, self._unwanted))
        folder = workdir / protocol.HELPERS / ids.new_id(ids.HELPER)
        folder.mkdir(parents=True, mode=0o700)
        request = request.model_copy(update={"workdir": str(folder), "helps": str(workdir)})
        try:
            child = Child([*self._around.command], request, self._around.environment(self.slot, folder), folder / "child.log")
            try:
                code = self._watch(child, 2 * request.stall_seconds)
                log.info("job %s: helper %s ended with %d", self.job.id, folder.name, code)
                return code in (exitcodes.DONE, exitcodes.CANCELLED)  # cancelled: by itself, the rung is over
            finally:
                child.kill()
                child.close()
        finally:
            _ended(folder)

    def _unwanted(self) -> bool:
        lease = self._lease
        return self.leaving or lease.lost.is_set() or lease.cancel.is_set() or lease.pause.is_set()

    def _watch(self, child: Child, stall_seconds: float) -> int:
        """Its exit code. What it says is only a sign of life: of a search, one child speaks."""
        heard = time.monotonic()
        asked = False
        while (code := child.poll()) is None:
            with contextlib.suppress(queue.Empty):
                child.events.get(timeout=0.1)
                heard = time.monotonic()
            now = time.monotonic()
            if self._lease.lost.is_set() or self._lease.cancel.is_set() or now - heard > stall_seconds:
                return child.kill()
            if self._lease.pause.is_set() and not self.leaving:
                self.stop(PAUSE_GRACE)
            if self._leave_at is not None:
                if now > self._leave_at:
                    return child.kill()
                if not asked:
                    child.command("checkpoint_and_exit")
                    asked = True
        return code


def _ended(folder: Path) -> None:
    """So that the search need not wait until its silence tells."""
    with contextlib.suppress(OSError):
        (folder / protocol.ENDED).touch()
