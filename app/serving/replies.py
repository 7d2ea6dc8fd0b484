"""Answers as JSON bytes: numbers go from the cached bytes to orjson without a Python object per component."""

import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from app.serving.backends.base import FloatArray, Text
from app.serving.decode import sigmoid
from app.serving.entities import read
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


def values(model: str, answers: Sequence[Answer]) -> bytes:
    data = [{"index": n, "score": value} for n, value in enumerate(_rows(answers)[:, 0])]
    return orjson.dumps({"object": "list", "model": model, "data": data, "usage": _usage(answers)}, option=_NUMPY)


def entities(model: str, labels: Sequence[str], answers: Sequence[Answer], texts: Sequence[Text]) -> bytes:
    found = [read(answer.payload, labels, str(text)) for answer, text in zip(answers, texts, strict=True)]
    data = [{"index": n, "entities": each} for n, each in enumerate(found)]
    return orjson.dumps({"object": "list", "model": model, "data": data, "usage": _usage(answers)})


def rerank(model: str, answers: Sequence[Answer], judged: bool, top_n: int | None, documents: Sequence[str] | None) -> bytes:
    """Best first; equal ones in the order given. `judged`: a number per document, else the query's vector and theirs."""
    rows = _rows(answers)
    found = rows[:, 0] if judged else _cosines(rows[0], rows[1:])
    shown = sigmoid(found) if judged else found  # the order is the logits': far out, equal probabilities hide it
    results: list[dict[str, Any]] = []
    for n in np.argsort(-found, kind="stable")[:top_n].tolist():
        results.append({"index": n, "relevance_score": shown[n]})
        if documents is not None:
            results[-1]["document"] = {"text": documents[n]}
    return orjson.dumps({"object": "list", "model": model, "results": results, "usage": _usage(answers)}, option=_NUMPY)


def _cosines(query_E: FloatArray, documents_NE: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(documents_NE, axis=1) * np.linalg.norm(query_E)
    return np.asarray(np.clip(documents_NE @ query_E / np.where(lengths > 0, lengths, 1), -1, 1), dtype=np.float32)


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
