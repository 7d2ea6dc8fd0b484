"""First forwards of a model: is it whole, does a text's answer depend on its neighbours, and what does a batch cost?

Exactness: a row is computed alone and beside others; both answers must agree within TOLERANCE in every component of the
unit-length vector, in every label's probability, and in a number's relative size. Warm-up sees few texts, so it asks for a
tenth of that. Float graphs and INT8 with a scale per row differ by about 1e-7; INT8 with one scale for a batch fails, and
then every forward gets one row. Cost: seconds for 1 and for ROWS rows of equal length; where ROWS together are not clearly
cheaper than ROWS alone, batches stay at one row as well.
"""

import time
from dataclasses import dataclass

import numpy as np

from app.serving.backends.base import Backend, FloatArray, ModelCard, Outputs, Text, Tokens
from app.serving.decode import sigmoid, softmax
from app.serving.pending import Policy

TOLERANCE = 1e-4
_SEEN_AT_WARM_UP = TOLERANCE / 10
ROWS = 8
GAIN = 0.9  # a batch must cost less than this share of its rows one by one
BATCH_SECONDS = 0.05  # no batch should hold a lane longer, so that others' waiting is bounded
MOST_ROWS = 64
_REPEATS, _SHAPE_SECONDS = 3, 0.1
_TEXTS = (
    "My card has not arrived yet, what should I do?",
    "ok",
    "The transfer of 250.00 EUR from last Tuesday is still pending; please look into it because the rent is due tomorrow!",
    "¿Por qué me han cobrado dos veces? 为什么扣款两次",
    "refund refund refund",
)


@dataclass(frozen=True)
class Measured:
    policy: Policy
    batch_error: float  # largest difference of an answer between alone and in company
    costs: tuple[tuple[int, int, float], ...]  # (rows, length, seconds)

    @property
    def exact_in_batches(self) -> bool:
        return self.batch_error <= _SEEN_AT_WARM_UP


def measure(backend: Backend, card: ModelCard) -> Measured:
    """ValueError: the model answers with wrong shapes or with numbers that are not finite."""
    texts: list[Text] = list(zip(_TEXTS, reversed(_TEXTS), strict=True)) if card.judges_pairs else list(_TEXTS)
    rows = backend.prepare(texts)
    alone = [_checked(backend.forward([row]), [row], card) for row in rows]
    error = _batch_error(backend, rows, alone, card)
    # Lengths a request may really have, made from real tokens: the specials stay at both ends.
    first = rows[0]
    body = [token for row in rows for token in row.ids[1:-1]] or first.ids
    costs: list[tuple[int, int, float]] = []
    for length in sorted({min(n, card.max_length) for n in (16, 64)}):
        ids = [first.ids[0], *(body * (length // len(body) + 1))[: length - 2], first.ids[-1]]
        half = length // 2
        row = Tokens(ids, False, first.types and first.types[:1] * half + first.types[-1:] * (length - half))
        costs += [(1, length, _seconds(backend, [row])), (ROWS, length, _seconds(backend, [row] * ROWS))]
    return Measured(_policy(costs, error, card), error, tuple(costs))


def _policy(costs: list[tuple[int, int, float]], error: float, card: ModelCard) -> Policy:
    single = {length: seconds for rows, length, seconds in costs if rows == 1}
    several = {length: seconds for rows, length, seconds in costs if rows == ROWS}
    gains = [length for length in single if several[length] < GAIN * ROWS * single[length]]
    per_row = sorted(single.values())[len(single) // 2]
    if error > _SEEN_AT_WARM_UP or not gains:
        return Policy(1, card.max_length, seconds_per_row=per_row)
    per_token = min(several[length] / (ROWS * length) for length in gains)
    # Where only short rows gain, a batch stops at the largest area that was seen to gain.
    cap = MOST_ROWS * card.max_length if len(gains) == len(single) else ROWS * max(gains)
    budget = int(min(max(BATCH_SECONDS / per_token, card.max_length), cap))
    return Policy(MOST_ROWS, budget, seconds_per_row=per_row)


def _batch_error(backend: Backend, rows: list[Tokens], alone: list[Outputs], card: ModelCard) -> float:
    """Padded company, and company of the row's own length: either may shift a shared scale."""
    worst = 0.0
    together = _checked(backend.forward(rows), rows, card)
    for n, (row, single) in enumerate(zip(rows, alone, strict=True)):
        worst = max(worst, _difference(card, row, single, together, n))
        others = [list(reversed(row.ids[1:-1])), rows[2].ids[1 : len(row.ids) - 1]]
        same = [row._replace(ids=[row.ids[0], *other, row.ids[-1]]) for other in others if len(other) == len(row.ids) - 2]
        beside = _checked(backend.forward([row, *same]), [row, *same], card)
        worst = max(worst, _difference(card, row, single, beside, 0))
    return worst


def _checked(outputs: Outputs, rows: list[Tokens], card: ModelCard) -> Outputs:
    logits: tuple[int, ...] = (len(rows), card.logits_width or 0)
    if card.problem == "tokens":
        logits = (len(rows), max(len(row.ids) for row in rows), len(card.labels))
    for name, array, shape in (
        ("logits", outputs.logits, logits),
        ("embedding", outputs.embedding, (len(rows), card.vector_width or 0)),
    ):
        if not shape[-1]:
            continue
        if array is None or array.shape != shape:
            raise ValueError(f"{name} has shape {None if array is None else array.shape}, retort.json promises {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinity for a plain sentence")
    return outputs


def _difference(card: ModelCard, row: Tokens, single: Outputs, company: Outputs, n: int) -> float:
    """Between `row` alone and as row n of a batch, in what callers see."""
    found = [0.0]
    if single.logits is not None and company.logits is not None:
        a, b = single.logits[0], company.logits[n]
        if card.problem == "tokens":
            b = b[: len(row.ids)]  # what follows is padding
        found.append(float(np.abs(_seen(card, a, a) - _seen(card, b, a)).max()))
    if single.embedding is not None and company.embedding is not None:
        found.append(float(np.abs(single.embedding[0] - company.embedding[n]).max()))
    return max(found)


def _seen(card: ModelCard, logits: FloatArray, scale: FloatArray) -> FloatArray:
    if card.problem in ("regression", "ranking"):
        return np.asarray(logits / np.maximum(1, np.abs(scale)))
    return sigmoid(logits) if card.problem == "multi_label" else softmax(logits)


def _seconds(backend: Backend, rows: list[Tokens]) -> float:
    best, first = float("inf"), time.perf_counter()
    for _ in range(_REPEATS):
        started = time.perf_counter()
        backend.forward(rows)
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended - first > _SHAPE_SECONDS:  # a slow model's first call waits for this
            break
    return best
