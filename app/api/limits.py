"""Requests per minute and key, counted in this process: a bucket that refills steadily. `x-ratelimit-*` says where it stands."""

import threading
import time
from dataclasses import dataclass

from fastapi import Request

from app.domain.errors import RateLimited

_MOST = 10_000


@dataclass(frozen=True)
class Standing:
    limit: int
    remaining: int
    reset_seconds: float  # until the bucket is full
    retry_after: float  # 0: admitted

    def headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{self.reset_seconds:.1f}s",
        }


class Limiter:
    """Generic cell rate algorithm: one float per key, the time at which its bucket is full again."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._interval = 60.0 / per_minute
        self._full_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, key: str, now: float | None = None) -> Standing:
        at = time.monotonic() if now is None else now
        with self._lock:
            full_at = max(self._full_at.pop(key, at), at)
            after = full_at + self._interval
            late = after - at - 60.0
            admitted = late <= 1e-9
            if admitted:
                full_at = after
            while len(self._full_at) >= _MOST:
                self._full_at.pop(next(iter(self._full_at)))
            self._full_at[key] = full_at
        remaining = int((60.0 - (full_at - at)) / self._interval + 1e-9)
        return Standing(self.per_minute, max(0, remaining), full_at - at, 0.0 if admitted else late)


def count(request: Request, key_id: str) -> None:
    """Raises RateLimited; the headers go out with whatever is answered."""
    limiter: Limiter | None = getattr(request.app.state, "limiter", None)
    if limiter is None:  # the data plane as a process of its own has admission control instead
        return
    standing = limiter.take(key_id)
    request.scope.setdefault("state", {}).setdefault("response_headers", {}).update(standing.headers())
    if standing.retry_after:
        raise RateLimited(
            f"This key may send {standing.limit} requests a minute.",
            hint="Wait as long as Retry-After says.",
            retry_after=standing.retry_after,
        )
