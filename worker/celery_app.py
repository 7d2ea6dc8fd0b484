"""Celery as a doorbell: hints only, early acknowledged, JSON only, no results. `celery -A worker.celery_app worker -P threads`.

Why each setting: docs/adr. In short, Redis has no acknowledgement of its own, so a message is never trusted with work:
a long task is delivered twice after the visibility timeout (celery #5935), a prefetched one too even when acknowledged
early, a killed worker's is lost (#1628) or comes back for ever (#9082), and a restarted Redis forgets what waited. A
job's row, lease and attempt carry the truth; losing every message costs at most one look at the table.
"""

from collections.abc import Sequence
from typing import Any

from celery import Celery, signals

from app.settings import get_settings
from worker import runtime

GPU, CHORES = "gpu", "chores"
QUEUES = {"retort.wake": GPU, "retort.trial": GPU, "retort.cancel_hint": GPU}  # everything else: chores
HINT_SECONDS = 3600.0  # older hints are dropped; the tables are looked at anyway

settings = get_settings()
app = Celery("retort", broker=settings.redis_url, include=["worker.tasks"])
app.conf.update(
    task_acks_late=False,
    task_ignore_result=True,
    result_backend=None,
    task_serializer="json",
    accept_content=["json"],
    event_serializer="json",
    result_serializer="json",
    task_default_queue=CHORES,
    task_create_missing_queues=True,
    task_routes={name: {"queue": queue} for name, queue in QUEUES.items()},
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    worker_pool="threads",
    worker_concurrency=1,
    worker_send_task_events=False,
    worker_hijack_root_logger=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": 3600,
        "socket_keepalive": True,
        "socket_connect_timeout": 5,
        "health_check_interval": 25,
    },
    beat_schedule={
        "relay_outbox": {"task": "retort.relay_outbox", "schedule": 1.0, "options": {"expires": 5.0}},
        "reconcile": {"task": "retort.reconcile", "schedule": 30.0, "options": {"expires": 60.0}},
    },
)


def send_hint(task: str, args: Sequence[str]) -> None:
    """One try: what could not be sent stays in the outbox."""
    queue = QUEUES.get(task, CHORES)
    app.send_task(task, args=[*args], queue=queue, retry=False, ignore_result=True, expires=HINT_SECONDS)


def _start(**_: Any) -> None:
    """Not at `worker_ready`: that one waits for the broker, and jobs run without it."""
    runtime.start(send_hint)


def _begin_stop(**_: Any) -> None:
    runtime.begin_stop()


def _stop(**_: Any) -> None:
    runtime.stop()


signals.worker_init.connect(_start)
signals.worker_shutting_down.connect(_begin_stop)
signals.worker_shutdown.connect(_stop)
