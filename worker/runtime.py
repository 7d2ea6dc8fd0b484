"""This process's supervisor: started and stopped by Celery's signals, nudged by its tasks."""

from app.domain.db import make_engine, make_sessions
from app.domain.storage import BlobStore
from app.settings import get_settings
from worker.outbox import Send, relay
from worker.supervisor import Supervisor

_running: Supervisor | None = None


def start(send: Send) -> None:
    global _running
    settings = get_settings()
    sessions = make_sessions(make_engine(settings.database))
    _running = Supervisor(settings, sessions, BlobStore(settings.blob_root), send=send)
    _running.start()


def begin_stop() -> None:
    """SIGTERM came. Called inside the signal handler: flags are set, nothing is waited for."""
    if _running is not None:
        _running.begin_stop()


def stop() -> None:
    if _running is not None:
        _running.stop()


def nudge() -> None:
    if _running is not None:
        _running.nudge()


def hint(job_id: str) -> None:
    if _running is not None:
        _running.hint(job_id)


def reconcile_soon() -> None:
    if _running is not None:
        _running.reconcile_soon()


def relay_now(send: Send) -> None:
    if _running is not None:
        relay(_running.sessions, send)
