"""The API over SQLite; what depends on the database runs on both in test_idempotency.py."""

from collections.abc import Iterator

import pytest

from app.domain.db import Sessions
from app.settings import Settings
from tests.fixtures.api import Api, control_plane


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def api(settings: Settings, sessions: Sessions) -> Iterator[Api]:
    with control_plane(settings, sessions) as made:
        yield made
