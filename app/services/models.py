"""The registry as a tenant uses it: models, versions, aliases, imports."""

from dataclasses import dataclass
from typing import Any

from app.domain.db import Session, Sessions, reading, transaction
from app.domain.errors import InvalidRequest, NotFound
from app.domain.models import Import, JobArtifact
from app.domain.repositories.imports import Imports
from app.domain.repositories.paging import Order
from app.domain.repositories.registry import Registry, valid_name
from app.services import views

_HUB_NAME_HINT = "Name it as the hub does, 'owner/name'."


@dataclass(frozen=True)
class Cursor:
    limit: int
    after: str | None = None
    before: str | None = None
    order: Order = "desc"


class ModelService:
    def __init__(self, sessions: Sessions, project_id: str) -> None:
        self.sessions, self.project_id = sessions, project_id

    # -- models ------------------------------------------------------------------------------------------------------

    def page(self, cursor: Cursor) -> tuple[list[dict[str, Any]], bool]:
        with reading(self.sessions) as session:
            registry = Registry(session, self.project_id)
            rows, more = registry.page(cursor.limit, cursor.after, cursor.before, cursor.order)
            return [views.model_object(row, registry.aliases(row.name)) for row in rows], more

    def get(self, name: str) -> dict[str, Any]:
        with reading(self.sessions) as session:
            return self._shown(session, name)

    def create(self, session: Session, name: str, description: str) -> dict[str, Any]:
        """In the caller's transaction."""
        model = Registry(session, self.project_id).create_model(valid_name(name, "name"), description)
        return views.model_object(model, [])

    def describe(self, name: str, description: str) -> dict[str, Any]:
        with transaction(self.sessions) as session:
            Registry(session, self.project_id).describe(name, description)
            return self._shown(session, name)

    def delete(self, name: str) -> None:
        with transaction(self.sessions) as session:
            Registry(session, self.project_id).delete_model(name)

    # -- versions and aliases ----------------------------------------------------------------------------------------

    def versions(self, name: str, cursor: Cursor) -> tuple[list[dict[str, Any]], bool]:
        with reading(self.sessions) as session:
            registry = Registry(session, self.project_id)
            rows, more = registry.version_page(name, cursor.limit, cursor.after, cursor.before, cursor.order)
            return [views.version_object(name, row, registry.aliases_of(row.model_id, row.version)) for row in rows], more

    def version(self, name: str, number: int) -> dict[str, Any]:
        with reading(self.sessions) as session:
            registry = Registry(session, self.project_id)
            row = registry.get_version(name, number)
            return views.version_object(name, row, registry.aliases_of(row.model_id, row.version))

    def delete_version(self, name: str, number: int) -> None:
        with transaction(self.sessions) as session:
            Registry(session, self.project_id).delete_version(name, number)

    def set_alias(self, name: str, alias: str, version: int) -> dict[str, Any]:
        valid_name(alias, "alias")
        with transaction(self.sessions) as session:
            return views.alias_object(name, Registry(session, self.project_id).set_alias(name, alias, version))

    def delete_alias(self, name: str, alias: str) -> None:
        with transaction(self.sessions) as session:
            Registry(session, self.project_id).delete_alias(name, alias)

    def files(self, name: str, number: int) -> list[JobArtifact]:
        """The files of a version, as artifacts to download."""
        with reading(self.sessions) as session:
            row = Registry(session, self.project_id).get_version(name, number)
        return [
            JobArtifact(
                name=file,
                kind="model",
                blob=f"artifacts/{row.digest}/{file}",
                bytes=int(said["bytes"]),
                sha256=str(said["sha256"]),
                created_at=row.created_at,
            )
            for file, said in sorted(row.manifest.get("files", {}).items())
        ]

    # -- imports -----------------------------------------------------------------------------------------------------

    def start_import(self, session: Session, name: str, source: str, model: str, revision: str | None) -> dict[str, Any]:
        """In the caller's transaction; a worker does the rest."""
        valid_name(name, "name")
        if source == "local":
            if revision is not None:
                raise InvalidRequest("A local folder has no revision.", param="revision", hint="Leave it out.")
            if "/" in model or "\\" in model or model.startswith("."):
                hint = "Give the plain name of a folder in the operator's RETORT_MODELS_DIR."
                raise InvalidRequest(f"'{model[:80]}' is not the name of a folder.", param="model", hint=hint)
            return views.import_object(Imports(session, self.project_id).add(name, "local", model))
        if model.count("/") > 1 or ".." in model:
            raise InvalidRequest(f"'{model[:80]}' is not a model of the hub.", param="model", hint=_HUB_NAME_HINT)
        return views.import_object(Imports(session, self.project_id).add(name, "hub", model, revision))

    def get_import(self, import_id: str) -> Import:
        with reading(self.sessions) as session:
            found = Imports(session, self.project_id).get(import_id)
        if found is None:
            raise NotFound("import", import_id)
        return found

    def imports(self, cursor: Cursor) -> tuple[list[Import], bool]:
        with reading(self.sessions) as session:
            return Imports(session, self.project_id).page(cursor.limit, cursor.after, cursor.before, cursor.order)

    def _shown(self, session: Session, name: str) -> dict[str, Any]:
        registry = Registry(session, self.project_id)
        return views.model_object(registry.get_model(name), registry.aliases(name))
