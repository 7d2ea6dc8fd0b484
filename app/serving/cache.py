"""Answers kept by content: the key names project, artifact, options and text, never a model's name, so nothing goes stale."""

import hashlib
import struct
from collections import OrderedDict

from app.serving.backends.base import Text
from app.serving.work import Answer

_HEADER = struct.Struct("<4sBII8s")  # magic, flags, tokens, payload length, checksum
_MAGIC = b"RTA1"
_TRUNCATED = 1
_ENTRY_OVERHEAD = 420  # what CPython spends on key, tuple, integers and the two dictionary slots of one entry (measured)


def key_of(project: str, digest: str, options: str, text: Text) -> bytes:
    """SHA-256 over length-prefixed parts: no two different requests share the bytes that are hashed, wherever a pair parts."""
    asked = (project, digest, options, text) if isinstance(text, str) else (project, digest, options, *text)
    parts = [part.encode("utf-8", "surrogatepass") for part in asked]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()


def pack(key: bytes, answer: Answer) -> bytes:
    flags = _TRUNCATED if answer.truncated else 0
    check = _checksum(key, flags, answer.tokens, answer.payload)
    return _HEADER.pack(_MAGIC, flags, answer.tokens, len(answer.payload), check) + answer.payload


def unpack(key: bytes, value: bytes | None, length: int | None) -> Answer | None:
    """The answer, or None for anything that was not written for this key with this payload length (None: any length)."""
    if not isinstance(value, bytes) or len(value) < _HEADER.size:
        return None
    magic, flags, tokens, stated, check = _HEADER.unpack_from(value)
    payload = value[_HEADER.size :]
    if length is not None and length != stated:
        return None
    if magic != _MAGIC or stated != len(payload) or flags > _TRUNCATED or check != _checksum(key, flags, tokens, payload):
        return None
    return Answer(payload, tokens, bool(flags & _TRUNCATED))


def _checksum(key: bytes, flags: int, tokens: int, payload: bytes) -> bytes:
    digest = hashlib.blake2b(key, digest_size=8)
    digest.update(flags.to_bytes(1, "little") + tokens.to_bytes(4, "little"))
    digest.update(payload)
    return digest.digest()


class LocalCache:
    """Segmented LRU with strict byte accounting; one thread (the event loop) uses it.

    A new answer is on probation; a second use promotes it. A flood of texts seen once therefore never drives out the hot ones.
    """

    def __init__(self, max_bytes: int, protected_share: float = 0.8) -> None:
        self.max_bytes = max_bytes
        self._protected_bytes = int(max_bytes * protected_share)
        self._probation: OrderedDict[bytes, Answer] = OrderedDict()
        self._protected: OrderedDict[bytes, Answer] = OrderedDict()
        self._used = [0, 0]  # bytes on probation, protected

    @property
    def size(self) -> int:
        return sum(self._used)

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def get(self, key: bytes) -> Answer | None:
        answer = self._protected.get(key)
        if answer is not None:
            self._protected.move_to_end(key)
            return answer
        answer = self._probation.pop(key, None)
        if answer is None:
            return None
        size = _size(answer)
        self._protected[key] = answer
        self._used[0] -= size
        self._used[1] += size
        while self._used[1] > self._protected_bytes and len(self._protected) > 1:
            old_key, old = self._protected.popitem(last=False)
            self._used[1] -= _size(old)
            self._probation[old_key] = old
            self._used[0] += _size(old)
        return answer

    def put(self, key: bytes, answer: Answer) -> None:
        size = _size(answer)
        if size > self.max_bytes or key in self._protected:
            return
        old = self._probation.pop(key, None)
        self._used[0] += size - (0 if old is None else _size(old))
        self._probation[key] = answer
        while self.size > self.max_bytes:
            place = 0 if self._probation else 1
            _, old = (self._probation, self._protected)[place].popitem(last=False)
            self._used[place] -= _size(old)


def _size(answer: Answer) -> int:
    return len(answer.payload) + _ENTRY_OVERHEAD
