"""The migrations build exactly the schema of the models, on both databases, and go back to nothing."""

import multiprocessing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import IntegrityError

from app.domain.db import make_engine, make_sessions, transaction
from app.domain.models import Base, File
from migrations import EMPTY, config, downgrade, upgrade
from tests.conftest import PROJECT

FORK_FREE = multiprocessing.get_context("spawn")


def _constraints(url: str) -> dict[str, set[str | None]]:
    look = inspect(create_engine(url))
    return {
        table: {
            c["name"]
            for c in [*look.get_check_constraints(table), *look.get_foreign_keys(table), *look.get_unique_constraints(table)]
        }
        for table in look.get_table_names()
        if table != "alembic_version"
    }


def test_models_and_migrations_agree(database_url: str) -> None:
    command.check(config(database_url))  # raises when autogenerate finds a difference


def test_constraints_carry_the_names_of_the_models(database_url: str) -> None:
    """Autogenerate compares neither check constraints nor names; a later migration needs both."""
    found = _constraints(database_url)
    for table in Base.metadata.sorted_tables:
        named = {c.name for c in table.constraints if type(c).__name__ != "PrimaryKeyConstraint"}
        assert found[table.name] == named, table.name


def test_down_to_nothing_and_up_again(database_url: str) -> None:
    downgrade(database_url, EMPTY)
    assert inspect(create_engine(database_url)).get_table_names() == ["alembic_version"]
    upgrade(database_url)
    command.check(config(database_url))


def test_upgrade_makes_the_folder_and_is_idempotent(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'folder' / 'retort.db'}"
    upgrade(url)
    upgrade(url)
    assert "jobs" in inspect(create_engine(url)).get_table_names()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_processes_that_start_together_migrate_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    sqlite = f"sqlite:///{tmp_path / 'retort.db'}"
    url = sqlite if kind == "sqlite" else request.getfixturevalue("postgres").database("template0")
    processes = [FORK_FREE.Process(target=upgrade, args=(url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, 0, 0, 0]
    command.check(config(url))


def test_a_wrong_state_is_unwritable(database_url: str) -> None:
    sessions = make_sessions(make_engine(database_url))
    file = File(
        id="file-1",
        project_id=PROJECT,
        filename="x",
        purpose="distill",
        bytes=1,
        sha256="",
        format="jsonl",
        report={},
        created_at=0.0,
    )
    file.status = "half done"
    with pytest.raises(IntegrityError, match="ck_files_status"), transaction(sessions) as session:
        session.add(file)
