"""Job statuses, phases and the one table of allowed transitions. Pure."""

from enum import StrEnum


class Status(StrEnum):
    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Phase(StrEnum):
    PREPARING = "preparing"
    LABELLING = "labelling"
    TRAINING = "training"
    QUANTIZING = "quantizing"
    EVALUATING = "evaluating"
    PACKAGING = "packaging"


S = Status
TERMINAL = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED})
LEASED = frozenset({S.RUNNING, S.PAUSING, S.CANCELLING})  # a worker owns the row

TRANSITIONS: dict[Status, frozenset[Status]] = {
    S.VALIDATING: frozenset({S.QUEUED, S.FAILED, S.CANCELLED}),
    S.QUEUED: frozenset({S.RUNNING, S.PAUSED, S.CANCELLED, S.FAILED}),
    S.RUNNING: frozenset({S.PAUSING, S.CANCELLING, S.SUCCEEDED, S.FAILED, S.QUEUED}),
    S.PAUSING: frozenset({S.PAUSED, S.CANCELLING, S.SUCCEEDED, S.FAILED, S.QUEUED}),
    S.PAUSED: frozenset({S.QUEUED, S.CANCELLED}),
    S.CANCELLING: frozenset({S.CANCELLED, S.SUCCEEDED}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset({S.QUEUED}),  # only by `resume`, when error.retryable
    S.CANCELLED: frozenset(),
}


def can_go(source: Status, target: Status) -> bool:
    return target in TRANSITIONS[source]


def sources_of(target: Status) -> frozenset[Status]:
    """Statuses from which `target` may be entered: the WHERE clause of a compare-and-set."""
    return frozenset(s for s, targets in TRANSITIONS.items() if target in targets)
