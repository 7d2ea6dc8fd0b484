"""One text to compute (Item) and one request that waits for some of them (Ticket)."""

import asyncio
from typing import TYPE_CHECKING, Literal, NamedTuple

from app.domain.errors import DomainError

if TYPE_CHECKING:
    from app.serving.batcher import Batcher

Kind = Literal["scores", "embedding"]


class Answer(NamedTuple):
    """What the model says of one text: little-endian float32 bytes, one probability per label or one vector."""

    payload: bytes
    tokens: int
    truncated: bool


class Ticket:
    """Collects the answers of one request; `future` resolves once, when all are in or the first one failed."""

    __slots__ = ("answers", "future", "items", "missing")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        self.answers: list[Answer | None] = [None] * count
        self.items: list[Item] = []
        self.missing = count

    def fill(self, index: int, answer: Answer) -> None:
        self.answers[index] = answer
        self.missing -= 1
        if self.missing == 0 and not self.future.done():
            self.future.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Item:
    """One text on its way through tokeniser, queue and forward.

    The event loop owns it; the threads only read `text`, `kind`, `deadline`, `abandoned` and write `ids`, `truncated`.
    """

    __slots__ = (
        "abandoned",
        "deadline",
        "home",
        "ids",
        "key",
        "kind",
        "order",
        "queued",
        "settled",
        "text",
        "truncated",
        "waiters",
    )

    def __init__(self, text: str, kind: Kind, deadline: float, order: float, key: bytes | None = None) -> None:
        self.text, self.kind, self.deadline, self.order, self.key = text, kind, deadline, order, key
        self.home: Batcher | None = None
        self.ids: list[int] = []
        self.truncated = False
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


def fresh(error: DomainError) -> DomainError:
    """A copy to raise: raising one instance again and again would grow its traceback without end."""
    copied = type(error).__new__(type(error))
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    return copied
