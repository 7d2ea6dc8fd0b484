"""Which endpoint a model answers, and with which kind of answer; read from its card."""

from app.domain.errors import UnsupportedMethod
from app.serving.backends.base import ModelCard, Text
from app.serving.work import Kind

_CLASSIFIES: dict[str, Kind] = {
    "single_label": "scores",
    "multi_label": "independent",
    "regression": "value",
    "tokens": "words",
}


def classify(card: ModelCard) -> Kind | None:
    return _CLASSIFIES.get(card.problem) if card.logits_width else None


def embeddings(card: ModelCard) -> Kind | None:
    return "embedding" if card.vector_width else None


def rerank(card: ModelCard) -> Kind | None:
    """A cross-encoder judges (query, document); a model made for vectors compares them. A classifier's are not made for it."""
    if card.cross_encoder:
        return "value"
    return None if classify(card) else embeddings(card)


_ENDPOINTS = {"classify": classify, "rerank": rerank, "embeddings": embeddings}
_LACKS = {"classify": "has no labels or scores for a text", "rerank": "does not rank", "embeddings": "gives no embeddings"}


def needed(endpoint: str, model: str, card: ModelCard) -> Kind:
    """The kind of answer, or an error that names the endpoint to use."""
    kind = _ENDPOINTS[endpoint](card)
    if kind is None:
        others = " or ".join(f"POST /v1/{name}" for name, kind_of in _ENDPOINTS.items() if kind_of(card))
        raise UnsupportedMethod(f"'{model}' {_LACKS[endpoint]}.", param="model", hint=f"Use {others} with it." if others else None)
    return kind


def probe(card: ModelCard, text: str) -> tuple[Kind, Text]:
    """What to ask of any model to see that it answers."""
    kind = classify(card) or rerank(card) or "embedding"
    return kind, (text, text) if card.judges_pairs else text
