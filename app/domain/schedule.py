"""One type for everything that changes over training: temperatures, weights. A number is a constant schedule."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Schedule(BaseModel):
    """value(x), x in [0, 1] = share of the stage's optimiser steps done.

    constant: start.  linear: start + (end - start) x.  cosine: end + (start - end)(1 + cos pi x) / 2.
    exponential: start (end / start)^x.  step: start, then `values[i]` from share `at[i]` on.
    `warmup` (share of the stage) rises linearly from 0 to the first value; meant for weights.
    Source: annealed KD, arXiv 2104.07163; curriculum temperature, arXiv 2211.16231.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Literal["constant", "linear", "cosine", "exponential", "step"] = "constant"
    start: float = Field(allow_inf_nan=False)
    end: float | None = Field(default=None, allow_inf_nan=False)
    at: list[float] = []
    values: list[float] = []
    warmup: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _complete(self) -> "Schedule":
        if self.schedule in ("linear", "cosine", "exponential") and self.end is None:
            raise ValueError(f"a {self.schedule} schedule needs 'end'")
        if self.schedule == "exponential" and (self.start <= 0 or (self.end or 0) <= 0):
            raise ValueError("an exponential schedule needs start > 0 and end > 0")
        if self.schedule == "step":
            if not self.at or len(self.at) != len(self.values):
                raise ValueError("a step schedule needs 'at' and 'values' of the same, non-zero length")
            if self.at != sorted(self.at) or not all(0 < x < 1 for x in self.at):
                raise ValueError("'at' must rise and lie between 0 and 1")
        return self

    def __call__(self, x: float) -> float:
        x = min(max(x, 0.0), 1.0)
        if self.warmup and x < self.warmup:
            return self._at(0.0) * x / self.warmup
        return self._at((x - self.warmup) / (1 - self.warmup))

    def _at(self, x: float) -> float:
        start, end = self.start, self.end if self.end is not None else self.start
        match self.schedule:
            case "constant":
                return start
            case "linear":
                return start + (end - start) * x
            case "cosine":
                return end + 0.5 * (start - end) * (1 + math.cos(math.pi * x))
            case "exponential":
                return float(start * (end / start) ** x)
            case "step":
                return next((v for a, v in zip(reversed(self.at), reversed(self.values), strict=True) if x >= a), start)

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value it can take (warm-up aside)."""
        points = [self.start, *([] if self.end is None else [self.end]), *self.values]
        return min(points), max(points)


def _from_number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"start": float(value)}
    return value


Scheduled = Annotated[Schedule, BeforeValidator(_from_number, json_schema_input_type=float | Schedule)]


def in_range(schedule: Schedule, low: float, high: float, name: str) -> Schedule:
    """Raises ValueError unless every value of the schedule lies in [low, high]."""
    least, most = schedule.bounds
    if least < low or most > high:
        raise ValueError(f"{name} must stay within {low:g} and {high:g}; this one reaches {least:g} and {most:g}")
    return schedule
