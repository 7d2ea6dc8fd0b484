"""Teacher outputs labelled once: shards of tensors, read through the page cache, shared by epochs, stages, attempts and jobs.

    <cache>/<fingerprint>/shard-00007.<kind>.safetensors      ids (n,) · hashes (n,) · starts (n + 1,) · values (rows of it, width)

Sequences lie in the order of their lengths, so that what is asked together is padded little.
kinds: `logits` (a row per sequence, or per position that counts) · `embedding` · `h3` (hidden state 3, a row per token, float16).
The fingerprint covers the teacher and every row's tokens, so a shard found under it is the right one; ids, hashes and the digest
of the values are checked all the same. Beside them stands how many seconds asking took. A shard appears by rename: a crash costs at
most one, a resume asks for the missing ones.
"""

import hashlib
import os
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from app.domain import manifest
from app.domain.errors import CacheMismatch
from worker.rows import Rows
from worker.run.faults import Failpoint, hit

SHARD_ROWS = 256
Ask = Callable[[Rows, Sequence[str]], dict[str, tuple[Tensor, list[int]]]]  # kind → (values, rows of it per sequence)
_WEIGHTS = ("config.json", "tokenizer.json", "vocab.txt", "merges.txt", "spiece.model")
_IN_USE_SECONDS = 3600.0


def model_digest(folder: Path) -> str:
    """Of everything that decides a model's answers: weights, configuration, tokenizer."""
    files = [p for p in sorted(folder.iterdir()) if p.name in _WEIGHTS or p.suffix == ".safetensors"]
    return hashlib.sha256("\n".join(f"{p.name}:{manifest.sha256_file(p)}" for p in files).encode()).hexdigest()


def fingerprint(teacher: str, rows: Rows) -> str:
    digest = hashlib.sha256(teacher.encode())
    for row_id, value in zip(rows.ids, _hashes(rows), strict=True):
        digest.update(struct.pack("<qq", row_id, value))
    return digest.hexdigest()


@dataclass
class Labelled:
    """Sequences that were asked and those that the cache knew; `seconds_saved` is what asking the latter took when it was done."""

    asked: int = 0
    reused: int = 0
    seconds_saved: float = 0.0

    def __add__(self, other: "Labelled") -> "Labelled":
        return Labelled(self.asked + other.asked, self.reused + other.reused, self.seconds_saved + other.seconds_saved)


def label(
    ask: Ask, key: str, kinds: Sequence[str], rows: Rows, cache: Path, stop: Callable[[], None], tell: Callable[[int], None]
) -> Labelled:
    """Ask for every kind of every row that is not in the cache yet; `rows` are plain sequences."""
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "USED").write_text(str(time.time()))
    done, order = Labelled(), _order(rows)
    for number, start in enumerate(range(0, len(rows), SHARD_ROWS)):
        part = rows.only(order[start : start + SHARD_ROWS])
        known = {kind: _good(folder / _name(number, kind), part) for kind in kinds}
        if missing := [kind for kind, told in known.items() if told is None]:
            stop()
            began = time.monotonic()
            answered = ask(part, missing)
            seconds = time.monotonic() - began
            for kind, (values, counts) in answered.items():
                _write(folder / _name(number, kind), part, values, counts, seconds)
            done += Labelled(asked=len(part))
        else:  # kinds come out of one pass of the teacher: asking for all of them costs about as much as for the dearest
            done += Labelled(reused=len(part), seconds_saved=max(_seconds(told) for told in known.values()))
        tell(start + len(part))
    return done


class Kept:
    """The cached outputs of one teacher for one set of rows. Small kinds are held in memory, hidden states are read in slices."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        order = _order(rows)
        self._folder, self._rows = folder, rows.only(order)  # as they lie in the shards
        self._place = {i: place for place, i in enumerate(order)}
        self._shards = -(-len(rows) // SHARD_ROWS)
        self._whole: dict[str, tuple[Tensor, list[int]]] = {}
        self._open: dict[str, list[Any]] = {}
        self._starts: dict[str, list[list[int]]] = {}

    def take(self, kind: str, which: Sequence[int]) -> list[Tensor]:
        """For each of these sequences its rows of the kind: (1, C) logits, (T, D) hidden states, …"""
        places = [self._place[i] for i in which]
        if kind[0] == "h":
            return self._slices(kind, places)
        if kind not in self._whole:
            values, starts = [], [0]
            for shard in self._opened(kind):
                values.append(shard.get_tensor("values"))
                starts += [starts[-1] + n for n in shard.get_tensor("starts").diff().cumsum(0).tolist()]
            self._whole[kind] = torch.cat(values), starts
        whole, starts = self._whole[kind]
        return [whole[starts[i] : starts[i + 1]] for i in places]

    def rows(self, kind: str, which: Sequence[int]) -> Tensor:
        """Of all these sequences together; one gather when each has a single row."""
        self.take(kind, which[:1])
        if kind[0] != "h" and len(self._whole[kind][0]) == len(self._rows):
            return self._whole[kind][0][torch.tensor([self._place[i] for i in which])]
        return torch.cat(self.take(kind, which))

    def _slices(self, kind: str, which: Sequence[int]) -> list[Tensor]:
        shards, found = self._opened(kind), []
        for i in which:
            number, place = divmod(i, SHARD_ROWS)
            a, b = self._starts[kind][number][place : place + 2]
            found.append(shards[number].get_slice("values")[a:b])
        return found

    def _opened(self, kind: str) -> list[Any]:
        if kind in self._open:
            return self._open[kind]
        shards, ids, hashes = [], [], []
        try:
            for number in range(self._shards):
                shard: Any = safe_open(self._folder / _name(number, kind), framework="pt").__enter__()  # type: ignore[no-untyped-call]
                shards.append(shard)
                ids += shard.get_tensor("ids").tolist()
                hashes += shard.get_tensor("hashes").tolist()
                self._starts.setdefault(kind, []).append(shard.get_tensor("starts").tolist())
        except (OSError, SafetensorError) as error:
            raise CacheMismatch(
                f"The teacher's cached outputs ({kind}) are gone or damaged.", hint="Submit the job again: it labels the rows anew."
            ) from error
        if ids != self._rows.ids or hashes != _hashes(self._rows):
            raise CacheMismatch(
                f"{len(ids)} cached teacher outputs do not belong to the {len(self._rows)} rows.",
                hint="Submit the job again: it labels the rows anew.",
            )
        self._open[kind] = shards
        return shards


def trim(cache: Path, limit: int, keep: set[str]) -> None:
    """Remove the least recently used folders until the cache is within `limit` bytes; none of `keep`, none used just now."""
    folders = [f for f in cache.iterdir() if f.is_dir()] if cache.is_dir() else []
    sizes = {f: sum(p.stat().st_size for p in f.rglob("*") if p.is_file()) for f in folders}
    total = sum(sizes.values())
    for folder in sorted(folders, key=_used):
        if total <= limit or folder.name in keep or time.time() - _used(folder) < _IN_USE_SECONDS:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        total -= sizes[folder]


def _used(folder: Path) -> float:
    mark = folder / "USED"
    return mark.stat().st_mtime if mark.exists() else folder.stat().st_mtime


def _order(rows: Rows) -> list[int]:
    """Sequences by length, equal ones as they came: a function of the rows alone."""
    return sorted(range(len(rows)), key=lambda i: len(rows.tokens[i]))


def _name(number: int, kind: str) -> str:
    return f"shard-{number:05d}.{kind}.safetensors"


def _write(path: Path, rows: Rows, values: Tensor, counts: list[int], seconds: float) -> None:
    staged = path.with_suffix(f".tmp-{secrets.token_hex(8)}")  # the same rows may be asked for on several hosts at once
    starts = torch.zeros(len(counts) + 1, dtype=torch.int64)
    torch.cumsum(torch.tensor(counts), 0, out=starts[1:])
    tensors = {
        "ids": torch.tensor(rows.ids),
        "hashes": torch.tensor(_hashes(rows)),
        "starts": starts,
        "values": values.contiguous(),
    }
    save_file(tensors, staged, {"sha256": _digest(tensors["values"]), "seconds": f"{seconds:.6f}"})
    with staged.open("rb") as f:
        os.fsync(f.fileno())
    hit(Failpoint.SHARD_WRITTEN)
    staged.rename(path)
    hit(Failpoint.SHARD_RENAMED)


def _good(path: Path, rows: Rows) -> dict[str, str] | None:
    """What stands beside the values of a shard that holds these rows undamaged."""
    try:
        with safe_open(path, framework="pt") as shard:
            told: dict[str, str] = shard.metadata() or {}
            same = shard.get_tensor("ids").tolist() == rows.ids and shard.get_tensor("hashes").tolist() == _hashes(rows)
            return told if same and told.get("sha256") == _digest(shard.get_tensor("values")) else None
    except (OSError, SafetensorError):
        return None


def _seconds(told: dict[str, str] | None) -> float:
    """0 where it was not written down, as by earlier releases."""
    try:
        found = float((told or {}).get("seconds", 0.0))
    except ValueError:
        return 0.0
    return found if 0 <= found < 1e9 else 0.0


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def _hashes(rows: Rows) -> list[int]:
    """Of a sequence's tokens, and of where its second text begins."""
    seconds = rows.second or [-1] * len(rows)
    packed = (struct.pack(f"<{len(row) + 1}i", *row, second) for row, second in zip(rows.tokens, seconds, strict=True))
    return [int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True) for data in packed]
