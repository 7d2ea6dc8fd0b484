"""One attempt of one job, on a thread of its own: spawn the child, watch it, write down what it says, end the job.

Whatever happens here, the job's row decides: every write is fenced by (job, attempt), and a row that no longer belongs
to this attempt means that the child is killed and nothing more is written.
"""

import errno
import logging
import queue
import signal
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, SQLAlchemyError

from app.domain.db import reading, transaction
from app.domain.errors import ArtifactCorrupt, DomainError
from app.domain.models import Job
from app.domain.repositories.events import clock
from app.domain.repositories.leases import Leases, problem
from worker import fetcher
from worker.child import Child, oom_kills
from worker.failpoints import Failpoint, hit
from worker.inputs import Inputs, build_request
from worker.lease import Lease
from worker.outcomes import Action, Asked, Ended, Verdict, decide
from worker.publish import Publisher
from worker.recorder import Recorder
from worker.surroundings import Surroundings

log = logging.getLogger(__name__)

CANCEL_GRACE = 5.0  # a cancelled run saves nothing, so it need not be asked for long
PAUSE_GRACE = 120.0
TERMINATE_AFTER = 0.8  # of the grace: SIGTERM; at its end: SIGKILL
RETRY_SECONDS = 0.5  # between tries while the database does not answer
UNACCEPTABLE = (DataError, IntegrityError, ProgrammingError)  # of this data; every other database error passes
_WEIGHT = [*Asked]


class Attempt:
    def __init__(self, job: Job, slot: int, around: Surroundings) -> None:
        self.job, self.slot = job, slot
        self._around, self._settings, self._sessions = around, around.settings, around.sessions
        self._recorder = Recorder(job)
        self._began = time.monotonic()
        self._lease = Lease(around.sessions, job.id, job.attempt, self._settings.lease_seconds, self._settings.heartbeat_seconds)
        self._stop_at: float | None = None  # when a stopping worker must be gone
        self._asked, self._asked_at, self._terminated = Asked.NOTHING, 0.0, False
        self._clock_offset: float | None = None
        self.thread = threading.Thread(target=self._guarded, name=f"attempt-{job.id}", daemon=True)

    def start(self) -> None:
        self._lease.start()
        self.thread.start()

    def look(self) -> None:
        self._lease.look()

    def stop(self, within: float) -> None:
        """The worker goes down: checkpoint and hand the job back, `within` seconds."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + within

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    # ----------------------------------------------------------------------------------------------------------------

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:
            log.exception("job %s attempt %d: the supervisor failed", self.job.id, self.job.attempt)
            failure = problem("internal_error", f"The supervisor failed: {type(error).__name__}.", retryable=True)
            self._settle(Verdict(Action.REQUEUE, failure, reason="internal_error"))
        finally:
            self._lease.close()
            self._around.ended()

    def _run(self) -> None:
        try:
            request = build_request(self.job, Inputs(self._settings, self._around.blobs, self._unwanted, self._pin))
        except fetcher.Stopped:
            error = problem("worker_lost", "Stopped by request.", retryable=True)
            return self._settle(Verdict(Action.REQUEUE, error, reason="worker_stopping", free=True))
        except DomainError as refused:
            failure = problem(refused.code, refused.message, retryable=refused.retryable)
            return self._settle(Verdict(Action.FAIL, failure | {"param": refused.param, "hint": refused.hint}))
        except OSError as failed:
            return self._settle(_machine(failed))
        workdir = Path(request.workdir)
        ooms = oom_kills()
        child = Child([*self._around.command], request, self._around.environment(self.slot, workdir), workdir / "child.log")
        log.info("job %s attempt %d: child %d", self.job.id, self.job.attempt, child.pid)
        hit(self._settings.fault, Failpoint.SPAWNED)
        try:
            code = self._watch(child, stall_seconds=2 * request.stall_seconds)
        finally:
            child.kill()
            child.close()
        if code is None:
            log.warning("job %s attempt %d: fenced out, its child is killed", self.job.id, self.job.attempt)
            return
        end = Ended(
            code=code,
            asked=self._asked,
            done=self._recorder.done,
            failed=self._recorder.failed,
            phase=self._recorder.phase,
            oom_killed=oom_kills() > ooms,
            micro_batch_divisor=request.micro_batch_divisor,
            log_tail=child.log_tail,
        )
        verdict = decide(end)
        log.info("job %s attempt %d: child ended with %d -> %s", self.job.id, self.job.attempt, code, verdict.action)
        self._settle(self._publish(workdir, end) if verdict.action is Action.PUBLISH else verdict)

    def _unwanted(self) -> bool:
        lease = self._lease
        return self._stop_at is not None or lease.cancel.is_set() or lease.pause.is_set() or lease.lost.is_set()

    def _pin(self, inputs: dict[str, Any]) -> None:
        with transaction(self._sessions) as session:
            Leases(session).pin_inputs(self.job.id, self.job.attempt, inputs)

    # -- while it runs -----------------------------------------------------------------------------------------------

    def _watch(self, child: Child, stall_seconds: float) -> int | None:
        """Its exit code; None: fenced out."""
        heard = time.monotonic()
        code = None
        while code is None or not self._drained(child):
            if self._read(child, wait=0.1 if code is None else 0.02):
                heard = time.monotonic()
            if self._lease.lost.is_set():
                return None
            if code is None:
                self._ask(child)
                code = child.poll()
                if code is not None:
                    ended = time.monotonic()
                elif time.monotonic() - heard > stall_seconds:
                    log.warning("job %s attempt %d: silent for %.0f s, killed", self.job.id, self.job.attempt, stall_seconds)
                    code = child.kill()
                    ended = time.monotonic()
            elif time.monotonic() - ended > 5.0:  # a grandchild in a session of its own holds the pipe
                break
            self._flush(force=False)
        if not self._flush_until_written():
            return None
        return code

    @staticmethod
    def _drained(child: Child) -> bool:
        return child.finished_reading and child.events.empty()

    def _read(self, child: Child, wait: float) -> bool:
        """Take in what the child said; True when it said something."""
        heard = False
        if self._recorder.backlog > 2000:  # written first; meanwhile the pipe fills and the child waits
            time.sleep(wait)
            return True
        try:
            item = child.events.get(timeout=wait)
            while True:
                heard = True
                if isinstance(item, bytes):
                    self._recorder.add_malformed(item)
                else:
                    self._recorder.add(item, self._wall_time())
                if self._recorder.backlog > 2000:
                    break
                item = child.events.get_nowait()
        except queue.Empty:
            pass
        return heard

    def _ask(self, child: Child) -> None:
        """Tell the child what is wanted of it; insist with signals when it does not react in time."""
        wanted = self._wanted()
        now = time.monotonic()
        if _WEIGHT.index(wanted) > _WEIGHT.index(self._asked):
            self._asked, self._asked_at = wanted, now
            child.command("cancel" if wanted is Asked.CANCEL else "checkpoint_and_exit")
            log.info("job %s attempt %d: asked to %s", self.job.id, self.job.attempt, wanted)
        if self._asked is Asked.NOTHING:
            return
        grace = CANCEL_GRACE if self._asked is Asked.CANCEL else PAUSE_GRACE
        deadline = self._asked_at + grace
        if self._stop_at is not None:
            deadline = min(deadline, self._stop_at)
        if now >= deadline:
            child.signal(signal.SIGKILL)
        elif not self._terminated and now >= self._asked_at + TERMINATE_AFTER * (deadline - self._asked_at):
            self._terminated = True
            child.signal(signal.SIGTERM)

    def _wanted(self) -> Asked:
        if self._lease.cancel.is_set():
            return Asked.CANCEL
        limit = (self.job.spec.get("budget") or {}).get("max_wall_seconds")
        if limit is not None and self._wall_seconds() > limit:
            return Asked.TIME
        if self._stop_at is not None:
            return Asked.STOP
        return Asked.PAUSE if self._lease.pause.is_set() else Asked.NOTHING

    def _wall_seconds(self) -> float:
        """Of all attempts since the job was submitted or resumed."""
        return float(self.job.usage.get("wall_seconds", 0.0)) + time.monotonic() - self._began

    def _wall_time(self) -> float:
        """The database's clock, read once and carried on by ours."""
        if self._clock_offset is None:
            try:
                with reading(self._sessions) as session:
                    self._clock_offset = clock(session) - time.monotonic()
            except SQLAlchemyError:
                return time.time()
        return time.monotonic() + self._clock_offset

    # -- what is written ---------------------------------------------------------------------------------------------

    def _flush(self, force: bool) -> bool:
        """Write what is due; False when the database does not answer now. Sets `lost` when fenced out."""
        if not (self._recorder.due or (force and self._recorder.backlog)):
            return True
        batch = self._recorder.take()
        try:
            with transaction(self._sessions) as session:
                if not Leases(session).record(self.job.id, self.job.attempt, batch):
                    self._lease.lost.set()
                    return True
        except UNACCEPTABLE:  # now or later: drop it rather than stop the run
            log.exception("job %s: %d events could not be stored", self.job.id, len(batch.events))
        except SQLAlchemyError as error:
            log.warning("job %s: events wait for the database (%s)", self.job.id, type(error).__name__)
            self._recorder.later()
            return False
        self._recorder.written(batch)
        hit(self._settings.fault, Failpoint.RECORDED)
        return True

    def _flush_until_written(self) -> bool:
        """False: fenced out, or this worker has no more time; then the lease runs out and the job is taken up again."""
        while not self._flush(force=True):
            if self._lease.lost.is_set() or self._late():
                return False
            time.sleep(RETRY_SECONDS)
        return not self._lease.lost.is_set()

    def _late(self) -> bool:
        return self._stop_at is not None and time.monotonic() > self._stop_at + 2.0

    def _publish(self, workdir: Path, end: Ended) -> Verdict | None:
        """None: published, or fenced out. Otherwise what to do about the failure."""
        assert end.done is not None
        publisher = Publisher(self._sessions, self._around.blobs, self._settings.fault)
        conflicts = 0
        while not self._lease.lost.is_set():
            try:
                publisher.publish(self.job, workdir, end.done, self._usage())
                return None
            except UNACCEPTABLE as error:
                conflicts += 1  # two jobs may make the same model in the same moment: then the second finds it there
                if conflicts == 5 or not isinstance(error, IntegrityError):
                    raise
            except SQLAlchemyError as error:
                log.warning("job %s: publication waits for the database (%s)", self.job.id, type(error).__name__)
                if self._late():
                    return None
                time.sleep(RETRY_SECONDS)
            except ArtifactCorrupt as error:
                failure = problem("artifact_corrupt", error.message, retryable=True, phase="packaging")
                return Verdict(Action.REQUEUE, failure, reason="artifact_corrupt")
            except OSError as error:
                return _machine(error)
        return None

    def _settle(self, verdict: Verdict | None) -> None:
        """Write the end of the attempt, however long the database takes to answer."""
        while verdict is not None and not self._lease.lost.is_set():
            try:
                with transaction(self._sessions) as session:
                    self._write(Leases(session), verdict)
                return
            except UNACCEPTABLE:
                raise
            except SQLAlchemyError as error:
                log.warning("job %s: its end waits for the database (%s)", self.job.id, type(error).__name__)
                if self._late():
                    return
                time.sleep(RETRY_SECONDS)

    def _write(self, leases: Leases, verdict: Verdict) -> None:
        usage = self._usage()
        if verdict.micro_batch_divisor is not None:
            usage["micro_batch_divisor"] = verdict.micro_batch_divisor
        if verdict.action is Action.FAIL:
            leases.fail(self.job.id, self.job.attempt, verdict.error, usage)
            return
        failures = self.job.attempt - self.job.interruptions
        delay = 0.0 if verdict.free or failures <= 1 else min(60.0, 2.0 ** (failures - 1))
        leases.requeue(
            self.job.id, self.job.attempt, verdict.error, reason=verdict.reason, free=verdict.free, delay=delay, usage=usage
        )

    def _usage(self) -> dict[str, Any]:
        return {"wall_seconds": round(self._wall_seconds(), 3), "attempts": self.job.attempt}


def _machine(error: OSError) -> Verdict:
    """A failure of this machine, not of the job."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = "There is no space left on the worker's disk."
        return Verdict(Action.FAIL, problem("disk_full", message, retryable=True, hint="Free some space, then resume the job."))
    message = f"The worker could not prepare the run: {error.strerror or type(error).__name__}."
    return Verdict(Action.REQUEUE, problem("internal_error", message, retryable=True), reason="internal_error")
