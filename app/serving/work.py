"""One text or pair to compute (Item) and one request that waits for some of them (Ticket)."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from app.domain.errors import DomainError, InferenceFailed
from app.serving.backends.base import Text, Tokens

if TYPE_CHECKING:
    from app.serving.batcher import Batcher

# One probability per label, summing to one · one per label, each its own · one number · the words' labels · one vector
Kind = Literal["scores", "independent", "value", "words", "embedding"]
_NOT_READ = Tokens([], False)


class Answer(NamedTuple):
    """What the model says of one text or pair: little-endian float32 bytes (kind `words`: see `entities.py`)."""

    payload: bytes
    tokens: int
    truncated: bool


Result = Answer | DomainError


class Ticket:
    """Collects the answers of one request; `future` resolves once, when all are in or the first one failed."""

    __slots__ = ("_place", "answers", "future", "items", "missing")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int, place: Callable[[int], str] | None = None) -> None:
        self._place = place
        self.future: asyncio.Future[None] = loop.create_future()
        self.answers: list[Answer | None] = [None] * count
        self.items: list[Item] = []
        self.missing = count

    def fill(self, index: int, answer: Answer) -> None:
        self.answers[index] = answer
        self.missing -= 1
        if self.missing == 0 and not self.future.done():
            self.future.set_result(None)

    def place(self, index: int) -> str:
        """What the request calls its text number `index`."""
        if self._place is not None:
            return self._place(index)
        return f"input[{index}]" if len(self.answers) > 1 else "input"

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Item:
    """One text or pair on its way through tokeniser, queue and forward.

    The event loop owns it; the threads only read `text`, `kind`, `deadline`, `abandoned` and write `row`.
    """

    __slots__ = (
        "abandoned",
        "deadline",
        "home",
        "key",
        "kind",
        "order",
        "queued",
        "row",
        "settled",
        "text",
        "waiters",
    )

    def __init__(self, text: Text, kind: Kind, deadline: float, order: float, key: bytes | None = None) -> None:
        self.text, self.kind, self.deadline, self.order, self.key = text, kind, deadline, order, key
        self.home: Batcher | None = None
        self.row = _NOT_READ
        self.abandoned = False  # nobody waits any more: drop it before the forward
        self.settled = False
        self.queued = False  # is in `Pending`
        self.waiters: list[tuple[Ticket, int]] = []

    def wait(self, ticket: Ticket, index: int) -> None:
        self.waiters.append((ticket, index))
        ticket.items.append(self)

    def leave(self, ticket: Ticket) -> None:
        """The request is gone; the work stays only while another request shares it."""
        self.waiters = [waiter for waiter in self.waiters if waiter[0] is not ticket]
        if not self.waiters:
            self.abandoned = True


def failure(error: BaseException) -> DomainError:
    if isinstance(error, DomainError):
        return error
    return InferenceFailed(
        f"The model could not answer for this text: {type(error).__name__}: {str(error)[:200]}",
        hint="Other texts are not affected. If it repeats, the model's artifact is at fault: distil or import it again.",
    )


def fresh(error: DomainError) -> DomainError:
    """A copy to raise: raising one instance again and again would grow its traceback without end."""
    copied = type(error).__new__(type(error))
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    return copied
