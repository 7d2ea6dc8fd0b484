"""What is refused before any work, and what the refusal says."""

from typing import Any

import pytest

from app.domain.errors import ContextLengthExceeded, DomainError, InvalidRequest, MissingParameter, Overloaded, RateLimited
from app.serving.admission import Limits, admit, texts

LIMITS = Limits(max_items=10, max_characters=100, queue_rows=100)


class Queue:
    def __init__(self, backlog: int, seconds_per_row: float) -> None:
        self.backlog, self.seconds = backlog, seconds_per_row

    def expected_wait(self, rows: int = 0) -> float:
        return (self.backlog + rows) * self.seconds


def test_texts_come_as_one_or_several_strings() -> None:
    assert texts("a", LIMITS) == ["a"]
    assert texts(["a", "b"], LIMITS) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "error", "param", "said"),
    [
        (None, MissingParameter, "input", "missing"),
        ([], InvalidRequest, "input", "empty list"),
        ("", InvalidRequest, "input", "empty string"),
        (["a", ""], InvalidRequest, "input[1]", "empty string"),
        (5, InvalidRequest, "input", "number"),
        ({"a": 1}, InvalidRequest, "input", "JSON object"),
        (["a", None], InvalidRequest, "input[1]", "null"),
        ([True], InvalidRequest, "input[0]", "boolean"),
        ([1, 2, 3], InvalidRequest, "input[0]", "token ids"),
        ([[1, 2], [3]], InvalidRequest, "input[0]", "token ids"),
        (["a"] * 11, InvalidRequest, "input", "10"),
        (["a", "b" * 101], ContextLengthExceeded, "input[1]", "100"),
    ],
)
def test_other_input_is_refused_with_its_place(value: Any, error: type[DomainError], param: str, said: str) -> None:
    with pytest.raises(error) as caught:
        texts(value, LIMITS)
    assert caught.value.param == param
    assert caught.value.status == 400
    assert said in caught.value.message


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
