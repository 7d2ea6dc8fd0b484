"""API keys: shape, digest, scopes, the first one; nothing of a key is ever stored."""

import stat
import threading
from pathlib import Path

import pytest

from app.domain.db import Sessions, reading, transaction
from app.domain.errors import AuthenticationError, ExpiredAPIKey, InvalidRequest, NotFound
from app.domain.models import ApiKey
from app.domain.repositories.keys import Keys
from app.services import keys
from app.services.keys import Identity
from app.settings import Settings
from tests.conftest import OTHER_PROJECT, PROJECT

PEPPER = b"pepper-of-the-tests-0123456789"
ADMIN = Identity("key_x", PROJECT, frozenset({"admin"}))


def test_shape_and_checksum() -> None:
    made = {keys.generate() for _ in range(100)}
    assert len(made) == 100
    for key in made:
        assert key.startswith("rt_")
        assert len(key) == 3 + 43 + 6
        assert not keys.mistyped(key)
        swapped = key[:10] + ("a" if key[10] != "a" else "b") + key[11:]
        assert keys.mistyped(swapped)


def test_a_key_opens_its_project_until_it_is_revoked(sessions: Sessions) -> None:
    row, key = keys.create(sessions, PEPPER, ADMIN, name="ci", scopes=["jobs:write"], project_id=None, expires_at=None)
    assert keys.authenticate(sessions, PEPPER, key) == Identity(row.id, PROJECT, frozenset({"jobs:write"}))
    with pytest.raises(AuthenticationError):
        keys.authenticate(sessions, b"another pepper, sixteen", key)
    with transaction(sessions) as session, pytest.raises(NotFound):
        Keys(session).revoke(OTHER_PROJECT, row.id)
    with transaction(sessions) as session:
        Keys(session).revoke(PROJECT, row.id)
    with pytest.raises(AuthenticationError):
        keys.authenticate(sessions, PEPPER, key)


def test_the_key_itself_is_nowhere_in_the_table(sessions: Sessions) -> None:
    _, key = keys.create(sessions, PEPPER, ADMIN, name="ci", scopes=["admin"], project_id=None, expires_at=None)
    with reading(sessions) as session:
        row = session.query(ApiKey).one()
        stored = " ".join(str(getattr(row, column.key)) for column in ApiKey.__table__.columns)
    assert key[10:] not in stored
    assert row.prefix == key[:10]


@pytest.mark.parametrize("key", ["", "rt_", "rt_x", "sk-123", "rt_" + "a" * 49, "rt_" + "a" * 400, "rt_\0", "rt_é" + "x" * 40])
def test_wrong_keys_read_alike(sessions: Sessions, key: str) -> None:
    with pytest.raises(AuthenticationError, match=r"^This API key is not valid\.$"):
        keys.authenticate(sessions, PEPPER, key)


def test_an_expired_key_says_so(sessions: Sessions) -> None:
    with pytest.raises(InvalidRequest, match="past"):
        keys.create(sessions, PEPPER, ADMIN, name="x", scopes=["admin"], project_id=None, expires_at=1.0)
    key = keys.generate()
    with transaction(sessions) as session:
        Keys(session).add(PROJECT, name="x", prefix="", digest=keys.digest(key, PEPPER), scopes=["admin"], expires_at=1.0)
    with pytest.raises(ExpiredAPIKey):
        keys.authenticate(sessions, PEPPER, key)


@pytest.mark.parametrize(
    ("scopes", "may", "may_not"),
    [
        ({"files:read"}, {"files:read"}, {"files:write", "jobs:read", "admin", "inference"}),
        ({"files:write"}, {"files:read", "files:write"}, {"jobs:write", "admin"}),
        ({"jobs:*"}, {"jobs:read", "jobs:write"}, {"files:read", "models:read", "admin"}),
        ({"inference"}, {"inference"}, {"models:read", "jobs:read"}),
        ({"admin"}, {*keys.SCOPES}, set()),
        (set(), set(), {*keys.SCOPES}),
    ],
)
def test_scopes(scopes: set[str], may: set[str], may_not: set[str]) -> None:
    identity = Identity("key_x", PROJECT, frozenset(scopes))
    assert {s for s in keys.SCOPES if identity.may(s)} >= may
    assert not {s for s in may_not if identity.may(s)}


@pytest.mark.parametrize("scopes", [[], ["everything"], ["files"], ["*"], ["admin:*"]])
def test_unknown_scopes_are_refused(scopes: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="scope"):
        keys.check_scopes(scopes)


def test_the_first_key_is_made_once_and_kept_private(sessions: Sessions, settings: Settings) -> None:
    bare = settings.model_copy(update={"pepper": ""})
    made = keys.ensure_bootstrap(sessions, bare)
    assert made is not None
    assert keys.ensure_bootstrap(sessions, bare) is None
    assert (bare.data_dir / "key").read_text().strip() == made
    for name in ("key", "pepper"):
        assert stat.S_IMODE((bare.data_dir / name).stat().st_mode) == 0o600
    identity = keys.authenticate(sessions, keys.load_pepper(bare), made)
    assert identity.scopes == {"admin"}


def test_the_key_of_the_operator_is_taken_and_stays_revoked(sessions: Sessions, settings: Settings) -> None:
    given = settings.model_copy(update={"bootstrap_key": "rt_" + "k" * 40})
    assert keys.ensure_bootstrap(sessions, given) is None
    identity = keys.authenticate(sessions, keys.load_pepper(given), given.bootstrap_key)
    with transaction(sessions) as session:
        Keys(session).revoke(identity.project_id, identity.key_id)
    assert keys.ensure_bootstrap(sessions, given) is None
    with pytest.raises(AuthenticationError):
        keys.authenticate(sessions, keys.load_pepper(given), given.bootstrap_key)


@pytest.mark.parametrize("key", ["secret", "rt_short", "sk-" + "x" * 40])
def test_a_weak_bootstrap_key_is_refused(sessions: Sessions, settings: Settings, key: str) -> None:
    with pytest.raises(InvalidRequest, match="RETORT_BOOTSTRAP_KEY"):
        keys.ensure_bootstrap(sessions, settings.model_copy(update={"bootstrap_key": key}))


def test_processes_that_start_together_agree(sessions: Sessions, settings: Settings) -> None:
    given = settings.model_copy(update={"bootstrap_key": "rt_" + "k" * 40, "pepper": ""})
    failures: list[BaseException] = []

    def start() -> None:
        try:
            keys.ensure_bootstrap(sessions, given)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert keys.authenticate(sessions, keys.load_pepper(given), given.bootstrap_key).scopes == {"admin"}


def test_a_pepper_is_long_and_made_once(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="RETORT_PEPPER"):
        keys.load_pepper(settings.model_copy(update={"pepper": "short"}))
    bare = settings.model_copy(update={"pepper": "", "data_dir": tmp_path / "fresh"})
    first = keys.load_pepper(bare)
    assert len(first) == 64
    assert keys.load_pepper(bare) == first
