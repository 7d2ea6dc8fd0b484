"""What teachers said: kept once, found again by fingerprint, whatever was damaged asked anew, nothing foreign read."""

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.domain.errors import CacheMismatch
from worker.answers import cache
from worker.answers.cache import SHARD_ROWS, Kept
from worker.rows import Rows

KINDS = ["logits", "embedding", "h1"]


def rows(count: int = 2 * SHARD_ROWS + 10, seed: int = 0) -> Rows:
    chance = random.Random(seed)
    tokens = [[chance.randrange(5, 90) for _ in range(chance.randint(2, 12))] for _ in range(count)]
    return Rows([7 * n for n in range(count)], tokens, [0] * count, 0)


class Teacher:
    """Says of every sequence what its tokens alone decide; counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.padding = 0

    def __call__(self, part: Rows, kinds: Sequence[str]) -> dict[str, tuple[Tensor, list[int]]]:
        self.asked += len(part)
        self.padding += max(map(len, part.tokens)) * len(part) - sum(map(len, part.tokens))
        said = {}
        for kind in kinds:
            parts = [value(kind, row) for row in part.tokens]
            said[kind] = (torch.cat(parts), [len(p) for p in parts])
        return said


def value(kind: str, tokens: list[int]) -> Tensor:
    seen = torch.tensor(tokens, dtype=torch.float32)
    return torch.stack([seen.sum(), seen.max()])[None] if kind[0] != "h" else torch.stack([seen, seen + 1], 1).half()


def labelled(folder: Path, given: Rows, kinds: Sequence[str] = KINDS, key: str = "key") -> Teacher:
    teacher = Teacher()
    cache.label(teacher, key, kinds, given, folder, lambda: None, lambda _: None)
    return teacher


def test_every_row_gets_its_own_answer(tmp_path: Path) -> None:
    given = rows()
    labelled(tmp_path, given)
    kept = Kept(tmp_path / "key", given)
    which = random.Random(1).sample(range(len(given)), 40)
    for kind in KINDS:
        wanted = [value(kind, given.tokens[i]) for i in which]
        for found, expected in zip(kept.take(kind, which), wanted, strict=True):
            assert torch.equal(found, expected)
        assert torch.equal(kept.rows(kind, which), torch.cat(wanted))


def test_what_is_known_is_not_asked_again(tmp_path: Path) -> None:
    given = rows()
    assert labelled(tmp_path, given, ["logits"]).asked == len(given)
    assert labelled(tmp_path, given, ["logits"]).asked == 0
    assert labelled(tmp_path, given, ["logits", "h1"]).asked == len(given), "one more kind of answer"
    assert labelled(tmp_path, given, KINDS[:1]).asked == 0


def test_rows_are_asked_beside_rows_of_their_length(tmp_path: Path) -> None:
    given = rows()
    padding = labelled(tmp_path, given).padding
    assert padding < 0.5 * sum(map(len, given.tokens))


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_shard_alone_is_asked_again(damage: str, tmp_path: Path) -> None:
    given = rows()
    labelled(tmp_path, given, ["logits"])
    shard = tmp_path / "key" / "shard-00001.logits.safetensors"
    content = bytearray(shard.read_bytes())
    if damage == "gone":
        shard.unlink()
    else:
        content = content[: len(content) // 2] if damage == "cut" else content
        content[-3] ^= 0x40
        shard.write_bytes(content)
    assert labelled(tmp_path, given, ["logits"]).asked == SHARD_ROWS
    assert labelled(tmp_path, given, ["logits"]).asked == 0


def test_answers_to_other_rows_are_refused(tmp_path: Path) -> None:
    labelled(tmp_path, rows())
    with pytest.raises(CacheMismatch, match="do not belong"):
        Kept(tmp_path / "key", rows(seed=1)).take("logits", [0])
    with pytest.raises(CacheMismatch, match="gone or damaged"):
        Kept(tmp_path / "key", rows()).take("h2", [0])
    shard = tmp_path / "key" / "shard-00000.logits.safetensors"
    swapped = load_file(shard)
    swapped["hashes"] = swapped["hashes"].flip(0)
    save_file(swapped, shard)
    with pytest.raises(CacheMismatch):
        Kept(tmp_path / "key", rows()).take("logits", [0])


def test_another_teacher_or_row_is_another_fingerprint() -> None:
    first = cache.fingerprint("a", rows())
    assert first == cache.fingerprint("a", rows())
    assert first != cache.fingerprint("b", rows())
    changed = rows()
    changed.tokens[3][0] += 1
    assert first != cache.fingerprint("a", changed)


def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(tmp_path: Path) -> None:
    given = rows(40)
    for key, age in {"old": 2e5, "older": 3e5, "mine": 4e5, "fresh": 0}.items():
        labelled(tmp_path, given, ["logits"], key)
        stamp = time.time() - age
        os.utime(tmp_path / key / "USED", (stamp, stamp))
    size = sum(p.stat().st_size for p in (tmp_path / "old").iterdir())
    cache.trim(tmp_path, int(3.5 * size), {"mine"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "mine", "old"]
    cache.trim(tmp_path, 0, {"mine"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "mine"]


def test_what_the_cache_saves_is_what_asking_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(cache.time, "monotonic", lambda: float(next(clock)))  # every question takes two seconds
    given = rows()

    def ask(kinds: Sequence[str]) -> cache.Labelled:
        return cache.label(Teacher(), "key", kinds, given, tmp_path, lambda: None, lambda _: None)

    assert ask(["logits", "h1"]) == cache.Labelled(asked=len(given))
    assert ask(["logits", "h1"]) == cache.Labelled(reused=len(given), seconds_saved=6.0), "three shards, one pass for both kinds"
    assert ask(["h1"]) == cache.Labelled(reused=len(given), seconds_saved=6.0)
    (tmp_path / "key" / "shard-00001.logits.safetensors").unlink()
    assert ask(["logits", "h1"]) == cache.Labelled(SHARD_ROWS, len(given) - SHARD_ROWS, 4.0)
    for shard in (tmp_path / "key").glob("*.safetensors"):  # as an earlier release wrote it, or with a figure that is none
        with safe_open(shard, "pt") as file:
            told = file.metadata()
        without = {"seconds": "nan"} if "00000" in shard.name else {}
        save_file(load_file(shard), shard, {"sha256": told["sha256"], **without})
    assert ask(["logits", "h1"]) == cache.Labelled(reused=len(given)), "it is good, and says nothing of time"
