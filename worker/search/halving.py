"""Successive halving towards the smallest student that keeps enough: many a little, few a lot.

Source: Jamieson & Talwalkar 2016, arXiv 1502.07943. Here the better half is what lies nearest to the target: those that keep
enough already, the smallest first; then the others, the best first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Trial:
    """One candidate and what is known of it. `quality` is on the validation rows, `retention` its share of the teacher's."""

    name: str
    student: dict[str, Any]
    bytes: int
    latency_ms: float
    throughput: float
    speedup: float
    size_ratio: float
    meets_cost: bool  # speed, size and latency, measured before any training
    quality: float | None = None
    retention: float | None = None
    share: float = 0.0  # of the full training that it has had
    chosen: bool = False
    notes: list[str] = field(default_factory=list)


def rungs(count: int) -> list[float]:
    """Shares of the full training, one per round: every round has half the candidates of the one before, and twice the training."""
    rounds = max(1, (count - 1).bit_length()) if count > 1 else 0
    return [0.5**n for n in range(rounds, 0, -1)] + [1.0]


def survivors(trials: Sequence[Trial], wanted: float | None) -> list[Trial]:
    """The half to go on with, at least one; among equals the smaller."""
    return sorted(trials, key=lambda t: _order(t, wanted))[: max(1, len(trials) // 2)]


def best(trials: Sequence[Trial], wanted: float | None) -> Trial:
    """The smallest fully trained one that keeps enough; else the one that keeps most."""
    full = [t for t in trials if t.share >= 1.0] or list(trials)
    return min(full, key=lambda t: _order(t, wanted))


def _order(trial: Trial, wanted: float | None) -> tuple[bool, float, int]:
    kept = trial.retention if trial.retention is not None else -1.0
    enough = wanted is not None and kept >= wanted
    return not enough, 0.0 if enough else -kept, trial.bytes


def pareto(trials: Sequence[Trial]) -> set[str]:
    """Names of those that no other beats in both bytes and quality."""
    known = [t for t in trials if t.quality is not None]

    def beaten(t: Trial) -> bool:
        assert t.quality is not None
        return any(
            o.bytes <= t.bytes and o.quality is not None and o.quality >= t.quality and (o.bytes, o.quality) != (t.bytes, t.quality)
            for o in known
        )

    return {t.name for t in known if not beaten(t)}
