"""MANIFEST.json: size and sha256 of every file of a folder. The digest over it is the folder's identity."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from app.domain.errors import ArtifactCorrupt

NAME = "MANIFEST.json"


def sha256_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(files: dict[str, dict[str, Any]]) -> str:
    """Identity of the content: independent of time, place and attempt."""
    lines = "".join(f"{name}\0{files[name]['bytes']}\0{files[name]['sha256']}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def build(folder: Path, **extra: Any) -> dict[str, Any]:
    """Describe every regular file below `folder`; links are refused."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ArtifactCorrupt(f"{path.relative_to(folder)} is a link; artifacts hold plain files only.")
        if path.is_file() and path.name != NAME:
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return {"format": 1, "digest": digest(files), "files": files, **extra}


def write(folder: Path, **extra: Any) -> dict[str, Any]:
    """Write the manifest last, atomically: a folder without one is unfinished. Every file is fsynced first."""
    manifest = build(folder, **extra)
    for name in manifest["files"]:
        _fsync(folder / name)
    temporary = folder / (NAME + ".tmp")
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True))
    _fsync(temporary)
    temporary.rename(folder / NAME)
    _fsync(folder)
    return manifest


def read(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / NAME).read_text())
        if not isinstance(manifest, dict) or digest(manifest["files"]) != manifest["digest"]:
            raise ValueError("digest does not match")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"No valid {NAME} in {folder.name}: {error}") from error
    return manifest


def verify(folder: Path, expected_digest: str | None = None) -> dict[str, Any]:
    """Read the manifest and check every file against it; raises ArtifactCorrupt with the first file that differs."""
    manifest = read(folder)
    if expected_digest is not None and manifest["digest"] != expected_digest:
        raise ArtifactCorrupt(f"Folder {folder.name} holds {manifest['digest'][:12]}, expected {expected_digest[:12]}.")
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or path.is_symlink():
            raise ArtifactCorrupt(f"'{name}' points outside its folder.")
        if not path.is_file() or path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            raise ArtifactCorrupt(f"'{name}' does not match its manifest entry.")
    return manifest


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
