"""Fixtures for every test: both databases with the schema that the migrations build, Redis, blob store, settings."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.db import Sessions, make_engine, make_sessions, transaction
from app.domain.models import Project
from app.domain.storage import BlobStore
from app.settings import Settings
from migrations import upgrade
from tests.fixtures.servers import Postgres, RedisServer, sqlite_database

PROJECT, OTHER_PROJECT = "proj_00000000000000000000000001", "proj_00000000000000000000000002"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="retort-pg-"))  # short: a socket's path has 107 characters
    server = Postgres(folder)
    yield server
    server.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A migrated database on a real PostgreSQL."""
    url = postgres.database()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    return sqlite_database(tmp_path, sqlite_template)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The test runs twice: on SQLite and on PostgreSQL."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
def sessions(database_url: str) -> Iterator[Sessions]:
    """Sessions on a migrated database that holds two projects, PROJECT and OTHER_PROJECT."""
    engine = make_engine(database_url)
    made = make_sessions(engine)
    with transaction(made) as session:
        session.add_all(Project(id=i, name=i, created_at=0.0) for i in (PROJECT, OTHER_PROJECT))
    yield made
    engine.dispose()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Short lease, heartbeat and poll; Redis is absent unless a test says otherwise."""
    models = tmp_path / "models"
    models.mkdir(exist_ok=True)
    return Settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        redis_url="redis://127.0.0.1:1/0",
        blob_url=f"file://{tmp_path / 'blobs'}",
        models_dir=models,
        pepper="pepper-of-the-tests-0123456789",
        lease_seconds=2.0,
        heartbeat_seconds=0.4,
        poll_seconds=0.5,
        checkpoint_steps=5,
        stop_grace_seconds=5.0,
        threads=1,
    )
