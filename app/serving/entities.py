"""Labelled words, as they are cached, and the entities that they make (IOB2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.serving.backends.base import FloatArray

WORD = np.dtype([("start", "<u4"), ("end", "<u4"), ("label", "<u4"), ("score", "<f4")])
_OUTSIDE = "O"


def pack(probabilities_WC: FloatArray, words_W3: NDArray[np.int32]) -> bytes:
    """Each word's place in the text, its likeliest label and that label's probability."""
    packed = np.empty(len(words_W3), dtype=WORD)
    packed["start"], packed["end"] = words_W3[:, 1], words_W3[:, 2]
    packed["label"] = probabilities_WC.argmax(axis=1)
    packed["score"] = probabilities_WC.max(axis=1)
    return packed.tobytes()


def read(payload: bytes, labels: Sequence[str], text: str) -> list[dict[str, Any]]:
    """Entities in the order of the text, each with its characters and the mean probability of its words' labels.

    B-X begins an entity and I-X goes on with it; an I-X with nothing to go on begins one. Where labels are no IOB labels
    (parts of speech), every word but an O stands alone.
    """
    iob = all(label == _OUTSIDE or label[:2] in ("B-", "I-") for label in labels)
    found: list[dict[str, Any]] = []
    scores: list[list[float]] = []
    open_ = ""  # the type that an I- may go on with
    for start, end, number, score in np.frombuffer(payload, dtype=WORD).tolist():
        label = labels[number]
        name = label[2:] if iob else label
        if label == _OUTSIDE:
            open_ = ""
        elif iob and label.startswith("I-") and open_ == name:
            found[-1]["end"] = end
            scores[-1].append(score)
        else:
            found.append({"label": name, "start": start, "end": end})
            scores.append([score])
            open_ = name
    for entity, parts in zip(found, scores, strict=True):
        entity |= {"text": text[entity["start"] : entity["end"]], "score": round(sum(parts) / len(parts), 6)}
    return found
