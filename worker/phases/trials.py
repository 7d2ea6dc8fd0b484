"""Trials of a search trained, by the job's own child and by helpers that other workers lend, each trial by one of them.

<workdir>/trials/<share>-<name>/              a trial: initial/ labelled/ student/ quality/ checkpoints/ curves/
<workdir>/helpers/<helper>/trials/<share>-…   the same, of a helper: two processes never write into one folder

The job's child decides: it opens a rung, trains along, waits for the others, and takes over what one of them has lost, from
its checkpoint; a helper begins only what nobody has begun. Seeds, threads and device do not depend on who trains, so neither
does the student.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app.domain.errors import InvalidRequest
from app.domain.spec import JobSpec
from worker.phases import initial, label, runs, teaching
from worker.phases.base import Context, StopRequested
from worker.precision import device_of
from worker.run import protocol
from worker.search.claims import OWN, Claims, Rung, show_life

Students = Mapping[str, dict[str, Any]]  # a trial's name → the spec's student block
Tell = Callable[[str], None]  # progress of the whole search; the argument says what goes on
_LOOK_SECONDS = 0.25
_TELL_SECONDS = 1.0
_BEATS = 6  # signs of life per lease


class Trials:
    """The trials of one job as one process trains them: what it makes lies under `home`, data and teachers are the job's."""

    def __init__(self, job: Context, home: Path, tell: Tell) -> None:
        self.job, self.home, self.tell = job, home, tell
        self.head, self.teacher_head = runs.head(job, "student"), runs.head(job, "teacher")
        self.claims = Claims(job.workdir)
        self.lease_seconds = job.request.lease_seconds
        self._told, self._called = 0.0, 0

    # -- a rung, as the job's own child goes through it --------------------------------------------------------------

    def rung(self, students: Students, share: float, late: Callable[[], bool]) -> Iterator[tuple[str, float | None]]:
        """Every trial's quality after this share of the training, as it comes in; None: it was too late to begin it."""
        missing = dict(students)
        alone = True
        while missing:
            self.job.stop()
            for name in [*missing]:
                if (quality := self.quality(name, share)) is not None:
                    del missing[name]
                    yield name, quality
            mine = next((name for name in missing if self._falls_to_us(_key(name, share))), None)
            if mine is not None and not late():
                if alone and len(missing) > 1:
                    self._labelled_first(mine, missing[mine], share)
                    self._open(missing, share)
                alone = False
                self.train(mine, missing[mine], share)
            elif mine is not None:
                del missing[mine]
                yield mine, None
            elif missing:
                self._call(0)
                self._say("waiting")
                time.sleep(_LOOK_SECONDS)
        self._close()

    def _falls_to_us(self, key: str) -> bool:
        """Nobody trains it, or who did has lost it. Then nobody else will."""
        return self.claims.take(key, OWN) or self.claims.lost(key, self.lease_seconds)

    def _labelled_first(self, name: str, student: dict[str, Any], share: float) -> None:
        """Before anybody helps: what the teacher says is then in the cache, and not asked by all of them at once."""
        self._begun(self.context(name, f"{share:g}", student, share))

    def _open(self, missing: Students, share: float) -> None:
        device = device_of(self.job.request.device).type
        self.claims.open(Rung(share, dict(missing), device, torch.get_num_threads()))
        self._call(len(missing) - 1)

    def _close(self) -> None:
        self.claims.close()
        self._call(0)

    def _call(self, count: int) -> None:
        if count != self._called:
            self._called = count
            self.job.emit(protocol.TrialsEvent(count=count))

    # -- one trial ---------------------------------------------------------------------------------------------------

    def quality(self, name: str, share: float) -> float | None:
        """On the validation rows, once somebody has finished it; in this attempt or an earlier one."""
        folder = self.made(name, share, "quality")
        return None if folder is None else float(json.loads((folder / "quality.json").read_text())["value"])

    def made(self, name: str, share: float, output: str) -> Path | None:
        """Where this output of the trial is complete."""
        places = [home / "trials" / _key(name, share) / output for home in [self.job.workdir, *self._homes()]]
        return next((place for place in places if place.is_dir() and self.job.valid(place)), None)

    def train(self, name: str, student: dict[str, Any], share: float) -> None:
        """Fill the trial's folder; goes on from what anybody has made of it."""
        context = self.context(name, f"{share:g}", student, share)
        if context.sealed("quality"):
            return
        self._begun(context)
        if not context.sealed("student"):
            teaching.teach(context)
            context.seal("student")
        trained = context.output("student")
        rows = runs.rows(context, "validation", trained, self.head)
        outputs = self.head.predict(self.head.load(trained), rows, torch.device("cpu"))
        judged = self.head.judge(outputs, rows, teaching.validation_teacher(context, rows))
        (context.fresh("quality") / "quality.json").write_text(json.dumps({"value": judged.value}))
        context.seal("quality")

    def _begun(self, context: Context) -> None:
        if not context.sealed("initial"):
            initial.make(context)
            context.seal("initial")
        if not context.sealed("labelled"):
            label.answer_once(context, self.teacher_head)

    def context(self, name: str, kind: str, student: dict[str, Any], share: float) -> "TrialContext":
        body = self.job.spec.resolved()
        body["student"] = {"init": body["student"]["init"], "adapter": body["student"]["adapter"], **student}
        for stage in body["stages"]:
            stage["epochs"] = max(1, round(stage["epochs"] * share))
        place = Path("trials") / f"{kind}-{name}"
        workdir = self.home / place
        workdir.mkdir(parents=True, exist_ok=True)
        request = self.job.request.model_copy(update={"previous": [str(home / place) for home in self._homes()]})
        spec, job = JobSpec.model_validate(body), self.job
        return TrialContext(
            request, spec, workdir, job.emit, job.stop, job.warnings, parent=job, tell=lambda: self._say(f"trial-{name}")
        )

    def _homes(self) -> list[Path]:
        """Where else trials of this job may lie: of its helpers, of earlier attempts, of theirs."""
        found = _helpers(self.job.workdir)
        for previous in map(Path, self.job.request.previous):
            found += [previous, *_helpers(previous)]
        return [home for home in found if home != self.home]

    def _say(self, what: str) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            self.tell(what)


@dataclass
class TrialContext(Context):
    """A job's context with a folder of its own for what a trial makes; data and teachers are the job's."""

    parent: Context | None = None
    tell: Callable[[], None] = lambda: None

    def output(self, name: str) -> Path:
        assert self.parent is not None
        if name == "prepared" or name == "augmented" or name.startswith("teacher"):
            return self.parent.output(name)
        return super().output(name)

    def advance(self, phase: str, share: float, **fields: Any) -> None:
        """A trial's own progress is not the job's; that it goes on is."""
        self.tell()


def assist(context: Context) -> None:
    """A helper: train trials of the search in `request.helps` until none is unclaimed; ends as well when the rung is over.

    Raises InvalidRequest on another kind of device.
    """
    assert context.request.helps is not None
    workdir = Path(context.request.helps)
    claims = Claims(workdir)
    rung = claims.rung()
    if rung is None:
        return
    if rung.device != (device := device_of(context.request.device).type):
        raise InvalidRequest(f"The search's trials are trained on {rung.device}, this is {device}: the bits would differ.")
    torch.set_num_threads(rung.threads)
    show_life(context.workdir, context.request.lease_seconds / _BEATS)

    def tell(what: str) -> None:
        context.advance("training", 0.0, stage=what)

    job = Context(context.request, context.spec, workdir, context.emit, _until_over(context, claims, rung))
    trials = Trials(job, context.workdir, tell)
    for name, student in rung.trials.items():
        job.stop()
        if claims.take(_key(name, rung.share), context.workdir.name):
            trials.train(name, student, rung.share)


def _until_over(context: Context, claims: Claims, rung: Rung) -> Callable[[], None]:
    """`context.stop` that also ends when the search has gone on: one that slept so long must not train for nobody."""
    looked = [time.monotonic()]

    def stop() -> None:
        context.stop()
        if time.monotonic() - looked[0] >= _TELL_SECONDS:
            looked[0] = time.monotonic()
            if claims.rung() != rung:
                raise StopRequested(checkpoint=False)

    return stop


def _key(name: str, share: float) -> str:
    return f"{share:g}-{name}"


def _helpers(workdir: Path) -> list[Path]:
    return sorted(workdir.glob(f"{protocol.HELPERS}/*"))
