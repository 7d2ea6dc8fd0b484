"""The bucket of one key."""

import pytest

from app.api.limits import Limiter


def test_a_full_bucket_then_one_per_interval() -> None:
    limiter = Limiter(60)
    taken = [limiter.take("k", now=0.0) for _ in range(61)]
    assert [t.retry_after == 0 for t in taken] == [True] * 60 + [False]
    assert [t.remaining for t in taken[:3]] == [59, 58, 57]
    assert taken[60].remaining == 0
    assert taken[60].retry_after == pytest.approx(1.0)
    assert limiter.take("k", now=1.0).retry_after == 0
    assert limiter.take("k", now=1.0).retry_after == pytest.approx(1.0)
    assert limiter.take("k", now=1000.0).remaining == 59, "it never holds more than a minute's worth"


def test_keys_do_not_share() -> None:
    limiter = Limiter(1)
    assert limiter.take("a", now=0.0).retry_after == 0
    assert limiter.take("a", now=0.0).retry_after > 0
    assert limiter.take("b", now=0.0).retry_after == 0


def test_what_was_refused_is_not_counted() -> None:
    limiter = Limiter(2)
    for _ in range(100):
        standing = limiter.take("k", now=0.0)
    assert standing.retry_after == pytest.approx(30.0)


def test_headers_say_where_it_stands() -> None:
    headers = Limiter(10).take("k", now=0.0).headers()
    assert headers == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6.0s",
    }
