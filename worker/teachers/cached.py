"""Teacher outputs labelled once: memory-mapped shards, shared by epochs, stages, attempts and jobs.

    <cache>/<fingerprint>/shard-00007.safetensors      ids (n,) int64 · hashes (n,) int64 · logits (n, C) float32

The fingerprint covers the teacher and every row's tokens, so a shard found under it is the right one; ids and hashes are
checked all the same. A shard appears by rename: a crash costs at most one, and a resume asks only for the missing ones.
"""

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from app.domain.errors import CacheMismatch
from worker.rows import Rows
from worker.run.faults import Failpoint, hit
from worker.teachers.base import Teacher

SHARD_ROWS = 256


def fingerprint(teacher: Teacher, rows: Rows) -> str:
    digest = hashlib.sha256(teacher.fingerprint().encode())
    for row_id, value in zip(rows.ids, _hashes(rows), strict=True):
        digest.update(struct.pack("<qq", row_id, value))
    return digest.hexdigest()


def label(
    teacher: Teacher, rows: Rows, cache: Path, stop: Callable[[], None], tell: Callable[[int], None], key: str | None = None
) -> tuple[str, list[str]]:
    """Ask the teacher for every row that is not in the cache yet. Returns the fingerprint and the shard names in order."""
    key = key or fingerprint(teacher, rows)
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = []
    for number, start in enumerate(range(0, len(rows), SHARD_ROWS)):
        part = rows.only(range(start, min(start + SHARD_ROWS, len(rows))))
        path = folder / f"shard-{number:05d}.safetensors"
        names.append(path.name)
        if not _good(path, part):
            stop()
            _write(path, part, teacher.logits(part))
        tell(start + len(part))
    return key, names


def read(folder: Path, names: list[str], rows: Rows) -> Tensor:
    """(N, C) logits for `rows` in their order; raises CacheMismatch when they belong to other rows."""
    parts, ids, hashes = [], [], []
    for name in names:
        with safe_open(folder / name, framework="pt") as shard:  # memory-mapped
            parts.append(shard.get_tensor("logits"))
            ids += shard.get_tensor("ids").tolist()
            hashes += shard.get_tensor("hashes").tolist()
    if ids != rows.ids or hashes != _hashes(rows):
        raise CacheMismatch(
            f"{len(ids)} cached teacher outputs do not belong to the {len(rows)} training rows.",
            hint="Submit the job again: it labels the rows anew.",
        )
    return torch.cat(parts)


def _write(path: Path, rows: Rows, logits_NC: Tensor) -> None:
    staged = path.with_suffix(f".tmp-{os.getpid()}")
    tensors = {
        "ids": torch.tensor(rows.ids, dtype=torch.int64),
        "hashes": torch.tensor(_hashes(rows), dtype=torch.int64),
        "logits": logits_NC.float().contiguous(),
    }
    save_file(tensors, staged)
    with staged.open("rb") as f:
        os.fsync(f.fileno())
    hit(Failpoint.SHARD_WRITTEN)
    staged.rename(path)
    hit(Failpoint.SHARD_RENAMED)


def _good(path: Path, rows: Rows) -> bool:
    try:
        with safe_open(path, framework="pt") as shard:
            same = shard.get_tensor("ids").tolist() == rows.ids and shard.get_tensor("hashes").tolist() == _hashes(rows)
            return same and len(shard.get_tensor("logits")) == len(rows)
    except (OSError, SafetensorError):
        return False


def _hashes(rows: Rows) -> list[int]:
    packed = (struct.pack(f"<{len(row)}i", *row) for row in rows.tokens)
    return [int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True) for data in packed]
