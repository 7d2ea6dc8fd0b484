"""What was costly to make, a JSON line each, kept as it comes: whoever resumes finds it again instead of making it anew.

A line is {"key": digest of the run's fingerprint and of what was asked, "value": …}. What is found in the file of an earlier
attempt is copied into this one's, so that the newest file is always whole.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Journal:
    """Without a path nothing is kept. Safe to share between threads."""

    def __init__(self, path: Path | None = None, earlier: Sequence[Path] = (), fingerprint: str = "") -> None:
        self._path, self._fingerprint = path, fingerprint
        self._lock = threading.Lock()
        self._here: set[str] = set()
        self._found: dict[str, Any] = {}
        if path is None:
            return
        for file in (path, *earlier):
            entries = _entries(file)
            if file == path:
                self._here = set(entries)
            self._found = {**entries, **self._found}
        if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):  # cut off in the middle of a line
            self._append("\n")

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What was made under this key before, else what `make` returns: JSON can hold it. Each key is asked for once."""
        digest = hashlib.sha256(f"{self._fingerprint}\0{key}".encode()).hexdigest()
        with self._lock:
            known, value = digest in self._found, self._found.pop(digest, None)
        if not known:
            value = make()
        if digest not in self._here and self._path is not None:
            self._append(json.dumps({"key": digest, "value": value}, ensure_ascii=False) + "\n")
        return value  # type: ignore[no-any-return]

    def _append(self, line: str) -> None:
        assert self._path is not None
        with self._lock, self._path.open("a", encoding="utf-8") as f:
            f.write(line)


def _entries(path: Path) -> dict[str, Any]:
    """The last line may be a part of one."""
    if not path.is_file():
        return {}
    found = {}
    with path.open(encoding="utf-8", errors="replace") as f:
        for line in f:
            try:
                entry = json.loads(line)
                found[str(entry["key"])] = entry["value"]
            except (ValueError, KeyError, TypeError):
                continue
    return found
