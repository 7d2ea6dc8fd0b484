"""The model registry: what the API shows of it, and the operator's way in (`retort models import`)."""

from pathlib import Path
from typing import Protocol

from app.domain.db import make_engine, make_sessions, reading, transaction
from app.domain.errors import NotFound
from app.domain.importing import register_checkpoint, store_checkpoint
from app.domain.repositories.projects import Projects
from app.domain.repositories.registry import valid_name
from app.domain.storage import BlobStore


class Stores(Protocol):
    """The settings that name database and blob store."""

    @property
    def database(self) -> str: ...
    @property
    def blob_root(self) -> Path: ...


def import_folder(settings: Stores, name: str, path: Path, *, project: str = "default", origin: str = "") -> str:
    """Put a model folder of this machine into the registry as a checkpoint; returns 'name:version'."""
    valid_name(name, "name")
    engine = make_engine(settings.database)
    try:
        sessions = make_sessions(engine)
        with reading(sessions) as session:
            owner = Projects(session).by_name(project)
        if owner is None:
            raise NotFound(
                "project", project, hint="`retort up` makes the project 'default'; start it once, or name another project."
            )
        stored = store_checkpoint(path, BlobStore(settings.blob_root))
        provenance = {"source": "operator", "model": origin or path.name}
        with transaction(sessions) as session:
            version = register_checkpoint(session, owner.id, name, stored, base_model=origin or path.name, provenance=provenance)
            return f"{name}:{version.version}"
    finally:
        engine.dispose()
