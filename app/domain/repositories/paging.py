"""Lists in the order of creation: ids are ULIDs, so an id is a cursor."""

from typing import Any, Literal, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.domain.errors import InvalidRequest
from app.domain.repositories.events import storable

Order = Literal["asc", "desc"]
T = TypeVar("T")


def fetch_page(
    session: Session, query: Select[T], key: Any, limit: int, after: str | None, before: str | None, order: Order
) -> tuple[list[T], bool]:
    """One page of `query` (already bound to a tenant) by the id column `key`, and whether more follow."""
    for param, cursor in (("after", after), ("before", before)):
        if cursor is not None:
            if session.execute(query.where(key == storable(cursor))).first() is None:
                hint = "Use the first_id or last_id of a page that this list returned."
                raise InvalidRequest(f"'{cursor[:80]}' is not in this list.", param=param, hint=hint)
            forward = (order == "asc") == (param == "after")
            query = query.where(key > cursor if forward else key < cursor)
    backwards = before is not None and after is None
    ascending = (order == "asc") != backwards
    rows = [*session.scalars(query.order_by(key.asc() if ascending else key.desc()).limit(limit + 1))]
    page = rows[:limit]
    return (page[::-1] if backwards else page), len(rows) > limit
