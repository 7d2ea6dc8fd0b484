"""A data folder as `retort up` keeps it, and how the `retort` command finds the server that runs on one.

retort.db  blobs/  logs/      database, blob store, output of the child processes
lock                          held by the running `retort up`
key                           the first admin key (0600), for the `retort` command
server.json                   {"url", "pid"} of the running `retort up`
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class OperatorError(Exception):
    """Something the person at the terminal can mend; `hint` says how."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def write_private(path: Path, text: str) -> None:
    """Atomically, readable by the owner alone from its first byte on."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as out:
        out.write(text)
    staged.replace(path)


class Installation:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key_file = folder / "key"
        self.server_file = folder / "server.json"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One `retort up` per data folder; the kernel frees the lock whatever way it ends."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self.folder / "lock").open("a")
        except OSError as error:
            raise OperatorError(
                f"The data folder {self.folder} cannot be used: {error.strerror}.", "Name another: --data DIR."
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                running = self.server()
                where = f" at {running['url']} (process {running['pid']})" if running else ""
                raise OperatorError(
                    f"A Retort already runs on the data folder {self.folder}{where}.",
                    "Use it, end it first, or start this one with another --data DIR.",
                ) from None
            try:
                yield
            finally:
                self.server_file.unlink(missing_ok=True)

    def key(self) -> str | None:
        try:
            return self.key_file.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def first_key(self, given: str, make: Callable[[], str]) -> tuple[str, bool]:
        """The admin key to start with, and whether it was made just now (and so must be shown)."""
        known = self.key()
        key = given or known or make()
        if key != known:
            write_private(self.key_file, key + "\n")
        return key, not given and not known

    def announce(self, url: str) -> None:
        write_private(self.server_file, json.dumps({"url": url, "pid": os.getpid()}) + "\n")
        with suppress(OSError, RuntimeError):  # a convenience for shells in other folders; nothing depends on it
            _pointer().parent.mkdir(parents=True, exist_ok=True)
            write_private(_pointer(), f"{self.folder.resolve()}\n")

    def server(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.server_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) and {"url", "pid"} <= found.keys() else None


def _pointer() -> Path:
    return Path.home() / ".cache" / "retort" / "last-data-folder"


def find_folder(folder: Path, *, anywhere: bool) -> Path:
    """`folder` when an installation is there; with `anywhere` else the one that was started last."""
    candidates = [folder]
    if anywhere:
        with suppress(OSError, RuntimeError):
            candidates.append(Path(_pointer().read_text(encoding="utf-8").strip()))
    found = next((c for c in candidates if Installation(c).key()), None)
    if found is None:
        raise OperatorError(
            f"There is no Retort installation in {folder}.", "Name its folder with --data DIR; `retort up` makes one."
        )
    return found


def find_server(folder: Path, *, anywhere: bool) -> tuple[str, str]:
    """(base URL, key) of the `retort up` that runs on `folder`; with `anywhere` else of the one that was started last."""
    hint = "Start one with `retort up`, name its folder with --data DIR, or set RETORT_BASE_URL and RETORT_API_KEY."
    try:
        home = Installation(find_folder(folder, anywhere=anywhere))
    except OperatorError as error:
        raise OperatorError(error.message, hint) from None
    server, key = home.server(), home.key()
    if not server or not key:
        raise OperatorError(f"No Retort runs on {home.folder}.", hint)
    return str(server["url"]), key
