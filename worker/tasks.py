"""Hints, by name. A task carries ids at most and does nothing that would be missed if it never ran."""

from worker import runtime
from worker.celery_app import app, send_hint


@app.task(name="retort.wake")  # type: ignore[untyped-decorator]
def wake() -> None:
    """A job may wait in the queue."""
    runtime.nudge()


@app.task(name="retort.trial")  # type: ignore[untyped-decorator]
def trial(job_id: str) -> None:
    """A search has trials for whoever is free: one hint for each."""
    runtime.nudge()


@app.task(name="retort.run_import")  # type: ignore[untyped-decorator]
def run_import(import_id: str) -> None:
    """A model may wait to be imported."""
    runtime.nudge()


@app.task(name="retort.cancel_hint")  # type: ignore[untyped-decorator]
def cancel_hint(job_id: str) -> None:
    """Somebody cancels or pauses a job. With several workers another one may get this; its owner looks every second."""
    runtime.hint(job_id)


@app.task(name="retort.reconcile")  # type: ignore[untyped-decorator]
def reconcile() -> None:
    runtime.reconcile_soon()


@app.task(name="retort.relay_outbox")  # type: ignore[untyped-decorator]
def relay_outbox() -> None:
    runtime.relay_now(send_hint)
