"""One data plane for all tests of a module, where none of them changes it: SQLite, its own blob store, no Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.db import Sessions, make_engine, make_sessions, transaction
from app.domain.models import Project
from app.domain.storage import BlobStore
from app.settings import Settings
from tests.conftest import OTHER_PROJECT, PROJECT
from tests.fixtures.servers import sqlite_database


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Settings:
    folder = tmp_path_factory.mktemp("serving")
    database, blobs = sqlite_database(folder, sqlite_template), f"file://{folder / 'blobs'}"
    nowhere = "redis://127.0.0.1:1/0"
    return Settings(
        data_dir=folder, database_url=database, redis_url=nowhere, blob_url=blobs, pepper="pepper-of-the-tests-0123456789"
    )


@pytest.fixture(scope="module")
def sessions(settings: Settings) -> Iterator[Sessions]:
    engine = make_engine(settings.database)
    made = make_sessions(engine)
    with transaction(made) as session:
        session.add_all(Project(id=i, name=i, created_at=0.0) for i in (PROJECT, OTHER_PROJECT))
    yield made
    engine.dispose()


@pytest.fixture(scope="module")
def blobs(settings: Settings) -> BlobStore:
    return BlobStore(settings.blob_root)
