"""Entities from B-/I- labels. P positions of all rows in a line, C classes, M entities."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from app.quality.result import Bools, Ints


class Scheme(NamedTuple):
    """What each class means: `begins_C`, and which of `types` it belongs to (-1: outside of any entity)."""

    types: list[str]
    type_C: Ints
    begins_C: Bools

    @classmethod
    def of(cls, labels: Sequence[str]) -> "Scheme":
        tags = [label.partition("-") if label.startswith(("B-", "I-")) else ("O", "", "") for label in labels]
        types = sorted({name for tag, _, name in tags if tag != "O"})
        found = [types.index(name) if tag != "O" else -1 for tag, _, name in tags]
        return cls(types, np.array(found, dtype=np.int64), np.array([tag == "B" for tag, _, _ in tags]))


class Spans(NamedTuple):
    """First and last position and type of M entities."""

    first_M: Ints
    last_M: Ints
    type_M: Ints


def decode(classes_P: Ints, row_P: Ints, scheme: Scheme) -> Spans:
    """The entities of the CoNLL evaluation: a token goes on with the entity before it only as I- of the same type in the same row.

    Everything else that is not outside begins an entity, so a stray I- counts as a beginning.
    """
    type_P, begins_P = scheme.type_C[classes_P], scheme.begins_C[classes_P]
    inside_P = type_P >= 0
    goes_on_P = np.zeros(len(classes_P), dtype=bool)
    goes_on_P[1:] = inside_P[1:] & ~begins_P[1:] & (type_P[1:] == type_P[:-1]) & (row_P[1:] == row_P[:-1])
    first_M = np.flatnonzero(inside_P & ~goes_on_P)
    last_M = np.flatnonzero(inside_P & ~np.append(goes_on_P[1:], False))
    return Spans(first_M, last_M, type_P[first_M])


def same(found: Spans, wanted: Spans) -> Bools:
    """For every entity of `found`, whether `wanted` holds it with the same bounds and type."""
    if not len(wanted.first_M):
        return np.zeros(len(found.first_M), dtype=bool)
    at_M = np.minimum(np.searchsorted(wanted.first_M, found.first_M), len(wanted.first_M) - 1)
    result: Bools = (
        (wanted.first_M[at_M] == found.first_M) & (wanted.last_M[at_M] == found.last_M) & (wanted.type_M[at_M] == found.type_M)
    )
    return result
