"""Bytes out: strong ETag (the sha256), one Range, nothing that a browser would run."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from app.domain.errors import ArtifactCorrupt, RangeNotSatisfiable

_CHUNK = 2**18
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def download(request: Request, path: Path, sha256: str, filename: str, media_type: str = "application/octet-stream") -> Response:
    try:
        size = path.stat().st_size
    except OSError:
        raise ArtifactCorrupt(
            "The stored bytes are missing.", hint="Tell the operator; the row is there, its file is not."
        ) from None
    etag = f'"{sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename.rsplit('/', 1)[-1])}",
    }
    if etag in (tag.strip() for tag in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    span = _span(request, size, etag)
    start, end = span or (0, size)
    headers["Content-Length"] = str(end - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingResponse(_read(path, start, end), 206 if span else 200, headers, media_type)


def _span(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """(start, end) of the one range that is asked for; None: all. What is no single byte range is ignored, as RFC 9110 has it."""
    wanted = _RANGE.fullmatch(request.headers.get("range", "").strip().replace(" ", ""))
    if wanted is None or request.headers.get("if-range", etag) != etag:
        return None
    first, last = wanted.groups()
    if not first and not last:
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size or (first and last and int(last) < start) or (not first and int(last) == 0):
        raise RangeNotSatisfiable(f"The file has {size} bytes.", hint="Ask for a range within it, such as bytes=0-1023.")
    return start, end


def _read(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(start)
        while start < end and (chunk := stream.read(min(_CHUNK, end - start))):
            start += len(chunk)
            yield chunk
