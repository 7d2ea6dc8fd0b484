"""Uploaded data files of one project."""

from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.domain.models import File
from app.domain.repositories.events import clock, storable
from app.domain.repositories.paging import Order, fetch_page


class Files:
    def __init__(self, session: Session, project_id: str) -> None:
        self.session = session
        self.project_id = project_id

    def add(
        self,
        file_id: str,
        *,
        filename: str,
        purpose: str,
        bytes: int,
        sha256: str,
        format: str,
        status: str,
        report: dict[str, Any],
    ) -> File:
        file = File(
            id=file_id,
            project_id=self.project_id,
            filename=storable(filename)[:255],
            purpose=purpose,
            bytes=bytes,
            sha256=sha256,
            format=format,
            status=status,
            report=storable(report),
            created_at=clock(self.session),
        )
        self.session.add(file)
        self.session.flush()
        return file

    def get(self, file_id: str) -> File:
        found = self.session.scalars(self._mine().where(File.id == storable(file_id))).one_or_none()
        if found is None:
            raise NotFound("file", file_id, hint="GET /v1/files lists the files of this project.")
        return found

    def page(
        self, limit: int, after: str | None = None, before: str | None = None, order: Order = "desc", purpose: str | None = None
    ) -> tuple[list[File], bool]:
        query = self._mine()
        if purpose is not None:
            query = query.where(File.purpose == storable(purpose))
        return fetch_page(self.session, query, File.id, limit, after, before, order)

    def delete(self, file_id: str) -> None:
        file = self.get(file_id)
        self.session.execute(delete(File).where(File.id == file.id, File.project_id == self.project_id))

    def _mine(self) -> Select[File]:
        return select(File).where(File.project_id == self.project_id)
