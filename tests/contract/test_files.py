"""/v1/files over HTTP: what comes in, what is said of it, what comes out."""

import hashlib
import io
import json
import resource

import pytest
from starlette.datastructures import Headers

from app.api import multipart
from app.settings import Settings
from tests.fixtures.api import Api, problem

GOOD = '{"text": "where is my card?", "label": "card"}\n{"text": "money back", "label": "refund"}\n'


def test_upload_get_list_download_delete(api: Api) -> None:
    made = api.upload(GOOD, "train.jsonl")
    assert made.status_code == 201
    file = made.json()
    assert (file["object"], file["filename"], file["bytes"], file["purpose"]) == ("file", "train.jsonl", len(GOOD), "distill")
    assert (file["status"], file["format"]) == ("processed", "jsonl")
    assert file["sha256"] == hashlib.sha256(GOOD.encode()).hexdigest()
    assert made.headers["location"] == f"/v1/files/{file['id']}"
    assert api.client.get(f"/v1/files/{file['id']}").json() == file
    assert api.client.get("/v1/files").json()["data"] == [file]
    assert api.client.get("/v1/files", params={"purpose": "eval"}).json()["data"] == []
    report = api.client.get(f"/v1/files/{file['id']}/validation").json()
    assert (report["status"], report["rows"], report["valid_rows"], report["errors"]) == ("ok", 2, 2, [])
    assert report["digest"] == f"sha256:{file['sha256']}"
    assert api.client.get(f"/v1/files/{file['id']}/content").text == GOOD
    assert api.client.delete(f"/v1/files/{file['id']}").json() == {"id": file["id"], "object": "file", "deleted": True}
    problem(api.client.get(f"/v1/files/{file['id']}/content"), 404, "file_not_found")
    assert not any((api.settings.blob_root / "files").iterdir())


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=0-3", 206, GOOD[:4]),
        ("bytes=4-", 206, GOOD[4:]),
        ("bytes=-5", 206, GOOD[-5:]),
        ("bytes=0-999999", 206, GOOD),
        ("lines=1-2", 200, GOOD),
        ("bytes=0-1,4-5", 200, GOOD),
        (f"bytes={len(GOOD)}-", 416, None),
        ("bytes=5-2", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_ranges(api: Api, header: str, status: int, expected: str | None) -> None:
    url = f"/v1/files/{api.upload(GOOD).json()['id']}/content"
    answer = api.client.get(url, headers={"Range": header})
    assert answer.status_code == status
    if expected is None:
        problem(answer, 416, "range_not_satisfiable")
    else:
        assert answer.text == expected
        assert answer.headers["content-length"] == str(len(expected))


def test_etags(api: Api) -> None:
    file = api.upload(GOOD).json()
    url = f"/v1/files/{file['id']}/content"
    etag = api.client.get(url).headers["etag"]
    assert etag == f'"{file["sha256"]}"'
    assert api.client.get(url, headers={"If-None-Match": etag}).status_code == 304
    changed = {"Range": "bytes=0-1", "If-Range": '"other"'}
    assert api.client.get(url, headers=changed).status_code == 200
    assert api.client.get(url, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206


BAD = {
    "not json": (b'{"text": "a"\n', "invalid_json", 1),
    "NaN": (b'{"text": "a", "label": "x"}\n{"text": "b", "label": NaN}\n', "invalid_json", 2),
    "a list": (b'{"text": "a"}\n["b"]\n', "invalid_json", 2),
    "bad UTF-8": (b'{"text": "a"}\n{"text": "\xff\xfe"}\n', "not_utf8", 2),
    "deep": (b'{"text": "a"}\n' + b"[" * 5000 + b"]" * 5000, "invalid_json", 2),
    "a line of 3 MiB": (b'{"text": "' + b"a" * 3 * 2**20 + b'"}\n{"text": "b"}\n', "too_long", 1),
    "an empty text": (b'{"text": "a"}\n{"text": " "}\n', "empty", 2),
    "a text that is a number": (b'{"text": "a"}\n{"text": 5}\n', "wrong_type", 2),
    "a missing text": (b'{"text": "a"}\n{"label": "x"}\n', "missing_field", 2),
    "an empty line": (b'{"text": "a"}\n\n{"text": "b"}\n', "empty", 2),
    "ragged CSV": (b"text,label\na,b\nc\n", "invalid_csv", 3),
    "an open quote": (b'text,label\n"a,b\n', "invalid_csv", 2),
}


@pytest.mark.parametrize("kind", BAD)
def test_faulty_rows_are_reported_by_line(api: Api, kind: str) -> None:
    content, code, line = BAD[kind]
    made = api.upload(content, "rows.csv" if content.startswith(b"text,") else "rows.jsonl")
    assert made.status_code == 201, made.text
    file = made.json()
    assert file["status"] == "error"
    assert "validation" in file["status_details"]
    report = api.client.get(f"/v1/files/{file['id']}/validation").json()
    assert report["status"] == "invalid"
    assert (code, line) in {(e["code"], e["line"]) for e in report["errors"]}, report["errors"]
    assert all(e["message"] for e in report["errors"])
    assert len(json.dumps(report)) < 100_000


def test_what_is_no_data_file_is_refused(api: Api) -> None:
    problem(api.upload(b""), 400, "invalid_parameter")
    problem(api.upload(b"\x1f\x8b\x08\x00aaaa", "rows.jsonl.gz"), 415, "unsupported_media_type")
    problem(api.upload(b"no parquet", "rows.parquet"), 415, "unsupported_media_type")
    assert api.client.get("/v1/files").json()["data"] == []
    assert not any((api.settings.blob_root / "tmp").iterdir())


def test_forms_that_are_not_right(api: Api) -> None:
    post = api.client.post
    file = {"file": ("rows.jsonl", GOOD.encode())}
    problem(post("/v1/files", json={"purpose": "distill"}), 415, "unsupported_media_type")
    assert problem(post("/v1/files", files=file), 400, "missing_parameter")["param"] == "purpose"
    assert problem(post("/v1/files", files=file, data={"purpose": "evil"}), 400, "invalid_parameter")["param"] == "purpose"
    assert problem(post("/v1/files", files={"other": ("x", b"y")}), 400, "unknown_parameter")["param"] == "other"
    two = [("file", ("a", b"x")), ("file", ("b", b"y"))]
    assert problem(post("/v1/files", files=two, data={"purpose": "distill"}), 400, "invalid_parameter")["param"] == "file"
    multi = {"Content-Type": "multipart/form-data; boundary=b"}
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf of it'
    problem(post("/v1/files", content=cut, headers=multi), 400, "invalid_parameter")
    problem(post("/v1/files", content=b"nonsense", headers=multi), 400, "invalid_parameter")
    problem(post("/v1/files", content=b"x", headers={"Content-Type": "multipart/form-data"}), 415, "unsupported_media_type")
    assert not any((api.settings.blob_root / "tmp").iterdir())


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\secret\\rows.jsonl", "a\r\nSet-Cookie: x.jsonl", "✓" * 400, "\0.jsonl"])
def test_names_are_labels_only(api: Api, name: str) -> None:
    made = api.upload(GOOD, name)
    assert made.status_code == 201, made.text
    shown = made.json()["filename"]
    assert "/" not in shown
    assert "\\" not in shown
    assert shown.isprintable()
    answer = api.client.get(f"/v1/files/{made.json()['id']}/content")
    assert answer.text == GOOD
    assert "set-cookie" not in answer.headers


class Sink:
    max_bytes = 2**40
    bytes = 0

    def write(self, chunk: "bytes | bytearray") -> None:
        self.bytes += len(chunk)


class Coming:
    """A request whose body never ends until `total` bytes came."""

    def __init__(self, total: int) -> None:
        self.headers = Headers({"content-type": "multipart/form-data; boundary=b"})
        self._total = total

    async def stream(self):  # type: ignore[no-untyped-def]
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(self._total // 2**16):
            yield b"a" * 2**16
        yield b"\r\n--b--\r\n"


def test_memory_stays_flat_while_a_large_file_comes_in() -> None:
    import asyncio

    sink, before = Sink(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    form = asyncio.run(multipart.receive(Coming(2**28), sink, ("purpose",)))  # type: ignore[arg-type]
    assert (form.filename, sink.bytes) == ("a", 2**28)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 32 * 1024, f"{grown} KiB"


def test_a_file_beyond_the_limit_is_refused_while_it_arrives(api: Api) -> None:
    api.app.state.settings = Settings(**{**api.settings.model_dump(), "max_upload_bytes": 2**20})
    error = problem(api.upload(b"a" * (2**20 + 10)), 413, "file_too_large")
    assert error["param"] == "file"
    stated = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(2**40)}
    problem(api.client.post("/v1/files", content=io.BytesIO(b"--b"), headers=stated), 413, "file_too_large")
    assert not any((api.settings.blob_root / "tmp").iterdir())


def test_a_file_in_use_stays(api: Api) -> None:
    job = api.job()
    file_id = job["data"]["training_file"]
    problem(api.client.delete(f"/v1/files/{file_id}"), 409, "in_use")
    api.client.post(f"/v1/distillation/jobs/{job['id']}/cancel")
    assert api.client.delete(f"/v1/files/{file_id}").status_code == 200


def test_the_same_upload_again_with_a_key_is_the_same_file(api: Api) -> None:
    def send(content: str) -> tuple[int, str | None, str]:
        answer = api.client.post(
            "/v1/files",
            files={"file": ("a.jsonl", content.encode())},
            data={"purpose": "distill"},
            headers={"Idempotency-Key": "once"},
        )
        return answer.status_code, answer.headers.get("idempotent-replayed"), answer.json().get("id", "")

    first, second, third = send(GOOD), send(GOOD), send(GOOD + GOOD)
    assert first[:2] == (201, None)
    assert second == (201, "true", first[2])
    assert third[0] == 422
    assert len(list((api.settings.blob_root / "files").iterdir())) == 1
