"""multipart/form-data as a stream: the one file goes to disk as it arrives, small fields are kept, memory stays flat."""

import asyncio
from dataclasses import dataclass, field
from email.message import Message
from typing import Protocol

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from app.domain.errors import InvalidRequest, MissingParameter, PayloadTooLarge, UnknownParameter, UnsupportedMediaType

_FIELD_BYTES = 4096
_HEADER_BYTES = 8192
_WRITE_BYTES = 2**20
_HINT = 'Send multipart/form-data: curl -F purpose=distill -F "file=@train.jsonl" …'


class Sink(Protocol):
    max_bytes: int

    def write(self, chunk: bytes) -> None: ...


@dataclass
class Form:
    filename: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


class _Reader:
    """The parser's callbacks. They only collect; the caller moves what was collected to disk."""

    def __init__(self, known: tuple[str, ...]) -> None:
        self.form, self.pending, self.ended = Form(), bytearray(), False
        self._known = known
        self._header, self._value, self._headers = bytearray(), bytearray(), Message()
        self._name: str | None = None
        self._text = bytearray()

    def on_part_begin(self) -> None:
        self._headers, self._name, self._text = Message(), None, bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._bounded(self._header, _HEADER_BYTES)

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bounded(self._value, _HEADER_BYTES)

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._headers["Content-Disposition"] = self._value.decode("utf-8", "replace").replace("\n", " ").replace("\r", " ")
        self._header, self._value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        name = self._headers.get_param("name", header="content-disposition")
        filename = self._headers.get_filename()
        if not isinstance(name, str):
            raise InvalidRequest("A part of the form has no name.", hint=_HINT)
        if name == "file":
            if filename is None:
                raise InvalidRequest("The part 'file' is no file: it has no filename.", param="file", hint=_HINT)
            if self.form.filename is not None:
                raise InvalidRequest("Send one file at a time.", param="file", hint=_HINT)
            self.form.filename = filename
        elif name not in self._known:
            hint = f"Known: {', '.join(('file', *self._known))}."
            raise UnknownParameter(f"'{name[:80]}' is not a field of this form.", param=name[:80], hint=hint)
        self._name = name

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.pending += data[start:end]
        else:
            self._text += data[start:end]
            self._bounded(self._text, _FIELD_BYTES)

    def on_part_end(self) -> None:
        if self._name is not None and self._name != "file":
            self.form.fields[self._name] = self._text.decode("utf-8", "replace")

    def on_end(self) -> None:
        self.ended = True

    @staticmethod
    def _bounded(collected: bytearray, most: int) -> None:
        if len(collected) > most:
            raise InvalidRequest(f"A field of the form is longer than {most} bytes.", hint=_HINT)


async def receive(request: Request, sink: Sink, known: tuple[str, ...]) -> Form:
    """Read the form to its end. Raises a 4xx for what is no form, has no file, or is larger than the sink takes."""
    parser, reader = _start(request, sink, known)
    try:
        async for chunk in request.stream():
            parser.write(chunk)
            if len(reader.pending) >= _WRITE_BYTES:
                await _drain(reader, sink)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The form cannot be read: {error}", hint=_HINT) from None
    await _drain(reader, sink)
    if not reader.ended:
        raise InvalidRequest("The form ends in the middle; the upload was cut off.", hint="Send it again.")
    if reader.form.filename is None:
        raise MissingParameter("The form has no part 'file'.", param="file", hint=_HINT)
    return reader.form


def _start(request: Request, sink: Sink, known: tuple[str, ...]) -> tuple[MultipartParser, _Reader]:
    header = Message()
    header["Content-Type"] = request.headers.get("content-type", "")
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary:
        raise UnsupportedMediaType("A file is sent as multipart/form-data.", hint=_HINT)
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and len(stated) < 20 and int(stated) > sink.max_bytes + 2**20:
        raise PayloadTooLarge(f"A file may have {sink.max_bytes:,} bytes.", param="file", hint="Split it.")
    reader = _Reader(known)
    names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end", "end")
    callbacks = {f"on_{name}": getattr(reader, f"on_{name}") for name in names}
    return MultipartParser(boundary.encode("latin-1", "replace"), callbacks), reader  # type: ignore[arg-type]


async def _drain(reader: _Reader, sink: Sink) -> None:
    if reader.pending:
        data, reader.pending = bytes(reader.pending), bytearray()
        await asyncio.to_thread(sink.write, data)
