"""A data file is stored whole, with its report, or not at all."""

import hashlib
import json
from pathlib import Path

import pytest

from app.domain import errors
from app.domain.db import Sessions, transaction
from app.domain.models import File
from app.domain.storage import BlobStore
from app.services.files import FileService, plain_name
from app.services.jobs import JobService
from tests.conftest import OTHER_PROJECT, PROJECT
from tests.unit.services.conftest import ROWS, Upload

CONTENT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture
def files(sessions: Sessions, blobs: BlobStore) -> FileService:
    return FileService(sessions, blobs, PROJECT)


def blobs_of(service: FileService) -> list[Path]:
    return [p for folder in ("files", "tmp") for p in (service.blobs.root / folder).rglob("*") if p.is_file()]


def test_bytes_digest_and_report_are_those_of_the_upload(files: FileService) -> None:
    with files.receiving(2**20) as place:
        for start in range(0, len(CONTENT), 100):
            place.write(CONTENT[start : start + 100])
        file = files.store(files.check(place, "C:\\data\\rows.jsonl", "distill"))
    stored, path = files.content(file.id)
    assert path.read_bytes() == CONTENT
    assert (stored.bytes, stored.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert (stored.filename, stored.format, stored.status) == ("rows.jsonl", "jsonl", "processed")
    assert (stored.report["rows"], stored.report["digest"]) == (len(ROWS), f"sha256:{stored.sha256}")
    assert blobs_of(files) == [path]


def test_too_many_bytes_are_refused_as_they_come(files: FileService) -> None:
    with files.receiving(1000) as place:
        place.write(b"x" * 500)
        place.write(b"x" * 500)
        with pytest.raises(errors.PayloadTooLarge):
            place.write(b"x")
    assert blobs_of(files) == []


@pytest.mark.parametrize(
    ("content", "name", "purpose", "error"),
    [
        (b"", "a.jsonl", "distill", errors.InvalidRequest),
        (b"\x1f\x8b\x08", "a.jsonl", "distill", errors.UnsupportedMediaType),
        (CONTENT, "a.jsonl", "poetry", errors.InvalidRequest),
    ],
)
def test_what_is_no_data_file_leaves_nothing(
    files: FileService, content: bytes, name: str, purpose: str, error: type[Exception]
) -> None:
    with files.receiving(2**20) as place:
        place.write(content)
        with pytest.raises(error):
            files.check(place, name, purpose)
    assert blobs_of(files) == []


def test_a_failed_commit_leaves_nothing(files: FileService, sessions: Sessions) -> None:
    def fails(session: object, file: File) -> None:
        raise ZeroDivisionError

    with files.receiving(2**20) as place:
        place.write(CONTENT)
        checked = files.check(place, "a.jsonl", "distill")
        with pytest.raises(ZeroDivisionError):
            files.store(checked, fails)
    assert blobs_of(files) == []
    with transaction(sessions) as session:
        assert session.query(File).count() == 0


def test_faulty_rows_are_kept_with_their_report(files: FileService, upload: Upload) -> None:
    file = files.get(upload(b'{"text": oops}\n'))
    assert (file.status, file.report["status"]) == ("error", "invalid")
    assert file.report["errors"][0]["line"] == 1


def test_a_file_that_a_job_needs_stays(
    files: FileService, service: JobService, body: dict[str, dict[str, str]], sessions: Sessions
) -> None:
    file_id = body["data"]["training_file"]
    with transaction(sessions) as session:
        job_id = service.insert(session, service.prepare(body))["id"]
    with pytest.raises(errors.InUse):
        files.delete(file_id)
    service.cancel(job_id)
    files.delete(file_id)
    assert blobs_of(files) == []
    with pytest.raises(errors.NotFound):
        files.get(file_id)


def test_another_project_sees_nothing(files: FileService, upload: Upload) -> None:
    theirs = upload(project=OTHER_PROJECT)
    for act in (files.get, files.content, files.delete):
        with pytest.raises(errors.NotFound):
            act(theirs)
    assert files.blobs.file(theirs).is_file()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a.jsonl", "a.jsonl"), ("/etc/passwd", "passwd"), ("..\\..\\x", "x"), ("", "unnamed"), ("a\0b\n", "ab"), ("../", "unnamed")],
)
def test_a_name_is_a_label(sent: str, kept: str) -> None:
    assert plain_name(sent) == kept
