"""Which endpoints a card's model answers."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.domain.errors import UnsupportedMethod
from app.serving import heads
from app.serving.backends.base import ModelCard


def card(**fields: Any) -> ModelCard:
    return ModelCard.model_validate({"format": 1, "kind": "student", "embedding_dim": 8, **fields})


@pytest.mark.parametrize(
    ("fields", "expected", "widths", "pairs"),
    [
        ({"labels": ["a", "b", "c"]}, ("scores", None, "embedding"), (3, 8), False),  # a card that knows no problem
        ({"labels": None}, (None, "embedding", "embedding"), (None, 8), False),
        ({"problem": None, "pairs": None, "labels": ["a", "b"]}, ("scores", None, "embedding"), (2, 8), False),
        ({"problem": "single_label", "labels": ["a", "b"], "pairs": True}, ("scores", None, None), (2, None), True),
        ({"problem": "multi_label", "labels": ["a", "b"]}, ("independent", None, "embedding"), (2, 8), False),
        ({"problem": "regression", "labels": ["x"]}, ("value", None, "embedding"), (1, 8), False),
        ({"problem": "regression", "pairs": True}, ("value", None, None), (1, None), True),
        ({"problem": "tokens", "labels": ["O", "B-X"]}, ("words", None, None), (2, None), False),
        ({"problem": "embedding", "pairs": True}, (None, "embedding", "embedding"), (None, 8), False),
        ({"problem": "masked_lm"}, (None, "embedding", "embedding"), (None, 8), False),
        ({"problem": "ranking", "pairs": True, "scorer": "cross_encoder"}, (None, "value", None), (1, None), True),
        ({"problem": "ranking", "pairs": True}, (None, "value", None), (1, None), True),
        ({"problem": "ranking", "scorer": "cross_encoder"}, (None, "value", None), (1, None), True),
        ({"problem": "ranking", "pairs": True, "scorer": "bi_encoder"}, (None, "embedding", "embedding"), (None, 8), False),
        ({"problem": "ranking"}, (None, "embedding", "embedding"), (None, 8), False),
    ],
)
def test_what_a_card_says(fields: dict[str, Any], expected: tuple[Any, ...], widths: tuple[Any, Any], pairs: bool) -> None:
    read = card(**fields)
    assert (heads.classify(read), heads.rerank(read), heads.embeddings(read)) == expected
    assert (read.logits_width, read.vector_width) == widths
    assert read.judges_pairs is pairs
    kind, text = heads.probe(read, "x")
    assert kind in expected
    assert text == (("x", "x") if pairs else "x")


def test_a_refusal_names_the_endpoints_that_the_model_has() -> None:
    with pytest.raises(UnsupportedMethod, match="m:1") as refused:
        heads.needed("classify", "m:1", card(problem="ranking", scorer="bi_encoder"))
    assert refused.value.hint == "Use POST /v1/rerank or POST /v1/embeddings with it."
    with pytest.raises(UnsupportedMethod) as refused:
        heads.needed("rerank", "m:1", card(labels=["a"], pairs=True))
    assert refused.value.hint == "Use POST /v1/classify with it."
    assert heads.needed("rerank", "m:1", card(problem="embedding")) == "embedding"


@pytest.mark.parametrize("fields", [{"problem": "tokens"}, {"problem": "multi_label", "labels": []}, {"problem": "poetry"}])
def test_a_card_that_cannot_be_served_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        card(**fields)
