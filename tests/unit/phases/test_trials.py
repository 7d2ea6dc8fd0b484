"""How a job's own child goes through a rung: along with others, after them, without them. Training itself is a stand-in."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app.domain.errors import InvalidRequest
from worker.phases.base import StopRequested
from worker.phases.trials import Trials, _until_over, assist
from worker.run.protocol import ENDED, HELPERS, TrialsEvent
from worker.search.claims import OWN, Claims, Rung

STUDENTS = {name: {"layers": n} for n, name in enumerate(["1x8", "2x8", "3x8"], 1)}


class StandIn(Trials):
    """A trial is trained by writing down that it was; its quality is its number of layers."""

    def __init__(self, workdir: Path) -> None:
        self.events: list[int] = []
        self.told: list[str] = []
        self.trained: list[str] = []
        self.finished: dict[str, float] = {}  # by anybody
        request = SimpleNamespace(device="cpu", lease_seconds=0.6)
        self.job: Any = SimpleNamespace(workdir=workdir, request=request, stop=lambda: None, emit=self.hear)
        self.home, self.tell = workdir, self.told.append
        self.claims = Claims(workdir)
        self.lease_seconds, self._told, self._called = 0.6, 0.0, 0
        (workdir / "trials").mkdir()

    def hear(self, event: TrialsEvent) -> None:
        self.events.append(event.count)

    def quality(self, name: str, share: float) -> float | None:
        return self.finished.get(name)

    def train(self, name: str, student: dict[str, Any], share: float) -> None:
        self.trained.append(name)
        self.finished[name] = float(student["layers"])

    def _labelled_first(self, name: str, student: dict[str, Any], share: float) -> None:
        assert self.claims.rung() is None, "before anybody is called"

    def through(self, late: bool = False) -> dict[str, float | None]:
        found = dict(self.rung(STUDENTS, 0.5, lambda: late))
        assert self.claims.rung() is None, "closed"
        return found


@pytest.fixture
def search(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


@pytest.fixture
def threads() -> Iterator[list[threading.Thread]]:
    made: list[threading.Thread] = []
    yield made
    for thread in made:
        thread.join(10)


def test_alone_it_trains_everything_in_order(search: StandIn) -> None:
    assert search.through() == {"1x8": 1.0, "2x8": 2.0, "3x8": 3.0}
    assert search.trained == ["1x8", "2x8", "3x8"]
    assert search.events == [2, 0]


def test_what_is_known_is_not_trained_and_one_alone_calls_nobody(search: StandIn) -> None:
    search.finished |= {"1x8": 0.5, "3x8": 0.6}
    assert search.through() == {"1x8": 0.5, "2x8": 2.0, "3x8": 0.6}
    assert search.trained == ["2x8"]
    assert search.events == []


def test_it_waits_for_what_a_helper_trains(search: StandIn, tmp_path: Path, threads: list[threading.Thread]) -> None:
    folder = tmp_path / HELPERS / "hlp_A"
    folder.mkdir(parents=True)

    def help_along() -> None:
        for n in range(12):  # longer than the lease, but never silent
            (folder / "alive").write_text(str(n))
            time.sleep(0.1)
        search.finished["3x8"] = 33.0

    search.claims.take("0.5-3x8", "hlp_A")
    threads.append(threading.Thread(target=help_along))
    threads[0].start()
    assert search.through() == {"1x8": 1.0, "2x8": 2.0, "3x8": 33.0}
    assert search.trained == ["1x8", "2x8"]
    assert "waiting" in search.told


@pytest.mark.parametrize("ended", [True, False])
def test_it_takes_over_what_a_helper_has_lost(search: StandIn, tmp_path: Path, ended: bool) -> None:
    folder = tmp_path / HELPERS / "hlp_A"
    folder.mkdir(parents=True)
    (folder / "alive").write_text("3")
    if ended:
        (folder / ENDED).touch()
    search.claims.take("0.5-1x8", "hlp_A")
    began = time.monotonic()
    assert search.through() == {"1x8": 1.0, "2x8": 2.0, "3x8": 3.0}
    assert sorted(search.trained) == ["1x8", "2x8", "3x8"]
    assert (time.monotonic() - began < 0.6) == ended, "told, or by its silence"


def test_too_late_nothing_is_begun(search: StandIn, tmp_path: Path, threads: list[threading.Thread]) -> None:
    (tmp_path / HELPERS / "hlp_A").mkdir(parents=True)
    search.claims.take("0.5-2x8", "hlp_A")
    threads.append(threading.Timer(0.4, lambda: search.finished.update({"2x8": 22.0})))
    threads[0].start()
    search.claims.open(Rung(0.5, STUDENTS, "cpu", 1))
    assert search.through(late=True) == {"1x8": None, "2x8": 22.0, "3x8": None}
    assert not search.claims.take("0.5-1x8", "hlp_A"), "nor by anybody else"
    assert search.trained == []


def test_a_helper_that_slept_through_the_rung_stops(search: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.phases.trials._TELL_SECONDS", 0.0)
    rung = Rung(0.5, STUDENTS, "cpu", 1)
    search.claims.open(rung)
    stop = _until_over(search.job, search.claims, rung)
    stop()
    search.claims.open(Rung(1.0, STUDENTS, "cpu", 1))
    with pytest.raises(StopRequested) as stopped:
        stop()
    assert not stopped.value.checkpoint


@pytest.fixture
def helper(tmp_path: Path) -> Any:
    """A helper's context in a folder below the search's."""
    folder = tmp_path / HELPERS / "hlp_A"
    folder.mkdir(parents=True)
    request = SimpleNamespace(helps=str(tmp_path), device="cpu", lease_seconds=60.0)
    return SimpleNamespace(request=request, spec=None, workdir=folder, stop=lambda: None, emit=lambda event: None)


def test_a_helper_trains_what_nobody_has_begun(search: StandIn, helper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "__init__", lambda self, job, home, tell: None)
    monkeypatch.setattr(Trials, "train", lambda self, name, student, share: search.train(name, student, share))
    assist(helper)
    assert search.trained == [], "no rung is open"
    search.claims.open(Rung(0.5, STUDENTS, "cpu", torch.get_num_threads()))
    assert search.claims.take("0.5-1x8", OWN)
    assist(helper)
    assert search.trained == ["2x8", "3x8"]
    assert (helper.workdir / "alive").read_text() == "0"
    assert not search.claims.lost("0.5-2x8", 60.0)


def test_a_helper_on_another_kind_of_device_stays_away(search: StandIn, helper: Any) -> None:
    search.claims.open(Rung(0.5, STUDENTS, "cuda", 1))
    with pytest.raises(InvalidRequest, match="cuda"):
        assist(helper)
    assert search.claims.take("0.5-1x8", OWN), "it claimed nothing"
