"""From labelled rows to what a served model is asked, and from its answers to the arrays that `app.quality` measures.

N rows, C classes, E embedding width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.domain.errors import DatasetInvalid
from app.serving import entities, heads
from app.serving.backends.base import ModelCard, Problem, Text
from app.serving.labelled import Example
from app.serving.work import Answer, Kind

NAMED: frozenset[Problem] = frozenset({"single_label", "multi_label", "tokens"})  # labels are names
_LEAST = 1e-30  # probability of a class that a model does not know
_SURE = 1e-7  # probabilities of float32 nearer to 0 and 1 are as good as these


def kind_of(model: str, card: ModelCard) -> Kind:
    """How a model is asked. Raises UnsupportedMethod where no labelled row can judge it."""
    endpoint = {"embedding": "embeddings", "ranking": "rerank"}.get(card.problem, "classify")
    return heads.needed(endpoint, model, card)


def asked(example: Example, kind: Kind, card: ModelCard) -> list[Text]:
    """The texts of one row, in the order in which `outputs` expects their answers."""
    if kind == "words":
        return [" ".join(example.text)]
    if card.problem == "ranking":
        documents = example.documents
        return [(example.text, document) for document in documents] if kind == "value" else [example.text, *documents]
    if card.problem == "embedding":
        return [example.text, example.text_b or ""]
    return [(example.text, example.text_b or "")] if card.judges_pairs else [example.text]


def check_labels(examples: Sequence[Example], problem: Problem, model: str, card: ModelCard) -> None:
    """Raises DatasetInvalid for a label that the model cannot answer."""
    if problem not in NAMED:
        return
    known = set(card.labels)
    for example in examples:
        for name in _names(example.label):
            if name not in known:
                some = ", ".join(card.labels[:10]) + (", …" if len(card.labels) > 10 else "")
                raise DatasetInvalid(
                    f"Line {example.line}: '{model}' does not know the label '{name[:80]}'.",
                    param="label",
                    hint=f"Its labels are: {some}. Name the right column in 'label', or leave such rows out.",
                )


def targets(examples: Sequence[Example], problem: Problem, labels: Sequence[str]) -> Any:
    """The rows' labels as `app.quality` takes them; `labels` are all that either model knows."""
    number = {name: n for n, name in enumerate(labels)}
    match problem:
        case "single_label":
            return np.array([number[str(example.label)] for example in examples])
        case "multi_label":
            found_NC = np.zeros((len(examples), len(labels)))
            for n, example in enumerate(examples):
                found_NC[n, [number[name] for name in _names(example.label)]] = 1
            return found_NC
        case "tokens":
            return [np.array([number[name] for name in _names(example.label)], dtype=np.int64) for example in examples]
        case "ranking":
            return [np.array(example.label, dtype=np.float64) for example in examples]
        case _:
            return np.array([float(example.label) for example in examples])


def outputs(
    examples: Sequence[Example], answers: Sequence[Sequence[Answer]], kind: Kind, card: ModelCard, labels: Sequence[str]
) -> Any:
    """One model's answers, row by row, as `app.quality` takes them."""
    if kind == "words":
        pairs = zip(examples, answers, strict=True)
        return [_words(example.text, answer[0], card.labels, labels) for example, answer in pairs]
    rows = [np.stack([np.frombuffer(answer.payload, dtype="<f4") for answer in row]).astype(np.float64) for row in answers]
    if card.problem == "ranking":
        return [scores[:, 0] for scores in rows] if kind == "value" else [_cosines(vectors) for vectors in rows]
    if card.problem == "embedding":
        return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
    values_NC = np.concatenate(rows)
    if kind == "value":
        return values_NC[:, 0]
    at = [list(labels).index(name) for name in card.labels]
    logits_NC = np.full((len(rows), len(labels)), np.log(_LEAST))
    if kind == "scores":
        logits_NC[:, at] = np.log(np.maximum(values_NC, _LEAST))
    else:
        sure_NC = np.clip(values_NC, _SURE, 1 - _SURE)
        logits_NC[:, at] = np.log(sure_NC) - np.log1p(-sure_NC)
    return logits_NC


def _names(label: Any) -> list[str]:
    return [str(name) for name in label] if isinstance(label, list) else [str(label)]


def _cosines(vectors: Any) -> Any:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit[1:] @ unit[0]


def _words(words: Sequence[str], answer: Answer, own: Sequence[str], labels: Sequence[str]) -> Any:
    """[T, C]: 1 at the label of each given word, which is that of the model's word that starts where it starts.

    A word that the model does not reach, because the text was cut, is outside of everything.
    """
    found = {start: own[number] for start, _, number, _ in np.frombuffer(answer.payload, dtype=entities.WORD).tolist()}
    outside = labels.index("O") if "O" in labels else None
    one_hot_TC = np.zeros((len(words), len(labels)))
    start = 0
    for n, word in enumerate(words):
        label = labels.index(found[start]) if start in found else outside
        if label is not None:
            one_hot_TC[n, label] = 1
        start += len(word) + 1
    return one_hot_TC
