"""Brings a model from the hub to this machine, before the child starts: the child fetches none.

A name is not an identity: the revision is resolved to a commit, and files are fetched by that commit. Only allow-listed
files, only safetensors weights, never more bytes than allowed; what arrives is checked against the hub's own sha256
where it gives one, then by `modelfiles`, then sealed with a manifest. Complete or not there at all.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from app.domain import manifest
from app.domain.errors import ArtifactCorrupt, DiskFull, ModelDownloadFailed, ModelNotAllowed
from app.domain.modelfiles import check_model_dir
from app.domain.storage import BlobStore
from app.settings import Settings

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")
WANTED = re.compile(
    r"config\.json|generation_config\.json|model(?:-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt"
    r"|(?:tokenizer|spiece|sentencepiece\.bpe)\.model"
)
_CHUNK = 2**20
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class Stopped(Exception):
    """`stop()` said so: cancelled, or this worker goes down."""


class Hub:
    """The two requests that a hub has to answer: what is in a revision, and one of its files."""

    def __init__(self, settings: Settings, transport: httpx.BaseTransport | None = None) -> None:
        if settings.hub_offline:
            hint = "Unset RETORT_HUB_OFFLINE, or put the model's folder into RETORT_MODELS_DIR and use source 'local'."
            raise ModelNotAllowed("This installation does not fetch models.", param="teacher.source", hint=hint)
        self.endpoint = (settings.hub_endpoint or "https://huggingface.co").rstrip("/")
        self._client = httpx.Client(timeout=_TIMEOUT, transport=transport, follow_redirects=False, headers={"user-agent": "retort"})

    def close(self) -> None:
        self._client.close()

    def describe(self, model: str, revision: str | None) -> tuple[str, dict[str, dict[str, Any]]]:
        """(commit, {file name: {"size", "sha256" or None}}) of a revision; every file, wanted or not."""
        if not REPOSITORY.fullmatch(model) or ".." in model:
            raise ModelNotAllowed(f"'{model[:80]}' is not a model name.", param="model", hint="Use 'owner/name'.")
        path = f"/api/models/{model}/revision/{quote(revision or 'main', safe='')}"
        with self._get(self.endpoint + path + "?blobs=true") as answer:
            if answer.status_code in (401, 403, 404):
                hint = "Check the name and the revision; private and gated models are not supported."
                raise ModelNotAllowed(f"The hub has no model '{model}' at '{revision or 'main'}'.", param="model", hint=hint)
            try:
                said = _json(answer, limit=16 * 2**20)
                commit = str(said["sha"])
                files = {str(s["rfilename"]): _size_and_digest(s) for s in said["siblings"]}
            except (KeyError, TypeError, ValueError) as error:
                raise ModelDownloadFailed(f"The hub's answer about '{model}' cannot be understood.") from error
        if not COMMIT.fullmatch(commit):
            raise ModelDownloadFailed(f"The hub names no commit for '{model}'.")
        return commit, files

    def chunks(self, model: str, commit: str, name: str) -> Iterator[bytes]:
        with self._get(f"{self.endpoint}/{model}/resolve/{commit}/{quote(name)}") as answer:
            _expect_ok(answer, name)
            yield from answer.iter_bytes(_CHUNK)

    @contextmanager
    def _get(self, url: str) -> Iterator[httpx.Response]:
        """Redirects (to a hub's file servers) are followed a few times, never from https to http."""
        try:
            for _ in range(5):
                request = self._client.build_request("GET", url)
                answer = self._client.send(request, stream=True)
                try:
                    if not answer.is_redirect:
                        if answer.status_code >= 500 or answer.status_code == 429:
                            raise ModelDownloadFailed(f"The hub answered {answer.status_code}.", hint="Try again later.")
                        yield answer
                        return
                    target = answer.next_request.url if answer.next_request else None
                finally:
                    answer.close()
                if target is None or (urlsplit(url).scheme == "https" and target.scheme != "https"):
                    raise ModelDownloadFailed("The hub redirects to a place that is not allowed.")
                url = str(target)
            raise ModelDownloadFailed("The hub redirects in circles.")
        except httpx.HTTPError as error:
            hint = "Check the network of the workers and RETORT_HUB_ENDPOINT, then resume the job."
            raise ModelDownloadFailed(f"The hub does not answer ({type(error).__name__}).", hint=hint) from error


def resolve(model: str, revision: str | None, settings: Settings, transport: httpx.BaseTransport | None = None) -> str:
    """The commit that a revision names now."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    hub = Hub(settings, transport)
    try:
        return hub.describe(model, revision)[0]
    finally:
        hub.close()


def fetch(
    model: str,
    commit: str,
    settings: Settings,
    blobs: BlobStore,
    stop: Callable[[], bool] = lambda: False,
    transport: httpx.BaseTransport | None = None,
) -> Path:
    """The model's folder, from the cache when it is there and whole."""
    endpoint = settings.hub_endpoint or ""
    target = blobs.root / "cache" / "hub" / hashlib.sha256(f"{endpoint}\0{model}\0{commit}".encode()).hexdigest()
    try:
        manifest.verify(target)
        return target
    except ArtifactCorrupt:
        shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    hub = Hub(settings, transport)
    try:
        with blobs.staging() as staged:
            folder = staged / "model"
            folder.mkdir()
            _download(hub, model, commit, folder, settings, blobs, stop)
            check_model_dir(folder)
            manifest.write(folder, model=model, commit=commit)
            try:
                folder.rename(target)
            except OSError:
                if not target.exists():  # else another worker was first
                    raise
    finally:
        hub.close()
    log.info("fetched %s at %s", model, commit[:12])
    return target


def _download(
    hub: Hub, model: str, commit: str, folder: Path, settings: Settings, blobs: BlobStore, stop: Callable[[], bool]
) -> None:
    found, files = hub.describe(model, commit)
    if found != commit:
        raise ModelDownloadFailed(f"The hub answered with commit {found[:12]} when asked for {commit[:12]}.")
    wanted = {name: entry for name, entry in files.items() if WANTED.fullmatch(name)}
    if not any(name.endswith(".safetensors") for name in wanted):
        hint = "Choose a revision with model.safetensors; other weight formats can carry code and are refused."
        raise ModelNotAllowed(f"'{model}' has no safetensors weights at this commit.", param="model", hint=hint)
    total = sum(entry["size"] for entry in wanted.values())
    if total > settings.hub_max_bytes:
        raise ModelNotAllowed(f"'{model}' has {total:,} bytes; {settings.hub_max_bytes:,} are allowed.", param="model")
    if total > 0.9 * blobs.free_bytes():
        raise DiskFull(
            f"'{model}' has {total:,} bytes, which do not fit on the disk.", hint="Free some space, then resume the job."
        )
    for name, entry in sorted(wanted.items()):
        _download_file(hub, model, commit, folder / name, entry, stop)


def _download_file(hub: Hub, model: str, commit: str, target: Path, entry: dict[str, Any], stop: Callable[[], bool]) -> None:
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as out:
        for chunk in hub.chunks(model, commit, target.name):
            if stop():
                raise Stopped
            size += len(chunk)
            if size > entry["size"]:
                break
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if size != entry["size"] or (entry["sha256"] is not None and digest.hexdigest() != entry["sha256"]):
        raise ModelDownloadFailed(f"'{target.name}' of '{model}' did not arrive as the hub describes it.", hint="Resume the job.")


def _size_and_digest(sibling: dict[str, Any]) -> dict[str, Any]:
    large = sibling.get("lfs") or {}
    size = large.get("size", sibling.get("size"))
    if not isinstance(size, int) or size < 0:
        raise ValueError("a file without a size")
    return {"size": size, "sha256": large.get("sha256")}


def _json(answer: httpx.Response, limit: int) -> Any:
    _expect_ok(answer, "the model's description")
    body = b""
    for chunk in answer.iter_bytes():
        body += chunk
        if len(body) > limit:
            raise ValueError("too long")
    return json.loads(body)


def _expect_ok(answer: httpx.Response, what: str) -> None:
    if answer.status_code != 200:
        raise ModelDownloadFailed(f"The hub answered {answer.status_code} for {what}.")
