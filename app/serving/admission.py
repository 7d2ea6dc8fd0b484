"""What is refused before any work: more than the limits, and calls that would only wait."""

import math
from dataclasses import dataclass

from app.domain.errors import Overloaded, RateLimited
from app.serving import metrics
from app.serving.batcher import Batcher


@dataclass(frozen=True)
class Limits:
    max_items: int = 2048  # texts of one request; OpenAI's limit for embeddings
    max_characters: int = 100_000  # of one text, before tokenising
    max_body_bytes: int = 4 * 2**20
    queue_rows: int = 4096  # per model
    deadline_seconds: float = 30.0
    load_wait_seconds: float = 10.0  # how long a call waits for its model to load before it is told to come back


def admit(batcher: Batcher, rows: int, seconds: float, limits: Limits) -> None:
    """Refuse early what would be late. A call that finds the queue empty is always let in: what it computes is cached."""
    waiting = batcher.backlog
    if waiting and waiting + rows > limits.queue_rows:
        metrics.REFUSED.labels("queue_full").inc()
        raise Overloaded(
            f"{waiting} texts are waiting for this model already; {limits.queue_rows} may.",
            hint="Retry after the stated seconds, or run more `serve` processes.",
            retry_after=_soon(batcher.expected_wait()),
        )
    expected = batcher.expected_wait(rows)
    if waiting and expected > seconds:
        metrics.REFUSED.labels("deadline").inc()
        raise RateLimited(
            f"The answer would take about {expected:.0f} s, the deadline is {seconds:.0f} s.",
            hint="Retry after the stated seconds with fewer texts at once, or run more `serve` processes.",
            retry_after=_soon(expected - seconds),
        )


def _soon(seconds: float) -> float:
    return float(min(60, max(1, math.ceil(seconds))))
