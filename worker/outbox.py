"""The relay: hints that committed transactions left behind go to Redis, at least once.

It runs in every worker; two of them may send a hint twice, which is harmless. While Redis is away the hints stay where
they are, and the workers find the jobs by looking.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from app.domain.db import Sessions, reading, transaction
from app.domain.repositories.outbox import OutboxRepository

log = logging.getLogger(__name__)
Send = Callable[[str, Sequence[str]], None]  # (task name, arguments); raises when the broker is away

LOOK_SECONDS = 0.5
REST_SECONDS = 5.0  # after a failure


def relay(sessions: Sessions, send: Send) -> int:
    """Send what is unsent; returns how many."""
    with reading(sessions) as session:
        hints = [(h.id, h.task, [str(a) for a in h.args]) for h in OutboxRepository(session).unsent()]
    if not hints:
        return 0
    sent: list[str] = []
    try:
        for hint_id, task, args in hints:
            send(task, args)
            sent.append(hint_id)
    finally:
        if sent:
            with transaction(sessions) as session:
                OutboxRepository(session).mark_sent(sent)
    return len(sent)


class Relay:
    """`relay` in a loop, on a thread of its own: a Redis that hangs must not hold up anything else."""

    def __init__(self, sessions: Sessions, send: Send) -> None:
        self._sessions, self._send = sessions, send
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        pause, complained = LOOK_SECONDS, False
        while not self._stop.wait(pause):
            try:
                relay(self._sessions, self._send)
                pause, complained = LOOK_SECONDS, False
            except SQLAlchemyError as error:
                log.warning("relay: the database does not answer (%s)", type(error).__name__)
                pause = REST_SECONDS
            except Exception as error:  # whatever the broker's client raises
                if not complained:
                    log.warning("relay: hints wait, the broker does not answer (%s)", type(error).__name__)
                pause, complained = REST_SECONDS, True
