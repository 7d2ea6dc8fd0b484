"""Where a job's teacher and student come from: found, checked and pinned before anything starts."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from app.domain.db import Session
from app.domain.errors import ArtifactCorrupt, InvalidRequest, ModelNotAllowed, NotFound
from app.domain.modelfiles import ModelInfo, check_model_dir, local_folder
from app.domain.repositories.registry import Registry
from app.domain.storage import BlobStore

_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")


class Places(Protocol):
    """The settings that say which models may be used."""

    @property
    def models_dir(self) -> Path | None: ...
    @property
    def hub_offline(self) -> bool: ...
    @property
    def private_endpoints(self) -> list[str]: ...


@dataclass(frozen=True)
class Wanted:
    role: str  # teacher | student
    source: str
    model: str
    revision: str | None
    where: str = ""  # in the spec, when it is not the role: `teacher.ensemble[0]`

    @property
    def at(self) -> str:
        return self.where or self.role


@dataclass(frozen=True)
class Found:
    """`info` and `folder` are None for a model of the hub, which is looked at when the job starts."""

    inputs: dict[str, Any]
    info: ModelInfo | None
    model: str  # pinned: `minilm` becomes `minilm:1`
    folder: Path | None = None


def find(wanted: Wanted, session: Session, project_id: str, blobs: BlobStore, places: Places) -> Found:
    """Raises a DomainError whose `param` is the field at fault."""
    param = f"{wanted.at}.model"
    if wanted.revision is not None and wanted.source != "hub":
        hint = "A registry model is pinned by its version ('name:3'); a local folder has none."
        raise InvalidRequest("'revision' belongs to source 'hub'.", param=f"{wanted.at}.revision", hint=hint)
    match wanted.source:
        case "registry":
            return _registry(wanted, param, Registry(session, project_id), blobs)
        case "local":
            folder = local_folder(places.models_dir, wanted.model, param)
            return Found(_inputs(wanted, wanted.model, None), _checked(folder, param), wanted.model, folder)
        case "hub":
            return _hub(wanted, param, places)
        case other:
            raise InvalidRequest(f"Unknown source '{other}'.", param=f"{wanted.at}.source", hint="Use registry, local or hub.")


def _registry(wanted: Wanted, param: str, registry: Registry, blobs: BlobStore) -> Found:
    try:
        model, version = registry.resolve(wanted.model)
    except NotFound as error:
        error.param = param
        raise
    ref = f"{model.name}:{version.version}"
    folder = blobs.artifact(version.digest)
    if not folder.is_dir():
        raise ArtifactCorrupt(f"The files of '{ref}' are not in the blob store.", param=param, hint="Import the model again.")
    return Found(_inputs(wanted, ref, version.digest), _checked(folder, param), ref, folder)


def _hub(wanted: Wanted, param: str, places: Places) -> Found:
    if places.hub_offline:
        hint = "Use source 'registry' or 'local'; the operator can allow the hub with RETORT_HUB_OFFLINE=false."
        raise ModelNotAllowed("This installation does not fetch models.", param=f"{wanted.at}.source", hint=hint)
    if not _HUB_NAME.fullmatch(wanted.model) or ".." in wanted.model:
        raise InvalidRequest(f"'{wanted.model[:80]}' is not the name of a model.", param=param, hint="Use 'owner/name'.")
    return Found(_inputs(wanted, wanted.model, None), None, wanted.model)


def _inputs(wanted: Wanted, ref: str, digest: str | None) -> dict[str, Any]:
    return {"source": wanted.source, "ref": ref, "digest": digest, "model": wanted.model, "revision": wanted.revision}


def _checked(folder: Path, param: str) -> ModelInfo:
    try:
        return check_model_dir(folder)
    except ModelNotAllowed as error:
        error.param = param
        raise
