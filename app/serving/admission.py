"""What is refused before any work: lists that are too long, texts that are too long, and calls that would only wait."""

import math
from dataclasses import dataclass
from typing import Any

from app.domain.errors import ContextLengthExceeded, InvalidRequest, MissingParameter, Overloaded, RateLimited
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


def texts(value: Any, limits: Limits) -> list[str]:
    """`input` as a list of non-empty strings, or an error that names the place."""
    if value is None:
        raise MissingParameter("'input' is missing.", param="input", hint="Give a string or a list of strings.")
    if isinstance(value, str):
        return [_text(value, "input", limits)]
    if not isinstance(value, list):
        raise InvalidRequest(f"'input' is a {_json_type(value)}; it must be a string or a list of strings.", param="input")
    if not value:
        raise InvalidRequest("'input' is an empty list; there is nothing to answer.", param="input")
    if len(value) > limits.max_items:
        raise InvalidRequest(
            f"'input' has {len(value)} texts; one request may have {limits.max_items}.",
            param="input",
            hint=f"Split the list into requests of at most {limits.max_items} texts.",
        )
    return [_text(item, f"input[{n}]", limits) for n, item in enumerate(value)]


def _text(value: Any, place: str, limits: Limits) -> str:
    if isinstance(value, str):
        if not value:
            raise InvalidRequest(f"'{place}' is an empty string; there is nothing to answer.", param=place)
        if len(value) > limits.max_characters:
            raise ContextLengthExceeded(
                f"'{place}' has {len(value)} characters; one text may have {limits.max_characters}.",
                param=place,
                hint="Cut the text; the model reads only its first max_length tokens anyway (GET /v1/models/{ref}).",
            )
        return value
    if isinstance(value, int | list) and not isinstance(value, bool):
        raise InvalidRequest(
            f"'{place}' is a {_json_type(value)}: token ids belong to one tokenizer, and this model has its own.",
            param=place,
            hint="Send the text itself. In LangChain: OpenAIEmbeddings(…, check_embedding_ctx_length=False).",
        )
    raise InvalidRequest(f"'{place}' is a {_json_type(value)}; it must be a string.", param=place)


def _json_type(value: Any) -> str:
    names = {dict: "JSON object", list: "list", bool: "boolean", int: "number", float: "number", type(None): "null", str: "string"}
    return names.get(type(value), type(value).__name__)


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
