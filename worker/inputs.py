"""From a claimed job to the request its child gets: every path is made here, from ids and digests."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.domain import egress, manifest
from app.domain.errors import ArtifactCorrupt, DatasetInvalid, ModelNotAllowed
from app.domain.modelfiles import check_model_dir, local_folder
from app.domain.models import Job
from app.domain.storage import BlobStore
from app.settings import Settings
from worker import fetcher
from worker.run.protocol import RunRequest

STALL_SECONDS = 900.0


@dataclass(frozen=True)
class Inputs:
    settings: Settings
    blobs: BlobStore
    stop: Callable[[], bool] = lambda: False  # a download ends early (fetcher.Stopped) when this says so
    pin: Callable[[dict[str, Any]], None] = lambda inputs: None  # keeps what a hub revision was resolved to


def build_request(job: Job, given: Inputs) -> RunRequest:
    """Raises a DomainError that says which input is missing or refused."""
    settings, blobs = given.settings, given.blobs
    workdir = blobs.run(job.id, job.attempt)
    workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = job.inputs.get("files", {})
    for role, entry in files.items():
        if not blobs.file(entry["id"]).is_file():
            raise DatasetInvalid(f"The {role} file {entry['id']} is gone.", param=f"data.{role}_file", hint="Upload it again.")
    _pin_revisions(job, given)
    device = job.spec.get("compute", {}).get("device", "auto")
    return RunRequest(
        job_id=job.id,
        attempt=job.attempt,
        spec=job.spec,
        config_hash=job.config_hash,
        workdir=str(workdir),
        previous=[str(p) for n in range(job.attempt - 1, 0, -1) if (p := blobs.run(job.id, n)).is_dir()],
        cache_dir=str((blobs.root / "cache" / job.project_id).resolve()),
        files={role: str(blobs.file(entry["id"])) for role, entry in files.items()},
        formats={role: entry["format"] for role, entry in files.items()},
        teacher_dir=str(model_dir(job.inputs.get("teacher"), "teacher", given)),
        ensemble_dirs=[str(model_dir(source, "teacher", given)) for source in job.inputs.get("ensemble") or []],
        student_dir=str(model_dir(student, "student", given)) if (student := job.inputs.get("student")) else None,
        augmenter_dirs=[str(model_dir(s, "augmentation", given)) if s else None for s in job.inputs.get("augmenters") or []],
        device=settings.worker_device if device == "auto" else device,
        threads=settings.threads or max(1, (os.cpu_count() or 1) // max(1, settings.worker_slots)),
        checkpoint_every_steps=settings.checkpoint_steps,
        checkpoint_every_seconds=settings.checkpoint_seconds,
        micro_batch_divisor=int(job.usage.get("micro_batch_divisor", 1)),
        stall_seconds=STALL_SECONDS,
        lease_seconds=settings.lease_seconds,
        plugins_dir=str(settings.plugins_dir.resolve()) if settings.plugins_dir is not None else None,
        cache_bytes=settings.teacher_cache_bytes,
        endpoint_keys=_endpoint_keys(job.spec, settings),
        private_endpoints=settings.private_endpoints,
    )


def _endpoint_keys(spec: dict[str, Any], settings: Settings) -> dict[str, SecretStr]:
    """Those of the endpoints that the job names; a run learns of no others."""
    named = [block["base_url"] for block in spec.get("augmentation") or [] if block.get("base_url")]
    origins = {egress.parse(url, "augmentation.base_url").origin for url in named}
    return {origin: key for origin, key in settings.endpoint_keys.items() if origin in origins}


def _pin_revisions(job: Job, given: Inputs) -> None:
    """A hub model is the same commit in every attempt of a job."""
    inputs = dict(job.inputs)
    for role in ("teacher", "student"):
        if role in inputs:
            inputs[role] = _pinned(inputs[role], given.settings)
    for role in ("ensemble", "augmenters"):
        if role in inputs:
            inputs[role] = [_pinned(source, given.settings) for source in inputs[role]]
    if inputs != job.inputs:
        given.pin(inputs)
        job.inputs = inputs


def _pinned(source: dict[str, Any] | None, settings: Settings) -> dict[str, Any] | None:
    if source is None or source["source"] != "hub" or fetcher.COMMIT.fullmatch(source.get("revision") or ""):
        return source
    return {**source, "revision": fetcher.resolve(source["model"], source.get("revision"), settings)}


def model_dir(source: dict[str, Any] | None, role: str, given: Inputs) -> Path:
    """The folder of a model that a job names: from the registry by digest, from the operator's folder, or fetched from the hub."""
    if source is None:
        raise ModelNotAllowed(f"The job names no {role}.", param=role)
    match source["source"]:
        case "registry":
            folder = given.blobs.artifact(source["digest"])
            try:
                manifest.verify(folder, source["digest"])
            except ArtifactCorrupt as error:
                raise ArtifactCorrupt(f"The {role} {source['ref']}: {error.message}", param=f"{role}.model") from error
        case "local":
            folder = local_folder(given.settings.models_dir, source["model"], f"{role}.model")
        case "hub":
            return fetcher.fetch(source["model"], source["revision"], given.settings, given.blobs, given.stop)
        case other:
            raise ModelNotAllowed(f"Unknown source '{other}'.", param=f"{role}.source", hint="Use hub, local or registry.")
    check_model_dir(folder)
    return folder
