import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.domain.schedule import Schedule, Scheduled, in_range

SCHEDULED: TypeAdapter[Schedule] = TypeAdapter(Scheduled)


def test_a_number_is_a_constant() -> None:
    assert SCHEDULED.validate_python(4)(0.3) == 4.0


@pytest.mark.parametrize(
    ("kind", "start", "middle", "end"),
    [("linear", 8, 4.5, 1), ("cosine", 8, 4.5, 1), ("exponential", 8, math.sqrt(8), 1)],
)
def test_shapes(kind: str, start: float, middle: float, end: float) -> None:
    schedule = Schedule.model_validate({"schedule": kind, "start": start, "end": end})
    assert [schedule(0), schedule(0.5), schedule(1)] == pytest.approx([start, middle, end])


def test_step_changes_at_its_marks() -> None:
    schedule = Schedule(schedule="step", start=8, at=[0.5, 0.75], values=[4, 2])
    assert [schedule(x) for x in (0, 0.49, 0.5, 0.74, 0.75, 1)] == [8, 8, 4, 4, 2, 2]


def test_warmup_rises_from_zero_then_follows_the_schedule() -> None:
    schedule = Schedule(schedule="linear", start=2, end=1, warmup=0.5)
    assert [schedule(0), schedule(0.25), schedule(0.5), schedule(1)] == pytest.approx([0, 1, 2, 1])


@given(st.sampled_from(["linear", "cosine", "exponential"]), st.floats(0.1, 50), st.floats(0.1, 50), st.floats(-1, 2))
def test_values_stay_between_start_and_end(kind: str, start: float, end: float, x: float) -> None:
    value = Schedule.model_validate({"schedule": kind, "start": start, "end": end})(x)
    assert min(start, end) * (1 - 1e-9) <= value <= max(start, end) * (1 + 1e-9)


@pytest.mark.parametrize(
    "bad",
    [
        {"schedule": "cosine", "start": 8},
        {"schedule": "exponential", "start": 0, "end": 1},
        {"schedule": "step", "start": 1, "at": [0.5], "values": []},
        {"schedule": "step", "start": 1, "at": [0.7, 0.5], "values": [1, 2]},
        {"start": float("nan")},
        {"start": 1, "ende": 2},
        True,
        "hot",
    ],
)
def test_nonsense_is_refused(bad: object) -> None:
    with pytest.raises(ValidationError):
        SCHEDULED.validate_python(bad)


def test_range_names_the_offender() -> None:
    with pytest.raises(ValueError, match=r"temperature must stay within 0\.1 and 100; this one reaches 0 and 8"):
        in_range(Schedule(schedule="linear", start=8, end=0), 0.1, 100, "temperature")
