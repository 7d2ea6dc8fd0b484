"""The same key twice: one piece of work, one answer; on both databases, also at the same moment."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.domain.db import Sessions, transaction
from app.domain.errors import IdempotencyKeyReused
from app.domain.models import IdempotencyKey
from app.domain.repositories.idempotency import KEPT_SECONDS, Answer, Idempotency
from app.domain.repositories.projects import Projects
from tests.conftest import OTHER_PROJECT, PROJECT

ANSWER = Answer(201, {"id": "x"}, "/v1/x")


def once(sessions: Sessions, key: str = "k", body: str = "a" * 64, project: str = PROJECT, path: str = "/v1/x") -> Answer | None:
    with transaction(sessions) as session:
        ledger = Idempotency(session, project)
        found = ledger.begin("POST", path, key, body)
        if found is None:
            ledger.finish("POST", path, key, ANSWER)
        return found


def test_first_then_replay(sessions: Sessions) -> None:
    assert once(sessions) is None
    assert once(sessions) == ANSWER
    assert once(sessions, key="other") is None
    assert once(sessions, path="/v1/y") is None
    assert once(sessions, project=OTHER_PROJECT) is None


def test_another_body_is_refused(sessions: Sessions) -> None:
    once(sessions)
    with pytest.raises(IdempotencyKeyReused):
        once(sessions, body="b" * 64)


def test_work_that_failed_leaves_no_trace(sessions: Sessions) -> None:
    def fails() -> None:
        with transaction(sessions) as session:
            Idempotency(session, PROJECT).begin("POST", "/v1/x", "k", "a" * 64)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert once(sessions) is None


def test_a_day_later_the_key_is_free(sessions: Sessions) -> None:
    once(sessions)
    with transaction(sessions) as session:
        session.query(IdempotencyKey).update({"created_at": time.time() - KEPT_SECONDS - 60})
    assert once(sessions, body="b" * 64) is None


def test_fifty_at_once_do_the_work_once(sessions: Sessions) -> None:
    made = []
    start = threading.Barrier(10)

    def request(n: int) -> Answer | None:
        if n < 10:
            start.wait()
        with transaction(sessions) as session:
            ledger = Idempotency(session, PROJECT)
            found = ledger.begin("POST", "/v1/projects", "k", "a" * 64)
            if found is None:
                made.append(Projects(session).add("only once").id)
                ledger.finish("POST", "/v1/projects", "k", ANSWER)
            return found

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(request, range(50)))
    assert answers.count(None) == 1
    assert answers.count(ANSWER) == 49
    assert len(made) == 1
