"""Named places in the child where a chaos test kills it; inert unless RETORT_FAULT names one: `train.step:7` (the 7th pass)."""

import errno
import os
import signal
from collections import Counter
from enum import StrEnum


class Failpoint(StrEnum):
    PREPARED = "prepare.before_seal"
    SHARD_WRITTEN = "label.shard_written"
    SHARD_RENAMED = "label.shard_renamed"
    TRAIN_STEP = "train.step"
    CHECKPOINT_WRITTEN = "checkpoint.after_write"
    CHECKPOINT_BEFORE_RENAME = "checkpoint.before_rename"
    CHECKPOINT_RENAMED = "checkpoint.after_rename"
    PHASE_SEALED = "phase.sealed"
    BEFORE_DONE = "run.before_done"


_passes: Counter[str] = Counter()
_armed = ""


def arm(attempt: int) -> None:
    """Read the switch; only a first attempt is hit, so that a test sees what the second makes of it."""
    global _armed
    _armed = os.environ.get("RETORT_FAULT", "") if attempt == 1 else ""  # noqa: TID251  (the child's one switch)


def hit(point: Failpoint) -> None:
    """`RETORT_FAULT=name[:nth][=kill|full]`: at the nth pass (default 1st) die by SIGKILL, or meet a full disk."""
    name, _, action = _armed.partition("=")
    name, _, nth = name.partition(":")
    if name != point:
        return
    _passes[point] += 1
    if _passes[point] == int(nth or 1):
        if action == "full":
            raise OSError(errno.ENOSPC, "No space left on device (failpoint)")
        os.kill(os.getpid(), signal.SIGKILL)
