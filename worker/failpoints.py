"""Named places in the supervisor where a chaos test stops it; inert unless RETORT_FAULT names one: `publish.before_commit=kill`."""

import errno
import os
import signal
from enum import StrEnum


class Failpoint(StrEnum):
    CLAIMED = "claim.after_commit"
    SPAWNED = "spawn.after"
    RECORDED = "record.after_commit"
    VERIFIED = "publish.after_verify"
    STORED = "publish.after_artifact"
    BEFORE_COMMIT = "publish.before_commit"
    PUBLISHED = "publish.after_commit"


def hit(fault: str, point: Failpoint) -> None:
    name, _, action = fault.partition("=")
    if name != point:
        return
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device (failpoint)")
        case _:
            raise ValueError(f"RETORT_FAULT={fault!r}: the action is 'kill' or 'full'.")
