"""Models of one project: names, numbered versions, aliases."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.domain import ids
from app.domain.errors import Conflict, InUse, InvalidRequest, NotFound
from app.domain.models import Alias, Model, ModelVersion
from app.domain.repositories.events import clock, storable
from app.domain.repositories.paging import Order, fetch_page

PREFERRED = ("production", "default")  # what a bare name means, before the newest version
_NAMING = "A name has 1 to 63 of a-z, 0-9, '.', '_', '-', and starts with a letter or digit."


def valid_name(name: str, param: str) -> str:
    if not ids.MODEL_NAME.fullmatch(name):
        raise InvalidRequest(f"'{name[:80]}' is not a valid name.", param=param, hint=_NAMING)
    return name


class Registry:
    def __init__(self, session: Session, project_id: str) -> None:
        self.session = session
        self.project_id = project_id

    # -- models ------------------------------------------------------------------------------------------------------

    def models(self) -> Sequence[Model]:
        """All, by name."""
        return self.session.scalars(self._mine().order_by(Model.name)).all()

    def page(
        self, limit: int, after: str | None = None, before: str | None = None, order: Order = "desc"
    ) -> tuple[list[Model], bool]:
        return fetch_page(self.session, self._mine(), Model.id, limit, after, before, order)

    def get_model(self, name: str) -> Model:
        found = self._find(name)
        if found is None:
            raise NotFound("model", name, hint="GET /v1/registry/models lists the models of this project.")
        return found

    def create_model(self, name: str, description: str = "") -> Model:
        if not self._insert(valid_name(name, "name"), description):
            raise Conflict(
                f"There is a model '{name}' already.", param="name", hint="New versions of it come from jobs and imports."
            )
        return self.get_model(name)

    def describe(self, name: str, description: str) -> Model:
        model = self.get_model(name)
        model.description, model.updated_at = storable(description), clock(self.session)
        self.session.flush()
        return model

    def delete_model(self, name: str) -> None:
        """With all its versions; not while an alias points at one."""
        model = self.get_model(name)
        if aliases := self.aliases(name):
            named = ", ".join(a.name for a in aliases[:5])
            raise InUse(f"'{name}' has aliases ({named}).", hint="Delete its aliases first.")
        self.session.execute(delete(ModelVersion).where(ModelVersion.model_id == model.id))
        self.session.execute(delete(Model).where(Model.id == model.id))
        self.session.expunge(model)

    # -- versions ----------------------------------------------------------------------------------------------------

    def resolve(self, ref: str) -> tuple[Model, ModelVersion]:
        """`name:3`, `name@alias`, or `name`: its alias `production`, else `default`, else the newest version."""
        parsed = ids.MODEL_REF.fullmatch(ref)
        model = self._find(parsed["name"]) if parsed else None
        if parsed is None or model is None:
            raise NotFound(
                "model", ref, hint="A model is named 'name', 'name:3' (version) or 'name@alias'; see GET /v1/registry/models."
            )
        number: int | None = None
        if parsed["version"]:
            number = int(parsed["version"])
        elif parsed["alias"]:
            number = self._aliased(model.id, parsed["alias"])
        else:
            number = next((n for name in PREFERRED if (n := self._aliased(model.id, name))), None) or self._newest(model.id)
        version = self._version(model.id, number) if number else None
        if version is None:
            raise NotFound(
                "model", ref, hint=f"GET /v1/registry/models/{model.name}/versions lists the versions of '{model.name}'."
            )
        return model, version

    def versions(self, name: str) -> Sequence[ModelVersion]:
        """All, newest first."""
        model = self.get_model(name)
        query = select(ModelVersion).where(ModelVersion.model_id == model.id).order_by(ModelVersion.version.desc())
        return self.session.scalars(query).all()

    def version_page(
        self, name: str, limit: int, after: str | None = None, before: str | None = None, order: Order = "desc"
    ) -> tuple[list[ModelVersion], bool]:
        query = select(ModelVersion).where(ModelVersion.model_id == self.get_model(name).id)
        return fetch_page(self.session, query, ModelVersion.id, limit, after, before, order)

    def get_version(self, name: str, version: int) -> ModelVersion:
        found = self._version(self.get_model(name).id, version)
        if found is None:
            raise NotFound("model", f"{name}:{version}", hint=f"GET /v1/registry/models/{name}/versions lists them.")
        return found

    def add_version(
        self,
        name: str,
        *,
        kind: str,
        task: str | None,
        digest: str,
        manifest: dict[str, Any],
        bytes: int,
        params: int | None,
        source_job_id: str | None,
        base_model: str | None,
        quality: dict[str, Any],
        provenance: dict[str, Any],
    ) -> ModelVersion:
        """The next number of `name`, which is made when it is new. Numbers of deleted versions do not come back."""
        self._insert(valid_name(name, "name"), "")
        at = clock(self.session)
        bump = update(Model).where(Model.project_id == self.project_id, Model.name == name)
        bump = bump.values(last_version=Model.last_version + 1, updated_at=at)
        bumped = bump.returning(Model.id, Model.last_version).execution_options(synchronize_session=False)
        model_id, number = self.session.execute(bumped).one()
        version = ModelVersion(
            id=ids.new_id(ids.VERSION),
            model_id=model_id,
            version=number,
            kind=kind,
            task=task,
            digest=digest,
            manifest=storable(manifest),
            bytes=bytes,
            params=params,
            source_job_id=source_job_id,
            base_model=base_model,
            quality=storable(quality),
            provenance=storable(provenance),
            created_at=at,
        )
        self.session.add(version)
        self.session.flush()
        return version

    def delete_version(self, name: str, version: int) -> None:
        found = self.get_version(name, version)
        if aliases := self.aliases_of(found.model_id, version):
            raise InUse(
                f"'{name}:{version}' is {name}@{aliases[0]}.", hint="Point the alias at another version, or delete it, first."
            )
        self.session.execute(delete(ModelVersion).where(ModelVersion.id == found.id))
        self.session.expunge(found)

    # -- aliases -----------------------------------------------------------------------------------------------------

    def set_alias(self, name: str, alias: str, version: int) -> Alias:
        """Point `name@alias` at a version, atomically."""
        found = self.get_version(name, version)
        values = {
            "model_id": found.model_id,
            "name": valid_name(alias, "alias"),
            "version": version,
            "updated_at": clock(self.session),
        }
        new = self._dialect_insert(Alias).values(**values)
        changed = {"version": new.excluded.version, "updated_at": new.excluded.updated_at}
        self.session.execute(new.on_conflict_do_update(index_elements=["model_id", "name"], set_=changed))
        query = select(Alias).where(Alias.model_id == found.model_id, Alias.name == alias)
        return self.session.scalars(query.execution_options(populate_existing=True)).one()

    def delete_alias(self, name: str, alias: str) -> None:
        model = self.get_model(name)
        gone = delete(Alias).where(Alias.model_id == model.id, Alias.name == storable(alias)).returning(Alias.name)
        if self.session.execute(gone.execution_options(synchronize_session=False)).first() is None:
            raise NotFound("alias", f"{name}@{alias}", hint=f"GET /v1/registry/models/{name} lists its aliases.")

    def aliases(self, name: str) -> Sequence[Alias]:
        query = select(Alias).where(Alias.model_id == self.get_model(name).id).order_by(Alias.name)
        return self.session.scalars(query).all()

    def aliases_of(self, model_id: str, version: int) -> list[str]:
        query = select(Alias.name).where(Alias.model_id == model_id, Alias.version == version).order_by(Alias.name)
        return [*self.session.scalars(query)]

    # ----------------------------------------------------------------------------------------------------------------

    def _mine(self) -> Select[Model]:
        return select(Model).where(Model.project_id == self.project_id)

    def _find(self, name: str) -> Model | None:
        return self.session.scalars(self._mine().where(Model.name == storable(name))).one_or_none()

    def _version(self, model_id: str, number: int) -> ModelVersion | None:
        if not 0 < number < 2**31:
            return None
        query = select(ModelVersion).where(ModelVersion.model_id == model_id, ModelVersion.version == number)
        return self.session.scalars(query).one_or_none()

    def _aliased(self, model_id: str, alias: str) -> int | None:
        return self.session.scalars(select(Alias.version).where(Alias.model_id == model_id, Alias.name == alias)).one_or_none()

    def _newest(self, model_id: str) -> int | None:
        query = select(ModelVersion.version).where(ModelVersion.model_id == model_id)
        return self.session.scalars(query.order_by(ModelVersion.version.desc()).limit(1)).one_or_none()

    def _insert(self, name: str, description: str) -> bool:
        """False when the name is taken."""
        at = clock(self.session)
        new = self._dialect_insert(Model).values(
            id=ids.new_id(ids.MODEL),
            project_id=self.project_id,
            name=name,
            description=storable(description),
            last_version=0,
            created_at=at,
            updated_at=at,
        )
        made = new.on_conflict_do_nothing(index_elements=["project_id", "name"]).returning(Model.id)
        return self.session.execute(made).first() is not None

    def _dialect_insert(self, table: Any) -> Any:
        """Both dialects know ON CONFLICT; SQLAlchemy has a construct for each."""
        return (postgresql if self.session.get_bind().dialect.name == "postgresql" else sqlite).insert(table)
