"""Server-sent events. A heartbeat is the one line `: ping`: an empty frame makes some clients fail."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import orjson
from fastapi.responses import StreamingResponse

from app.domain.errors import DomainError
from app.services.streams import Follower, Frame

LOOK_SECONDS = 0.5
PING_SECONDS = 15.0
_RETRY = b"retry: 3000\n"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def encode(frame: Frame) -> bytes:
    number = b"" if frame.id is None else b"id: %d\n" % frame.id
    return number + b"event: " + frame.event.encode() + b"\ndata: " + orjson.dumps(frame.data) + b"\n\n"


def stream(
    follower: Follower, first: list[Frame], types: frozenset[str], welcome: Callable[[], Awaitable[object]]
) -> StreamingResponse:
    """`first`: the frames of the first look, taken before the answer began so that errors are answers. `welcome` raises
    when the caller's key no longer opens the door."""

    async def frames() -> AsyncIterator[bytes]:
        found, prefix, pinged = first, _RETRY, time.monotonic()
        while True:
            for frame in found:
                if not types or frame.event in types or frame.event == "end":
                    yield prefix + encode(frame)
                    prefix = b""
            if follower.ended:
                return
            if time.monotonic() - pinged >= PING_SECONDS:
                pinged = time.monotonic()
                yield b": ping\n"
                try:
                    await welcome()
                except DomainError:
                    return
            await asyncio.sleep(LOOK_SECONDS)
            try:
                found = await asyncio.to_thread(follower.look)
            except DomainError:  # deleted meanwhile
                return

    return StreamingResponse(frames(), 200, _HEADERS, "text/event-stream")
