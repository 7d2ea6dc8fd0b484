"""An OpenAI-shaped HTTP endpoint: JSON out, JSON in, some requests at once. Only through `app.domain.egress`.

Asked again, after a pause that doubles: when it answers 408, 409, 425, 429 or 5xx, and when the connection fails. `Retry-After`
is obeyed. Everything else that is not an answer ends the job with what to do next. The key is sent in `Authorization` and
blotted out of whatever comes back.
"""

import email.utils
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import httpx
from pydantic import SecretStr

from app.domain import egress
from app.domain.errors import EndpointAnswerInvalid, EndpointRefused, EndpointUnavailable

T = TypeVar("T")

TRIES = 8
PAUSE, LONGEST_PAUSE, LONGEST_WISH = 1.0, 30.0, 120.0  # seconds: first, doubled up to, and what Retry-After may ask for
ANSWER_BYTES = 4 * 2**20
_AGAIN = frozenset({408, 409, 425, 429})
_LOOK = 0.2  # seconds between looks at whether to stop
_LANDING = 3.0  # seconds that requests in flight get when the job stops: they are paid for


@dataclass(frozen=True)
class Access:
    """What the operator allows: keys and private networks, by origin."""

    keys: Mapping[str, SecretStr] = field(default_factory=dict)
    private: Collection[str] = ()


class Endpoint:
    """Errors: EndpointNotAllowed, EndpointRefused, EndpointUnavailable, EndpointAnswerInvalid. `param` is the block to blame."""

    def __init__(
        self, base_url: str, access: Access, *, param: str, concurrency: int = 8, timeout: float = 60.0, pause: float = PAUSE
    ) -> None:
        self._target = egress.parse(base_url, f"{param}.base_url")
        self._param, self._concurrency, self._timeout, self._pause = param, concurrency, timeout, pause
        self._key = access.keys.get(self._target.origin)
        self._client = egress.client(self._target, access.private, f"{param}.base_url", timeout=timeout, connections=concurrency)
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to POST base_url + path."""
        for n in range(TRIES):
            last = n == TRIES - 1
            try:
                status, headers, said = self._send(path, body)
            except httpx.TransportError as error:
                if last:
                    what = f"{type(error).__name__}: {_excerpt(str(error).encode())}"
                    raise self._unavailable(f"does not answer ({what})") from error
                wish = None
            else:
                if status == 200:
                    return self._understood(said)
                if not (status in _AGAIN or status >= 500) or _no_money(said):
                    raise self._refused(status, said)
                if last:
                    raise self._unavailable(f"still answers {status} after {n + 1} tries{_quoted(said)}")
                wish = _seconds(headers.get("retry-after"))
            pause = min(self._pause * 2**n, LONGEST_PAUSE) * random.uniform(0.5, 1)  # apart from each other
            if self._closed.wait(pause if wish is None else min(wish, LONGEST_WISH)):
                raise self._unavailable("was not asked again: the run stops")
        raise AssertionError("the last try returns or raises")

    def each(self, calls: Iterable[Callable[[], T]], stop: Callable[[], None]) -> Iterator[T]:
        """What the calls return, in their order, `concurrency` of them at once and as many more lined up. `stop` may raise. After
        one has failed no other is begun."""
        waiting: deque[Future[T]] = deque()
        failed = threading.Event()

        def run(call: Callable[[], T]) -> T:
            if failed.is_set():  # the one that failed was begun before, so it is also heard of before
                raise self._unavailable("was not asked again: an earlier request failed")
            try:
                return call()
            except Exception:
                failed.set()
                raise

        source = iter(calls)
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="endpoint")
        try:
            while True:
                while len(waiting) < 2 * self._concurrency and (call := next(source, None)) is not None:
                    waiting.append(pool.submit(run, call))
                if not waiting:
                    return
                while not waiting[0].done():
                    stop()
                    wait([waiting[0]], timeout=_LOOK)
                stop()
                yield waiting.popleft().result()
        except Exception:
            pool.shutdown(wait=False, cancel_futures=True)
            wait([future for future in waiting if not future.cancelled()], timeout=_LANDING)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, path: str, body: Mapping[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        headers = {"content-type": "application/json"}
        secret = self._key.get_secret_value() if self._key is not None else ""
        if secret:
            headers["authorization"] = f"Bearer {secret}"
        deadline = time.monotonic() + self._timeout
        content = json.dumps(body, ensure_ascii=False).encode()
        with self._client.stream("POST", self._target.url + path, content=content, headers=headers) as answer:
            try:
                said = egress.read(answer, ANSWER_BYTES, deadline)
            except egress.TooLarge:
                raise self._not_understood(f"is longer than {ANSWER_BYTES:,} bytes") from None
            return answer.status_code, answer.headers, said.replace(secret.encode(), b"***") if secret else said

    def _understood(self, said: bytes) -> dict[str, Any]:
        try:
            found = json.loads(said)
        except (ValueError, RecursionError):
            raise self._not_understood(f"is no JSON: {_excerpt(said)}") from None
        if not isinstance(found, dict):
            raise self._not_understood("is no JSON object")
        return found

    def _not_understood(self, what: str) -> EndpointAnswerInvalid:
        return answer_invalid(f"The answer of {self._target.url} {what}.", self._param)

    def _unavailable(self, what: str) -> EndpointUnavailable:
        hint = "What it has answered so far is kept. See whether it is up and how many requests it takes, then resume the job."
        return EndpointUnavailable(f"{self._target.origin} {what}.", param=f"{self._param}.base_url", hint=hint)

    def _refused(self, status: int, said: bytes) -> EndpointRefused:
        origin, field = self._target.origin, "base_url"
        if status in (401, 403):
            what = f"The key that the operator set for {origin} may be wrong" if self._key else f"No key is set for {origin}"
            hint = f"{what}: RETORT_ENDPOINT_KEYS of the workers. Then resume the job."
        elif 300 <= status < 400:
            hint = "It redirects, which is not followed: give the address that it redirects to."
        elif status in (404, 405):
            field, hint = "model", "Check 'model' and 'base_url', which usually ends in /v1."
        elif status == 402 or _no_money(said):
            hint = "Its quota is used up. What it has answered so far is kept: raise the quota, then resume the job."
        else:
            hint = "Change what it complains of; GET /v1/catalog lists the parameters."
        return EndpointRefused(f"{origin} answers {status}{_quoted(said)}.", param=f"{self._param}.{field}", hint=hint)


def answer_invalid(message: str, param: str) -> EndpointAnswerInvalid:
    hint = "Is 'base_url' that of an OpenAI-shaped API? It usually ends in /v1."
    return EndpointAnswerInvalid(message, param=f"{param}.base_url", hint=hint)


def _no_money(said: bytes) -> bool:
    """OpenAI answers 429 to what waiting does not cure."""
    return b'"insufficient_quota"' in said


def _seconds(wish: str | None) -> float | None:
    """Retry-After: seconds, or a date."""
    if wish is None:
        return None
    try:
        return max(0.0, float(wish)) if wish.strip().replace(".", "", 1).isdigit() else _until(wish)
    except ValueError:
        return None


def _until(date: str) -> float:
    return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())


def _quoted(said: bytes) -> str:
    """What an error says, in the forms that such endpoints use."""
    try:
        found = json.loads(said)
        error = found.get("error", found)
        text = error if isinstance(error, str) else error.get("message") or error.get("detail") or ""
    except (ValueError, AttributeError, RecursionError):
        text = ""
    return f": {_excerpt(text.encode())}" if isinstance(text, str) and text else ""


def _excerpt(said: bytes) -> str:
    text = "".join(c if c.isprintable() else " " for c in said[:2000].decode("utf-8", "replace"))
    return " ".join(text.split())[:300].rstrip(".")
