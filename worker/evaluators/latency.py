"""Speed of several models in one run on one machine: same runtime, same threads, same texts, rounds interleaved."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worker.evaluators.base import Feed, Stop, feeds
from worker.rows import Rows

BATCH_SIZES = (1, 8, 32)
_WARM_UP = 3


@dataclass(frozen=True)
class Subject:
    session: Any
    rows: Rows  # plain sequences

    @property
    def inputs(self) -> list[str]:
        return [i.name for i in self.session.get_inputs()]


@dataclass
class _Times:
    """Seconds of every call, per batch size and round."""

    calls: dict[int, list[list[float]]] = field(default_factory=lambda: {size: [] for size in BATCH_SIZES})


def measure(
    subjects: Mapping[str, Subject], *, budget_seconds: float = 14.0, rounds: int = 7, rows: int = 96, stop: Stop = lambda: None
) -> dict[str, dict[str, Any]]:
    """Latency and throughput of every subject.

    Every round takes all subjects through the same texts at every batch size, so that a slow moment of the machine falls
    on all of them. Batches are sorted by length. Per subject: `latency_ms` p50 and p99 of single texts over all rounds;
    `rows_per_second` per batch size, the median of the rounds; `throughput` the best of these, `batch` which one it was:
    on a CPU one text at a time often beats a padded batch. Fewer texts (at least 8) and rounds (at least 3) are taken
    where the budget asks for it.
    """
    if not subjects:
        return {}
    batches = _batches(subjects, rows, budget_seconds, stop)
    times = {name: _Times() for name in subjects}
    started = time.perf_counter()
    done = 0
    while done < rounds and (done < 3 or (time.perf_counter() - started) * (done + 1) / done <= budget_seconds):
        for name, subject in subjects.items():
            stop()
            for size in BATCH_SIZES:
                times[name].calls[size].append([_call(subject.session, batch) for batch in batches[name][size]])
        done += 1
    count = {name: sum(len(b["input_ids"]) for b in batches[name][1]) for name in subjects}
    return {name: _figures(times[name], count[name], done) for name in subjects}


def _batches(subjects: Mapping[str, Subject], rows: int, budget: float, stop: Stop) -> dict[str, dict[int, list[Feed]]]:
    """The same rows for all subjects, spread over the test set; few enough for three rounds within the budget."""
    cost = 0.0
    for subject in subjects.values():
        stop()
        probe = feeds(subject.rows.only(range(min(_WARM_UP, len(subject.rows)))), subject.inputs, 1)
        for batch in probe:
            _call(subject.session, batch)
        cost += sum(_call(subject.session, batch) for batch in probe) / len(probe)
    available = min(len(s.rows) for s in subjects.values())
    affordable = int(budget / (3 * len(BATCH_SIZES) * cost))
    count = min(available, rows, max(8, affordable))
    chosen = np.linspace(0, available - 1, count).round().astype(int).tolist()
    result = {}
    for name, subject in subjects.items():
        taken = subject.rows.only(chosen)
        result[name] = {size: feeds(taken, subject.inputs, size) for size in BATCH_SIZES}
    return result


def _call(session: Any, batch: Feed) -> float:
    started = time.perf_counter()
    session.run(None, batch)
    return time.perf_counter() - started


def _figures(times: _Times, rows: int, rounds: int) -> dict[str, Any]:
    single = 1e3 * np.array([t for call in times.calls[1] for t in call])
    rates = {size: float(np.median([rows / sum(call) for call in times.calls[size]])) for size in BATCH_SIZES}
    best = max(rates, key=lambda size: rates[size])
    return {
        "latency_ms": {"p50": float(np.percentile(single, 50)), "p99": float(np.percentile(single, 99))},
        "throughput": rates[best],
        "batch": best,
        "rows_per_second": {str(size): rate for size, rate in rates.items()},
        "texts": rows,
        "rounds": rounds,
    }
