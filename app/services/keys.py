"""API keys: made, digested, looked up. A key is `rt_`, 43 random characters (256 bits) and 6 of checksum, base62.

The table holds HMAC-SHA-256(pepper, key): as strong as the key's own 256 bits, and fast enough to do on every request.
"""

import hashlib
import hmac
import os
import secrets
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.domain.db import Sessions, reading, transaction
from app.domain.errors import AuthenticationError, ExpiredAPIKey, InvalidRequest
from app.domain.models import ApiKey
from app.domain.repositories.keys import Keys
from app.domain.repositories.projects import DEFAULT, Projects

PREFIX = "rt_"
SCOPES = (
    "files:read",
    "files:write",
    "jobs:read",
    "jobs:write",
    "models:read",
    "models:write",
    "inference",
    "admin",
)
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM, _CHECK = 43, 6
_LEAST_PEPPER, _LEAST_KEY = 16, 32
_SHOWN = 10  # characters of a key that lists show


class Installation(Protocol):
    """The settings that keys need."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def pepper(self) -> str: ...
    @property
    def bootstrap_key(self) -> str: ...


@dataclass(frozen=True)
class Identity:
    key_id: str
    project_id: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """`admin` may all; `files:*` may all of files; writing includes reading."""
        group, _, verb = scope.partition(":")
        return bool(self.scopes & {"admin", scope, f"{group}:*"}) or (verb == "read" and f"{group}:write" in self.scopes)


def generate() -> str:
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return PREFIX + body + _checksum(body)


def mistyped(key: str) -> bool:
    """True for a key of our own making whose checksum is wrong: no need to ask the database."""
    body = key.removeprefix(PREFIX)
    own = len(body) == _RANDOM + _CHECK and all(c in _ALPHABET for c in body)
    return own and not hmac.compare_digest(_checksum(body[:_RANDOM]), body[_RANDOM:])


def _checksum(body: str) -> str:
    number, out = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_ALPHABET))
        out += _ALPHABET[digit]
    return out


def digest(key: str, pepper: bytes) -> str:
    return hmac.new(pepper, key.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def load_pepper(settings: Installation) -> bytes:
    """The setting, else the one kept in the data folder, made on first use (0600)."""
    if settings.pepper:
        if len(settings.pepper) < _LEAST_PEPPER:
            raise InvalidRequest(
                f"RETORT_PEPPER has fewer than {_LEAST_PEPPER} characters.", hint="openssl rand -hex 32 makes a good one."
            )
        return settings.pepper.encode()
    path = settings.data_dir / "pepper"
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = path.with_name(f".pepper.{secrets.token_hex(8)}")
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(secrets.token_hex(32))
    with suppress(FileExistsError):
        os.link(staged, path)  # whoever is first decides; nobody overwrites
    staged.unlink()
    return path.read_text().strip().encode()


def authenticate(sessions: Sessions, pepper: bytes, key: str) -> Identity:
    """Raises AuthenticationError. All ways to fail read alike, but for a key of ours that has expired."""
    wrong = AuthenticationError("This API key is not valid.", hint="Check the key; `retort keys create` makes a new one.")
    if not key.startswith(PREFIX) or len(key) > 200 or mistyped(key):
        raise wrong
    hashed = digest(key, pepper)
    with reading(sessions) as session:
        row = Keys(session).by_digest(hashed)
    if row is None or not hmac.compare_digest(row.digest, hashed) or row.revoked_at is not None:
        raise wrong
    if row.expires_at is not None and row.expires_at <= time.time():
        raise ExpiredAPIKey("This API key has expired.", hint="`retort keys create` makes a new one.")
    return Identity(row.id, row.project_id, frozenset(row.scopes))


def create(
    sessions: Sessions,
    pepper: bytes,
    maker: Identity,
    *,
    name: str,
    scopes: Sequence[str] | None,
    project_id: str | None,
    expires_at: float | None,
) -> tuple[ApiKey, str]:
    """(row, the key itself, which is never seen again). Without scopes: those of its maker."""
    wanted = check_scopes(scopes if scopes is not None else sorted(maker.scopes))
    if expires_at is not None and expires_at <= time.time():
        raise InvalidRequest(
            "'expires_at' lies in the past.", param="expires_at", hint="Give Unix seconds in the future, or leave it out."
        )
    key = generate()
    with transaction(sessions) as session:
        owner = project_id or maker.project_id
        if project_id is not None:
            Projects(session).get(project_id)
        row = Keys(session).add(
            owner, name=name, prefix=key[:_SHOWN], digest=digest(key, pepper), scopes=wanted, expires_at=expires_at
        )
    return row, key


def check_scopes(scopes: Sequence[str]) -> list[str]:
    groups = {scope.partition(":")[0] + ":*" for scope in SCOPES if ":" in scope}
    for n, scope in enumerate(scopes):
        if scope not in SCOPES and scope not in groups:
            raise InvalidRequest(
                f"Unknown scope '{scope[:40]}'.", param=f"scopes[{n}]", hint="Scopes: " + ", ".join([*SCOPES, *sorted(groups)])
            )
    if not scopes:
        raise InvalidRequest("A key needs a scope.", param="scopes", hint="Scopes: " + ", ".join(SCOPES))
    return sorted(set(scopes))


def ensure_bootstrap(sessions: Sessions, settings: Installation) -> str | None:
    """The default project, and the first admin key: RETORT_BOOTSTRAP_KEY when set, else one made and returned just once.

    Safe to call from every process at every start. A bootstrap key that was revoked stays revoked.
    """
    pepper = load_pepper(settings)
    given = settings.bootstrap_key
    if given and (not given.startswith(PREFIX) or len(given) < _LEAST_KEY):
        raise InvalidRequest(
            f"RETORT_BOOTSTRAP_KEY must start with '{PREFIX}' and have at least {_LEAST_KEY} characters.",
            hint="`retort up` makes one when none is set.",
        )
    made = None
    with transaction(sessions) as session:
        project, keys = Projects(session).ensure(DEFAULT), Keys(session)
        if not given and not keys.page(project.id, 1, None, None, "desc")[0]:
            given = made = generate()
        if given and keys.by_digest(digest(given, pepper)) is None:
            keys.add(project.id, name="bootstrap", prefix=given[:_SHOWN], digest=digest(given, pepper), scopes=["admin"])
    if made is not None:
        _keep(settings.data_dir / "key", made)
    return made


def _keep(path: Path, key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(key + "\n")
    staged.replace(path)
