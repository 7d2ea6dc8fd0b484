"""API keys. Stored is a digest; whoever reads this table cannot call the API."""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.domain import ids
from app.domain.errors import NotFound
from app.domain.models import ApiKey
from app.domain.repositories.events import clock, storable
from app.domain.repositories.paging import Order, fetch_page

_USED_SECONDS = 60.0  # `last_used_at` is exact to this


class Keys:
    """Of all projects: authentication knows none yet, and the admin endpoints name one."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def by_digest(self, digest: str) -> ApiKey | None:
        return self.session.scalars(select(ApiKey).where(ApiKey.digest == digest)).one_or_none()

    def add(
        self, project_id: str, *, name: str, prefix: str, digest: str, scopes: Sequence[str], expires_at: float | None = None
    ) -> ApiKey:
        key = ApiKey(
            id=ids.new_id(ids.KEY),
            project_id=project_id,
            name=storable(name),
            prefix=prefix,
            digest=digest,
            scopes=[*scopes],
            created_at=clock(self.session),
            expires_at=expires_at,
        )
        self.session.add(key)
        self.session.flush()
        return key

    def page(self, project_id: str, limit: int, after: str | None, before: str | None, order: Order) -> tuple[list[ApiKey], bool]:
        return fetch_page(
            self.session, select(ApiKey).where(ApiKey.project_id == project_id), ApiKey.id, limit, after, before, order
        )

    def revoke(self, project_id: str, key_id: str) -> ApiKey:
        query = select(ApiKey).where(ApiKey.project_id == project_id, ApiKey.id == storable(key_id))
        key = self.session.scalars(query).one_or_none()
        if key is None:
            raise NotFound("key", key_id, hint="GET /v1/api_keys lists the keys of this project.")
        if key.revoked_at is None:
            key.revoked_at = clock(self.session)
            self.session.flush()
        return key

    def used(self, key_id: str) -> None:
        at = clock(self.session)
        stale = (ApiKey.last_used_at.is_(None)) | (ApiKey.last_used_at < at - _USED_SECONDS)
        query = update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=at)
        self.session.execute(query.execution_options(synchronize_session=False))
