"""Prefixed ULID identifiers: 48 bits of time, 80 of chance, sortable as text (`djob_01J…`)."""

import re
import secrets
import threading
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base32
_LOCK = threading.Lock()
_last = 0

FILE, JOB, EVENT, CHECKPOINT = "file-", "djob_", "evt_", "ckpt_"
MODEL, VERSION, IMPORT, ARTIFACT = "mdl_", "mv_", "imp_", "art_"
KEY, PROJECT, REQUEST, OUTBOX, WORKER, HELPER = "key_", "proj_", "req_", "obx_", "wrk_", "hlp_"

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MODEL_REF = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]{0,62})(?::(?P<version>[1-9][0-9]{0,8})|@(?P<alias>[a-z0-9][a-z0-9._-]{0,62}))?"
)


def new_id(prefix: str) -> str:
    """A fresh id; ids made by one process sort in the order of their making."""
    global _last
    with _LOCK:
        value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
        if value <= _last:
            value = _last + 1
        _last = value
    return prefix + "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
