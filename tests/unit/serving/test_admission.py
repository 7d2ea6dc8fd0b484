"""What is refused before any work, and what the refusal says."""

import pytest

from app.domain.errors import Overloaded, RateLimited
from app.serving.admission import Limits, admit

LIMITS = Limits(queue_rows=100)


class Queue:
    def __init__(self, backlog: int, seconds_per_row: float) -> None:
        self.backlog, self.seconds = backlog, seconds_per_row

    def expected_wait(self, rows: int = 0) -> float:
        return (self.backlog + rows) * self.seconds


def test_a_full_queue_is_503_and_a_late_answer_429_both_with_a_time_to_retry() -> None:
    with pytest.raises(Overloaded) as full:
        admit(Queue(95, 0.5), 10, 60.0, LIMITS)  # type: ignore[arg-type]
    assert full.value.status == 503
    assert full.value.retry_after == 48
    with pytest.raises(RateLimited) as late:
        admit(Queue(80, 1.0), 1, 30.0, LIMITS)  # type: ignore[arg-type]
    assert late.value.status == 429
    assert late.value.retry_after == 51


def test_a_call_that_finds_nobody_waiting_is_let_in() -> None:
    admit(Queue(0, 10.0), 1000, 1.0, LIMITS)  # type: ignore[arg-type]
