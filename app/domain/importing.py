"""From a folder somebody brought to an artifact and a model version: the one way in for `retort models import` and for workers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.domain import manifest
from app.domain.modelfiles import ModelInfo, check_model_dir, copy_model
from app.domain.models import ModelVersion
from app.domain.repositories.registry import Registry
from app.domain.storage import BlobStore


@dataclass(frozen=True)
class Stored:
    """A checked model in the artifact store, not yet in the registry."""

    digest: str
    manifest: dict[str, Any]
    info: ModelInfo

    @property
    def bytes(self) -> int:
        return sum(int(f["bytes"]) for f in self.manifest["files"].values())


def store_checkpoint(folder: Path, blobs: BlobStore) -> Stored:
    """Check a model folder and copy its allowed files into the artifact store. Raises ModelNotAllowed."""
    check_model_dir(folder)
    with blobs.staging() as staged:
        copy = staged / "model"
        copy_model(folder, copy)
        info = check_model_dir(copy)  # what was copied is what counts
        (copy / "retort.json").write_text(json.dumps(_card(info), indent=1, sort_keys=True))
        described = manifest.write(copy)
        digest = blobs.put_artifact(copy)
    return Stored(digest, {k: described[k] for k in ("format", "digest", "files")}, info)


def register_checkpoint(
    session: Session, project_id: str, name: str, stored: Stored, *, base_model: str, provenance: dict[str, Any]
) -> ModelVersion:
    """A new version of kind `checkpoint`, in the caller's transaction."""
    return Registry(session, project_id).add_version(
        name,
        kind="checkpoint",
        task="text-classification" if stored.info.has_head else None,
        digest=stored.digest,
        manifest=stored.manifest,
        bytes=stored.bytes,
        params=stored.info.params,
        source_job_id=None,
        base_model=base_model,
        quality={},
        provenance=provenance,
    )


def _card(info: ModelInfo) -> dict[str, Any]:
    """retort.json: what serving and the catalogue of models need to know; a checkpoint has no backend of its own."""
    return {
        "format": 1,
        "kind": "checkpoint",
        "task": "text-classification" if info.has_head else None,
        "labels": list(info.labels or []) if info.has_head else [],
        "embedding_dim": info.hidden_size,
        "pooling": "mean",
        "normalize": True,
        "backends": [],
    }
