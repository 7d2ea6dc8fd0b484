"""Claims on trials: one of many gets each, and who falls silent loses what it had."""

import multiprocessing
import time
from pathlib import Path

import pytest

from worker.run.protocol import ENDED, HELPERS, RUNG
from worker.search.claims import OWN, Claims, Rung, show_life

TRIALS = [f"0.5-{n}x8" for n in range(150)]
RUNG_OF_TWO = Rung(0.5, {"1x8": {"layers": 1}, "2x8": {"layers": 2}}, "cpu", 1)


def grab(workdir: Path, who: str, begin: float) -> list[str]:
    claims = Claims(workdir)
    while time.time() < begin:
        pass
    return [trial for trial in TRIALS if claims.take(trial, who)]


def test_of_many_processes_one_gets_each_trial(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        began = [pool.apply_async(grab, (tmp_path, f"hlp_{n}", time.time() + 1.0)) for n in range(4)]
        got = [job.get(30) for job in began]
    assert sorted(trial for part in got for trial in part) == sorted(TRIALS)
    assert not Claims(tmp_path).take(TRIALS[0], OWN)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "a1"
    (folder / "trials").mkdir(parents=True)
    return folder


@pytest.fixture
def claims(workdir: Path, clock: Clock) -> Claims:
    return Claims(workdir, clock)


def helper(workdir: Path, name: str = "hlp_A") -> Path:
    folder = workdir / HELPERS / name
    folder.mkdir(parents=True)
    return folder


def test_lost_after_silence_by_our_own_clock(claims: Claims, clock: Clock, workdir: Path) -> None:
    alive = helper(workdir) / "alive"
    alive.write_text("1000000000")  # whatever it says, only that it changes counts
    claims.take("t", "hlp_A")
    assert not claims.lost("t", 10.0)
    clock.now = 9.0
    assert not claims.lost("t", 10.0)
    alive.write_text("7")
    clock.now = 18.0
    assert not claims.lost("t", 10.0), "heard of since"
    clock.now = 28.0
    assert not claims.lost("t", 10.0)
    clock.now = 28.1
    assert claims.lost("t", 10.0)


def test_lost_at_once_when_its_supervisor_says_so(claims: Claims, workdir: Path) -> None:
    folder = helper(workdir)
    claims.take("t", "hlp_A")
    assert not claims.lost("t", 10.0)
    (folder / ENDED).touch()
    assert claims.lost("t", 10.0)


@pytest.mark.parametrize("who", ["", "hlp_gone", "../../etc"])
def test_a_claim_without_a_helper_to_hear_of_is_lost_in_time(claims: Claims, clock: Clock, workdir: Path, who: str) -> None:
    """Its maker died between making and signing it, or before it gave a sign of life; and a name never leads elsewhere."""
    (workdir / HELPERS).mkdir()
    (workdir.parent / "etc").mkdir()
    (workdir.parent / "etc" / ENDED).touch()
    claims.take("t", who)
    assert not claims.lost("t", 10.0)
    clock.now = 10.1
    assert claims.lost("t", 10.0)


def test_our_own_trial_is_never_lost(claims: Claims, clock: Clock) -> None:
    claims.take("t", OWN)
    assert not claims.lost("t", 10.0)
    clock.now = 1e6
    assert not claims.lost("t", 10.0)


def test_a_rung_is_whole_or_not_there(claims: Claims, workdir: Path) -> None:
    assert claims.rung() is None
    claims.open(RUNG_OF_TWO)
    assert Claims(workdir).rung() == RUNG_OF_TWO
    (workdir / RUNG).write_text('{"share": 0.5}')
    assert claims.rung() is None
    claims.close()
    claims.close()
    assert claims.rung() is None


def test_life_is_shown_until_the_end(tmp_path: Path) -> None:
    ended = show_life(tmp_path, 0.01)
    assert (tmp_path / "alive").exists(), "from the first moment"
    seen = set()
    deadline = time.monotonic() + 5
    while len(seen) < 3 and time.monotonic() < deadline:
        seen.add((tmp_path / "alive").read_text())
        time.sleep(0.005)
    ended.set()
    assert len(seen) >= 3
