"""What is kept is found again, after a kill in the middle of a line too, and only by the same run."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.writing.journal import Journal


def never() -> int:
    raise AssertionError("made anew")


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    first = Journal(tmp_path / "a.jsonl", fingerprint="x")
    assert first.once("one", lambda: [1, "é"]) == [1, "é"]
    assert first.once("two", lambda: None) is None
    again = Journal(tmp_path / "a.jsonl", fingerprint="x")
    assert again.once("one", never) == [1, "é"]
    assert again.once("two", never) is None
    assert again.once("three", lambda: 3) == 3
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 3
    other = Journal(tmp_path / "a.jsonl", fingerprint="y")  # another run
    assert other.once("one", lambda: "new") == "new"


def test_without_a_path_nothing_is_kept() -> None:
    journal = Journal()
    assert [journal.once("one", lambda n=n: n) for n in range(2)] == [0, 1]


def test_earlier_attempts_are_read_and_the_newest_file_is_whole(tmp_path: Path) -> None:
    """A third attempt needs the second's file alone, though the first one made half of it."""
    one, two, three = (tmp_path / name for name in ("1", "2", "3"))
    Journal(one).once("a", lambda: 1)
    second = Journal(two, [one])
    assert second.once("a", never) == 1
    assert second.once("b", lambda: 2) == 2
    third = Journal(three, [two])
    assert [third.once(key, never) for key in "ab"] == [1, 2]
    assert one.read_text().count("\n") == 1


@pytest.mark.parametrize("cut", range(2, 60, 7))
def test_a_line_cut_short_is_made_anew_and_hurts_no_other(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    journal = Journal(path)
    for n in range(3):
        journal.once(str(n), lambda n=n: {"text": "é" * 5, "n": n})
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path)
    assert [again.once(str(n), never)["n"] for n in range(2)] == [0, 1]
    assert again.once("2", lambda: "anew") == "anew"
    assert again.once("3", lambda: "more") == "more"
    last = Journal(path)
    assert [last.once(key, never) for key in "23"] == ["anew", "more"]


@pytest.mark.parametrize("line", ["", "[]", "null", '{"key": 1}', '{"value": 1}', "\x00\x01"])
def test_lines_that_are_none_are_passed_over(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    Journal(path).once("a", lambda: 1)
    path.write_text(line + "\n" + path.read_text())
    assert Journal(path).once("a", never) == 1


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: journal.once(str(n), lambda: "x" * (n % 7 * 1000)), range(200)))
    lines = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 200


def test_a_kill_leaves_what_was_made(tmp_path: Path) -> None:
    code = "import os, sys; from worker.writing.journal import Journal; from pathlib import Path\n"
    code += "journal = Journal(Path(sys.argv[1]))\n"
    code += "for n in range(5): journal.once(str(n), lambda: n)\n"
    code += f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], env=env, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    journal = Journal(tmp_path / "a")
    assert [journal.once(str(n), never) for n in range(5)] == [0, 1, 2, 3, 4]
