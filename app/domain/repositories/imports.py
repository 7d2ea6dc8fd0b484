"""Models on their way into the registry. The control plane adds and reads; a worker claims one and ends it.

The fence is `lease_owner`: unique to one claim, so a worker that comes back late changes nothing.
"""

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from app.domain import ids
from app.domain.db import now
from app.domain.models import Import
from app.domain.repositories.events import clock, storable
from app.domain.repositories.outbox import OutboxRepository
from app.domain.repositories.paging import Order, fetch_page

RUN_IMPORT = "retort.run_import"


class Imports:
    def __init__(self, session: Session, project_id: str) -> None:
        self.session = session
        self.project_id = project_id

    def add(self, name: str, source: Literal["hub", "local"], model: str, revision: str | None = None) -> Import:
        made = Import(
            id=ids.new_id(ids.IMPORT),
            project_id=self.project_id,
            name=name,
            source=source,
            model=model,
            revision=revision,
            status="pending",
            created_at=clock(self.session),
        )
        self.session.add(made)
        self.session.flush()
        OutboxRepository(self.session).add(RUN_IMPORT, [made.id])
        return made

    def get(self, import_id: str) -> Import | None:
        return self.session.scalars(self._mine().where(Import.id == storable(import_id))).one_or_none()

    def page(
        self, limit: int, after: str | None = None, before: str | None = None, order: Order = "desc"
    ) -> tuple[list[Import], bool]:
        return fetch_page(self.session, self._mine(), Import.id, limit, after, before, order)

    def _mine(self) -> Select[Import]:
        return select(Import).where(Import.project_id == self.project_id)


class ImportLeases:
    """The worker's side."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def waiting(self) -> bool:
        return self.session.execute(select(Import.id).where(Import.status == "pending").limit(1)).first() is not None

    def claim(self, owner: str, lease_seconds: float) -> Import | None:
        oldest = select(Import.id).where(Import.status == "pending").order_by(Import.id).limit(1).with_for_update(skip_locked=True)
        query = update(Import).where(Import.id == oldest.scalar_subquery(), Import.status == "pending")
        return self._write(query, status="running", lease_owner=owner, lease_expires_at=clock(self.session) + lease_seconds)

    def renew(self, import_id: str, owner: str, lease_seconds: float) -> bool:
        return self._write(self._held(import_id, owner), lease_expires_at=clock(self.session) + lease_seconds) is not None

    def lock(self, import_id: str, owner: str) -> Import | None:
        """Its row, held until the transaction ends; None: somebody else has it by now."""
        held = (Import.id == import_id, Import.status == "running", Import.lease_owner == owner)
        return self.session.scalars(select(Import).where(*held).with_for_update()).one_or_none()

    def succeed(self, import_id: str, owner: str, result: dict[str, Any]) -> Import | None:
        return self._end(import_id, owner, "succeeded", result=storable(result))

    def fail(self, import_id: str, owner: str, error: dict[str, Any]) -> Import | None:
        return self._end(import_id, owner, "failed", error=storable(error))

    def release(self, import_id: str, owner: str) -> None:
        """Hand it back: this worker goes down."""
        self._write(self._held(import_id, owner), status="pending", lease_owner=None, lease_expires_at=None)

    def reconcile(self) -> Sequence[str]:
        """Back to pending when the worker is gone."""
        query = update(Import).where(Import.status == "running", Import.lease_expires_at < now())
        query = query.values(status="pending", lease_owner=None, lease_expires_at=None)
        return self.session.scalars(query.returning(Import.id).execution_options(synchronize_session=False)).all()

    def _held(self, import_id: str, owner: str) -> Any:
        return update(Import).where(Import.id == import_id, Import.status == "running", Import.lease_owner == owner)

    def _end(self, import_id: str, owner: str, status: str, **values: Any) -> Import | None:
        at = clock(self.session)
        return self._write(
            self._held(import_id, owner), status=status, finished_at=at, lease_owner=None, lease_expires_at=None, **values
        )

    def _write(self, query: Any, **values: Any) -> Import | None:
        query = query.values(**values).returning(Import)
        options = {"synchronize_session": False, "populate_existing": True}
        found: Import | None = self.session.scalars(query.execution_options(**options)).one_or_none()
        return found
