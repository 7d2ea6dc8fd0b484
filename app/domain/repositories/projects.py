"""Projects: the tenants."""

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.domain import ids
from app.domain.errors import Conflict, NotFound
from app.domain.models import Project
from app.domain.repositories.events import clock, storable
from app.domain.repositories.paging import Order, fetch_page

DEFAULT = "default"


class Projects:
    def __init__(self, session: Session) -> None:
        self.session = session

    def by_name(self, name: str) -> Project | None:
        return self.session.scalars(select(Project).where(Project.name == storable(name))).one_or_none()

    def get(self, project_id: str) -> Project:
        found = self.session.scalars(select(Project).where(Project.id == storable(project_id))).one_or_none()
        if found is None:
            raise NotFound("project", project_id, hint="GET /v1/projects lists them.")
        return found

    def add(self, name: str) -> Project:
        if self.by_name(name) is not None:
            raise Conflict(f"There is a project '{name[:80]}' already.", param="name", hint="Choose another name.")
        project = Project(id=ids.new_id(ids.PROJECT), name=storable(name), created_at=clock(self.session))
        self.session.add(project)
        self.session.flush()
        return project

    def ensure(self, name: str) -> Project:
        """The project of that name, made when it is missing, its row held until the transaction ends: processes that
        start together do what follows one after the other."""
        insert = postgresql.insert if self.session.get_bind().dialect.name == "postgresql" else sqlite.insert
        values = {"id": ids.new_id(ids.PROJECT), "name": name, "created_at": clock(self.session)}
        self.session.execute(insert(Project).values(**values).on_conflict_do_nothing())
        return self.session.scalars(select(Project).where(Project.name == name).with_for_update()).one()

    def page(self, limit: int, after: str | None, before: str | None, order: Order) -> tuple[list[Project], bool]:
        return fetch_page(self.session, select(Project), Project.id, limit, after, before, order)
