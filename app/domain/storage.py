"""The blob store: a folder whose keys are made by us (ids and digests), never by a request.

files/<file id>                    an uploaded data set
runs/<job id>/a<attempt>/          what one attempt writes: checkpoints, phase outputs, the packaged result
reports/<job id>/a<attempt>/       the reports of a published attempt; they outlive its work folder
artifacts/<digest>/                a model: files + MANIFEST.json, content-addressed, immutable
cache/                             teacher outputs, shared between jobs
tmp/                               staging on the same file system, so that a rename is atomic
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.domain import manifest
from app.domain.errors import InvalidRequest


def safe_join(root: Path, *parts: str) -> Path:
    """`root/parts…`, or an error when the result would leave `root`."""
    outside = InvalidRequest("That name points outside the store.")
    if any("\0" in p or "\\" in p for p in parts):
        raise outside
    path = root.joinpath(*parts).resolve()
    if not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise outside
    return path


class BlobStore:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("files", "runs", "reports", "artifacts", "cache", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, key: str) -> Path:
        return safe_join(self.root, *key.split("/"))

    def file(self, file_id: str) -> Path:
        return safe_join(self.root / "files", file_id)

    def run(self, job_id: str, attempt: int) -> Path:
        return safe_join(self.root / "runs", job_id, f"a{attempt}")

    def artifact(self, digest: str) -> Path:
        return safe_join(self.root / "artifacts", digest)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A private folder that is gone when the block ends, unless what is in it was renamed away."""
        folder = self.root / "tmp" / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put_artifact(self, folder: Path) -> str:
        """Copy a folder that has a manifest to `artifacts/<digest>` and return the digest. Idempotent; never half there."""
        found = manifest.verify(folder)
        digest = str(found["digest"])
        target = self.artifact(digest)
        if target.exists():
            os.utime(target)  # in use again: the sweep takes only what has been unreferenced for long
            return digest
        with self.staging() as staged:
            copy = staged / "artifact"
            for name in [*found["files"], manifest.NAME]:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(folder / name, copy / name)
            manifest.verify(copy, digest)
            try:
                copy.rename(target)
            except OSError:
                if not target.exists():  # somebody else was first: same content by name
                    raise
        fd = os.open(target.parent, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        return digest

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
