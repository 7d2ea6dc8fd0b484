"""Answers as JSON bytes: numbers go from the cached bytes to orjson without a Python object per component."""

import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from app.serving.backends.base import FloatArray
from app.serving.work import Answer

_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def classify(model: str, labels: Sequence[str], answers: Sequence[Answer], top_k: int) -> bytes:
    """Labels by falling probability; equal ones in label order, so that equal answers are equal bytes."""
    scores = _rows(answers)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    ranked = scores[np.arange(len(scores))[:, None], order]
    data = []
    for n, (names, values) in enumerate(zip(order.tolist(), ranked, strict=True)):
        best = [{"label": labels[name], "score": value} for name, value in zip(names, values, strict=True)]
        data.append({"index": n, **best[0], "scores": best})
    return orjson.dumps({"object": "list", "model": model, "data": data, "usage": _usage(answers)}, option=_NUMPY)


def embeddings(model: str, answers: Sequence[Answer], dimensions: int | None, normalize: bool, base64: bool) -> bytes:
    """OpenAI's shape. `dimensions` keeps the first components and brings the vector back to unit length."""
    vectors: Sequence[Any]
    if dimensions is not None:
        rows = np.ascontiguousarray(_rows(answers)[:, :dimensions])
        if normalize:
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = np.asarray(rows / np.where(norms > 0, norms, 1), dtype=np.float32)
        rows = rows.astype("<f4", copy=False)
        vectors = [binascii.b2a_base64(row.tobytes(), newline=False).decode() for row in rows] if base64 else list(rows)
    elif base64:
        vectors = [binascii.b2a_base64(answer.payload, newline=False).decode() for answer in answers]
    else:
        vectors = list(_rows(answers))
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": _usage(answers)}, option=_NUMPY)


def _rows(answers: Sequence[Answer]) -> FloatArray:
    flat = np.frombuffer(b"".join(answer.payload for answer in answers), dtype="<f4")
    return flat.reshape(len(answers), -1)


def _usage(answers: Sequence[Answer]) -> dict[str, int]:
    tokens = sum(answer.tokens for answer in answers)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
