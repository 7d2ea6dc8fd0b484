"""Engine, sessions, and the database's own clock, for SQLite and PostgreSQL alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session as Session  # for those who write no SQL
from sqlalchemy.orm import sessionmaker
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import Double

Sessions = sessionmaker[Session]
_OUTAGES = (OperationalError, InterfaceError, PoolTimeout)  # the database is away or busy: the same call may work a little later


def is_outage(error: BaseException) -> bool:
    return isinstance(error, _OUTAGES) or (isinstance(error, DBAPIError) and error.connection_invalidated)


class now(GenericFunction[float]):  # noqa: N801  (reads as SQL)
    """Unix seconds, with fraction, by the database's clock: leases and order never depend on a worker's clock."""

    name = "retort_now"
    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def make_engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # we say BEGIN ourselves
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            # A read transaction that later wants to write fails at once under WAL (SQLITE_BUSY_SNAPSHOT), so a session
            # that will write says so at its start; the execution option is set by `transaction`.
            read_only = connection.get_execution_options().get("read_only", False)
            connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

        return engine
    return create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=16, pool_recycle=1800)


def make_sessions(engine: Engine) -> Sessions:
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def transaction(sessions: Sessions) -> Iterator[Session]:
    """Commit at the end of the block, before anyone is answered; roll back on any exception."""
    with sessions.begin() as session:
        yield session


@contextmanager
def reading(sessions: Sessions) -> Iterator[Session]:
    """A snapshot that writes nothing (and, on SQLite, blocks no writer)."""
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        yield session  # closing rolls back, and leaves what was read usable: no session.rollback(), which would expire it
