"""Ranked documents: order, scores and ties."""

import json
from typing import Any

import numpy as np
import pytest

from app.serving import replies
from app.serving.work import Answer


def answer(*values: float) -> Answer:
    return Answer(np.array(values, "<f4").tobytes(), 3, False)


def ranked(*answers: Answer, judged: bool, top_n: int | None = None, documents: list[str] | None = None) -> list[dict[str, Any]]:
    body = json.loads(replies.rerank("m:1", answers, judged, top_n, documents))
    assert (body["object"], body["model"]) == ("list", "m:1")
    assert body["usage"]["total_tokens"] == 3 * len(answers)
    return list(body["results"])


def test_logits_become_probabilities_and_their_order_survives_where_these_are_equal() -> None:
    found = ranked(answer(40), answer(-1), answer(60), answer(0), judged=True)
    assert [r["index"] for r in found] == [2, 0, 3, 1]
    assert [r["relevance_score"] for r in found] == pytest.approx([1, 1, 0.5, 1 / (1 + np.e)])


def test_vectors_are_compared_by_angle_whatever_their_length() -> None:
    found = ranked(answer(2, 0), answer(0, 1), answer(-3, 0), answer(5, 5), answer(0, 0), judged=False)
    assert [r["index"] for r in found] == [2, 0, 3, 1]
    assert [r["relevance_score"] for r in found] == pytest.approx([np.sqrt(0.5), 0, 0, -1], abs=1e-6)


def test_equal_documents_keep_their_order_and_texts_come_when_asked_for() -> None:
    found = ranked(answer(1), answer(1), answer(2), judged=True, top_n=2, documents=["a", "b", "c"])
    assert [(r["index"], r["document"]) for r in found] == [(2, {"text": "c"}), (0, {"text": "a"})]
    assert "document" not in ranked(answer(1), judged=True)[0]
    assert len(ranked(answer(1), answer(2), judged=True, top_n=99)) == 2
