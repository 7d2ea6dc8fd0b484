"""The schema's history. `upgrade(url)` is what `retort up`, the containers and the tests run."""

from pathlib import Path

from alembic import command
from alembic.config import Config

HEAD, EMPTY = "head", "base"


def config(url: str) -> Config:
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["url"] = url  # not a main option: a password may hold '%'
    return made


def upgrade(url: str, revision: str = HEAD) -> None:
    """Bring the database to `revision`. Safe to run from several processes at once: they take turns."""
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str) -> None:
    command.downgrade(config(url), revision)
