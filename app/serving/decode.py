"""From a forward's arrays to answers, row by row: probabilities, numbers, labelled words or a vector, as bytes.

B rows, T tokens, C classes, E embedding.
"""

from collections.abc import Sequence

import numpy as np

from app.serving import entities
from app.serving.backends.base import FloatArray, Outputs
from app.serving.work import Answer, Item, Kind, Result, failure


def answers(items: Sequence[Item], outputs: Outputs) -> list[Result]:
    """A row with NaN or infinity fails alone. ValueError when the shapes are wrong."""
    results: list[Result | None] = [None] * len(items)
    for kind in {item.kind for item in items}:
        array = outputs.embedding if kind == "embedding" else outputs.logits
        if array is None:
            continue
        if array.ndim != (3 if kind == "words" else 2) or len(array) != len(items):
            raise ValueError(f"{len(items)} rows went in, an array of shape {array.shape} came out")
        rows = [n for n, item in enumerate(items) if item.kind == kind]
        payloads = _words(items, rows, array) if kind == "words" else _numbers(kind, rows, array)
        for n, payload in zip(rows, payloads, strict=True):
            if payload is None:
                results[n] = failure(ArithmeticError("its output holds NaN or infinity"))
            else:
                results[n] = Answer(payload, len(items[n].row.ids), items[n].row.truncated)
    return [failure(ValueError("the model has no such output")) if result is None else result for result in results]


def softmax(logits: FloatArray) -> FloatArray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float32)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: FloatArray) -> FloatArray:
    small = np.exp(-np.abs(logits), dtype=np.float32)  # at most 1: nothing overflows
    return np.asarray(np.where(logits >= 0, 1, small) / (1 + small), dtype=np.float32)


def _numbers(kind: Kind, rows: list[int], array_BX: FloatArray) -> list[bytes | None]:
    picked = np.asarray(array_BX if len(rows) == len(array_BX) else array_BX[rows], dtype=np.float32)
    finite = np.asarray(np.isfinite(picked).all(axis=1))
    with np.errstate(all="ignore"):  # rows that are not finite are refused
        if kind == "scores":
            picked = softmax(picked)
        elif kind == "independent":
            picked = sigmoid(picked)
    return [row.astype("<f4", copy=False).tobytes() if good else None for row, good in zip(picked, finite, strict=True)]


def _words(items: Sequence[Item], rows: list[int], logits_BTC: FloatArray) -> list[bytes | None]:
    found: list[bytes | None] = []
    for n in rows:
        words = items[n].row.words
        if words is None:
            raise ValueError("the backend does not say where words begin")
        logits_WC = np.asarray(logits_BTC[n, words[:, 0]], dtype=np.float32)
        found.append(entities.pack(softmax(logits_WC), words) if np.isfinite(logits_WC).all() else None)
    return found
