"""Run by alembic: one transaction, under a lock, so that two processes that start together do not migrate twice."""

from alembic import context
from sqlalchemy import text

from app.domain.db import make_engine
from app.domain.models import Base

_LOCK = 0x7265_746F_7274  # 'retort'; PostgreSQL advisory lock key


def _url() -> str:
    given = context.config.attributes.get("url")
    if given:
        return str(given)
    from app.settings import get_settings  # `alembic upgrade head` by hand

    return get_settings().database


def run() -> None:
    engine = make_engine(_url())
    try:
        with engine.begin() as connection:  # SQLite: BEGIN IMMEDIATE, the write lock
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            context.configure(connection, target_metadata=Base.metadata, transaction_per_migration=False, render_as_batch=True)
            context.run_migrations()
    finally:
        engine.dispose()


if context.is_offline_mode():
    raise SystemExit("Give a database: migrations look at what is there.")
run()
