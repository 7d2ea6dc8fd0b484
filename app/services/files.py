"""Data files: received as a stream, checked, then stored; never half there."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.domain import ids
from app.domain.datasets import DatasetReport, detect_format, inspect
from app.domain.db import Session, Sessions, reading, transaction
from app.domain.errors import InUse, InvalidRequest, PayloadTooLarge
from app.domain.models import File
from app.domain.repositories.files import Files
from app.domain.repositories.jobs import Jobs
from app.domain.repositories.paging import Order
from app.domain.storage import BlobStore

PURPOSES = ("distill", "fine-tune", "eval", "user_data")
_HEAD = 64


@dataclass
class Upload:
    """Bytes on their way in; `write` until there are no more, then `FileService.check`."""

    path: Path
    max_bytes: int
    size: int = 0
    head: bytes = b""
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        self._out = self.path.open("xb")

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self.max_bytes:
            hint = "Split it, or ask the operator for a larger limit."
            raise PayloadTooLarge(f"The file is larger than {self.max_bytes:,} bytes.", param="file", hint=hint)
        if len(self.head) < _HEAD:
            self.head += chunk[:_HEAD]
        self._digest.update(chunk)
        self._out.write(chunk)

    def finish(self) -> str:
        """Its sha256, once it is safe on the disk."""
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        self._out.close()


@dataclass(frozen=True)
class Checked:
    """A whole upload and its report, not yet stored."""

    upload: Upload
    filename: str
    purpose: str
    sha256: str
    report: DatasetReport


class FileService:
    def __init__(self, sessions: Sessions, blobs: BlobStore, project_id: str) -> None:
        self.sessions, self.blobs, self.project_id = sessions, blobs, project_id

    @contextmanager
    def receiving(self, max_bytes: int) -> Iterator[Upload]:
        """A place for one upload; what is not stored by the end of the block is gone."""
        with self.blobs.staging() as folder:
            upload = Upload(folder / "upload", max_bytes)
            try:
                yield upload
            finally:
                upload.close()

    def check(self, upload: Upload, filename: str, purpose: str) -> Checked:
        """Read it once. Raises only for what is no data file at all; faulty rows are in the report."""
        name = plain_name(filename)
        check_purpose(purpose)
        digest = upload.finish()
        if upload.size == 0:
            raise InvalidRequest("The file is empty.", param="file", hint="Send rows as JSON Lines, CSV or Parquet.")
        kind = detect_format(name, upload.head)
        return Checked(upload, name, purpose, digest, inspect(upload.path, kind, digest))

    def store(self, checked: Checked, record: Callable[[Session, File], None] = lambda session, file: None) -> File:
        """Move it into place and write its row; `record` adds to the same transaction. Either all of it or nothing."""
        file_id, report = ids.new_id(ids.FILE), checked.report
        target = self.blobs.file(file_id)
        checked.upload.path.rename(target)
        try:
            _fsync(target.parent)
            with transaction(self.sessions) as session:
                file = Files(session, self.project_id).add(
                    file_id,
                    filename=checked.filename,
                    purpose=checked.purpose,
                    bytes=checked.upload.size,
                    sha256=checked.sha256,
                    format=report.format,
                    status="error" if report.status == "invalid" else "processed",
                    report=report.to_json(),
                )
                record(session, file)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return file

    def get(self, file_id: str) -> File:
        with reading(self.sessions) as session:
            return Files(session, self.project_id).get(file_id)

    def page(
        self, limit: int, after: str | None, before: str | None, order: Order, purpose: str | None = None
    ) -> tuple[list[File], bool]:
        with reading(self.sessions) as session:
            return Files(session, self.project_id).page(limit, after, before, order, purpose)

    def content(self, file_id: str) -> tuple[File, Path]:
        file = self.get(file_id)
        return file, self.blobs.file(file.id)

    def delete(self, file_id: str) -> None:
        """Not while a job that has not ended reads it."""
        with transaction(self.sessions) as session:
            files = Files(session, self.project_id)
            file = files.get(file_id)
            if Jobs(session, self.project_id).files_in_use(file.id):
                raise InUse(f"A job still needs '{file.id}'.", hint="Wait until it has ended, or cancel it.")
            files.delete(file.id)
        self.blobs.file(file.id).unlink(missing_ok=True)


def check_purpose(purpose: str) -> str:
    if purpose not in PURPOSES:
        raise InvalidRequest(f"Unknown purpose '{purpose[:40]}'.", param="purpose", hint=f"Use one of: {', '.join(PURPOSES)}.")
    return purpose


def plain_name(filename: str) -> str:
    """A label for people: the last part of what was sent, printable. Nothing is ever opened by it."""
    name = re.split(r"[/\\]", filename)[-1]
    name = "".join(c for c in name if c.isprintable()).strip()
    return name[-255:] or "unnamed"


def _fsync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
