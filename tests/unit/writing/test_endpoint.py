"""The client against a real server on the loopback: what is asked again, what ends the job, and what never leaks."""

import email.utils
import threading
import time
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr

from app.domain.errors import DomainError, EndpointAnswerInvalid, EndpointNotAllowed, EndpointRefused, EndpointUnavailable
from tests.fixtures.cluster import free_port
from tests.fixtures.endpoint import FakeEndpoint, Reply, answering, completion, error
from worker.writing import endpoint
from worker.writing.endpoint import Access, Endpoint

KEY = "sk-test-0123456789abcdef"


def client(fake: FakeEndpoint, key: str | None = KEY, **options: Any) -> Endpoint:
    keys = {fake.origin: SecretStr(key)} if key else {}
    return Endpoint(fake.url, Access(keys, {fake.origin}), param="augmentation", **{"pause": 0.001, **options})


def ask(fake: FakeEndpoint, **options: Any) -> dict[str, Any]:
    with client(fake, **options) as asks:
        return asks.post("/chat/completions", {"model": "m", "messages": []})


def test_a_request_carries_the_key_of_its_origin_alone() -> None:
    with answering() as fake, answering() as other:
        assert ask(fake)["choices"][0]["message"]["content"] == "text number 0 of the endpoint"
        with Endpoint(other.url, Access({fake.origin: SecretStr(KEY)}, {other.origin}), param="x") as asks:
            asks.post("/completions", {})
    assert fake.paths == ["/v1/chat/completions"]
    assert fake.bodies == [{"model": "m", "messages": []}]
    assert fake.headers[0]["authorization"] == f"Bearer {KEY}"
    assert fake.headers[0]["host"] == fake.origin.removeprefix("http://")
    assert "authorization" not in other.headers[0]


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_passes_is_asked_again(status: int) -> None:
    with answering(lambda n, body: completion("done") if n == 2 else error(status, "busy")) as fake:
        assert ask(fake)["choices"][0]["text"] == "done"
        assert len(fake.bodies) == 3


def test_it_gives_up_after_some_tries() -> None:
    with answering(lambda n, body: error(503, "over capacity")) as fake, pytest.raises(EndpointUnavailable) as told:
        ask(fake)
    assert len(fake.bodies) == endpoint.TRIES
    assert "503" in told.value.message
    assert "over capacity" in told.value.message
    assert told.value.retryable
    assert told.value.param == "augmentation.base_url"


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_obeyed(date: bool) -> None:
    wish = email.utils.formatdate(time.time() + 1.99, usegmt=True) if date else "0.4"
    with answering(lambda n, body: completion("done") if n else error(429, "slow down", retry_after=wish)) as fake:
        began = time.monotonic()
        ask(fake)
    assert 0.35 < time.monotonic() - began < 3


@pytest.mark.parametrize(("wish", "seconds"), [(None, None), ("7", 7), ("0.5", 0.5), ("-3", None), ("soon", None), ("nan", None)])
def test_wishes(wish: str | None, seconds: float | None) -> None:
    assert endpoint._seconds(wish) == seconds


def test_pauses_double_and_a_wish_is_not_obeyed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    reply = lambda n, body: error(503, "x", **({"retry_after": "86400"} if n == 3 else {}))  # noqa: E731
    with answering(reply) as fake, client(fake, pause=1.0) as asks:
        monkeypatch.setattr(asks._closed, "wait", pauses.append)
        with pytest.raises(EndpointUnavailable):
            asks.post("/x", {})
    assert len(pauses) == endpoint.TRIES - 1
    assert pauses[3] == endpoint.LONGEST_WISH
    expected = [1, 2, 4, 120, 16, 30, 30]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, expected, strict=True))


def test_connections_that_fail_are_tried_again() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Endpoint(url, Access(private={url}), param="x", pause=0.001) as asks, pytest.raises(EndpointUnavailable, match="refused"):
        asks.post("/x", {})
    with answering(lambda n, body: completion("done")) as fake:
        fake.slow = 0.4
        with pytest.raises(EndpointUnavailable, match="ReadTimeout"):
            ask(fake, timeout=0.1)
        assert len(fake.bodies) == endpoint.TRIES


def test_a_drip_does_not_hold_a_request_beyond_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TRIES", 1)
    with answering(lambda n, body: completion("x" * 2000)) as fake:
        fake.drip = 0.05
        began = time.monotonic()
        with pytest.raises(EndpointUnavailable, match="too long"):
            ask(fake, timeout=0.3)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("reply", "param", "words"),
    [
        (error(401, "Incorrect API key"), "base_url", ["401", "Incorrect API key", "RETORT_ENDPOINT_KEYS", "may be wrong"]),
        (error(403, "No access"), "base_url", ["403", "RETORT_ENDPOINT_KEYS"]),
        (error(404, "The model `m` does not exist"), "model", ["404", "does not exist", "/v1"]),
        (error(400, "max_tokens is not supported"), "base_url", ["400", "max_tokens is not supported"]),
        (error(422, "extra fields"), "base_url", ["422"]),
        (error(429, "You exceeded your quota", "insufficient_quota"), "base_url", ["429", "quota", "resume"]),
        (error(402, "Pay"), "base_url", ["402", "quota"]),
        ((307, b"", {"location": "http://127.0.0.1:1/"}), "base_url", ["307", "redirects"]),
        ((418, b"<html>teapot</html>", {}), "base_url", ["418"]),
        ((400, b'{"message": "in another form"}', {}), "base_url", ["in another form"]),
        ((400, b'{"error": "a plain word"}', {}), "base_url", ["a plain word"]),
        ((400, b'[1, 2]', {}), "base_url", ["400"]),
    ],
)  # fmt: skip
def test_a_refusal_is_said_at_once_with_what_to_do(reply: Reply, param: str, words: list[str]) -> None:
    with answering(lambda n, body: reply) as fake, pytest.raises(EndpointRefused) as told:
        ask(fake)
    assert len(fake.bodies) == 1
    said = f"{told.value.message} {told.value.hint}"
    assert all(word in said for word in words), said
    assert told.value.param == f"augmentation.{param}"


def test_without_a_key_it_says_that_there_is_none() -> None:
    with answering(lambda n, body: error(401, "Missing")) as fake, pytest.raises(EndpointRefused) as told:
        ask(fake, key=None)
    assert f"No key is set for {fake.origin}" in str(told.value.hint)
    assert "authorization" not in fake.headers[0]


@pytest.mark.parametrize(
    "said", [b"", b"<html>hello</html>", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000, b"{" + b" " * 5_000_000]
)
def test_what_cannot_be_understood_is_said(said: bytes) -> None:
    with answering(lambda n, body: (200, said, {})) as fake, pytest.raises(EndpointAnswerInvalid) as told:
        ask(fake)
    assert len(told.value.message) < 500
    assert "/v1" in str(told.value.hint)


def test_the_key_is_blotted_out_of_whatever_comes_back() -> None:
    """An endpoint that repeats what it was sent: in an answer, in an error, in what is no JSON."""
    with answering(lambda n, body: completion(f"my key is {KEY}, yours too")) as fake:
        assert KEY not in str(ask(fake))
    for reply in (error(401, f"bad key {KEY}"), (200, f"hello {KEY}".encode(), {}), error(503, f"not now, {KEY}")):
        with answering(lambda n, body, reply=reply: reply) as fake, pytest.raises(DomainError) as told:
            ask(fake)
        assert KEY not in f"{told.value.message} {told.value.hint} {told.value.details}"
        assert "***" in told.value.message


def test_a_private_address_is_refused_unless_allowed() -> None:
    with answering() as fake:
        with Endpoint(fake.url, Access(), param="augmentation") as asks, pytest.raises(EndpointNotAllowed):
            asks.post("/x", {})
        assert fake.bodies == []


# -- several at once -------------------------------------------------------------------------------------------------


def test_some_are_in_flight_at_once_and_come_back_in_order() -> None:
    def reply(n: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.03 * (3 - body["n"] % 4))  # later ones are sooner done
        return completion(f"answer {body['n']}")

    with answering(reply) as fake, client(fake, concurrency=4) as asks:
        calls = (partial(asks.post, "/x", {"n": n}) for n in range(16))
        said = [answer["choices"][0]["text"] for answer in asks.each(calls, lambda: None)]
    assert said == [f"answer {n}" for n in range(16)]
    assert 2 <= fake.most <= 4


def test_no_more_are_begun_than_are_wanted() -> None:
    with answering() as fake, client(fake, concurrency=2) as asks:
        fake.slow = 0.02
        answers = asks.each((partial(asks.post, "/x", {"n": n}) for n in range(1000)), lambda: None)
        for _ in range(3):
            next(answers)
        answers.close()  # type: ignore[attr-defined]
    assert len(fake.bodies) <= 3 + 2 * 2


def test_it_stops_between_requests_and_lets_those_in_flight_land() -> None:
    class Stop(Exception):
        pass

    landed: list[int] = []

    def stop() -> None:
        if len(fake.bodies) >= 4:
            raise Stop

    def call(asks: Endpoint, n: int) -> int:
        asks.post("/x", {"n": n})
        landed.append(n)
        return n

    with answering() as fake, client(fake, concurrency=2) as asks:
        fake.slow = 0.1
        with pytest.raises(Stop):
            list(asks.each((partial(call, asks, n) for n in range(100)), stop))
        assert len(landed) == len(fake.bodies) <= 6


def test_one_refusal_ends_it_and_those_that_wait_are_not_sent() -> None:
    def reply(n: int, body: dict[str, Any]) -> Reply:
        return error(400, "no") if body["n"] == 5 else completion("yes")

    with answering(reply) as fake, client(fake, concurrency=2) as asks:
        answers = asks.each((partial(asks.post, "/x", {"n": n}) for n in range(100)), lambda: None)
        assert len([next(answers) for _ in range(5)]) == 5
        with pytest.raises(EndpointRefused):
            next(answers)
    assert len(fake.bodies) <= 8


def test_closing_ends_a_pause() -> None:
    with answering(lambda n, body: error(503, "x", retry_after="60")) as fake:
        asks, failed = client(fake), []

        def act() -> None:
            try:
                asks.post("/x", {})
            except EndpointUnavailable as told:
                failed.append(told)

        thread = threading.Thread(target=act)
        thread.start()
        while not fake.bodies:
            time.sleep(0.01)
        time.sleep(0.05)
        asks.__exit__()
        thread.join(5)
    assert failed
