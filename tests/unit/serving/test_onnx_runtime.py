"""Pairs and words as the backend gives them to a graph: the same that transformers makes of them in training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.serving.backends.base import ModelCard
from app.serving.backends.onnx_runtime import OnnxRuntime
from app.serving.warmup import measure
from app.serving.words import words
from tests.fixtures.students import WORDS, write_student
from tests.fixtures.tiny import make_tokenizer


def load(folder: Path, **options: Any) -> tuple[OnnxRuntime, ModelCard]:
    write_student(folder, **options)
    card = ModelCard.model_validate(json.loads((folder / "retort.json").read_text()))
    return OnnxRuntime.load(folder, card.backends[0], card, 1), card


STUDENTS: list[dict[str, Any]] = [
    {"problem": "multi_label"},
    {"problem": "multi_label", "pairs": True},
    {"problem": "single_label", "pairs": True, "types": True},
    {"problem": "single_label", "types": True},
    {"problem": "regression"},
    {"problem": "tokens", "labels": ("O", "B-X", "I-X")},
    {"problem": "tokens", "labels": ("O", "B-X", "I-X"), "types": True},
    {"problem": "embedding"},
    {"problem": "masked_lm"},
    {"problem": "ranking", "pairs": True, "scorer": "cross_encoder", "types": True},
    {"problem": "ranking", "pairs": True, "scorer": "bi_encoder"},
]


@pytest.mark.parametrize("options", STUDENTS, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_a_student_of_every_task_is_warmed_and_exact_in_batches(tmp_path: Path, options: dict[str, Any]) -> None:
    backend, card = load(tmp_path / "m", **options)
    measured = measure(backend, card)
    assert measured.exact_in_batches, measured.batch_error
    assert measured.costs


@pytest.mark.parametrize("options", [{"problem": "tokens", "labels": ("O", "B-X")}, {"problem": "regression"}])
def test_int8_with_one_scale_for_a_batch_is_noticed_for_words_and_numbers_too(tmp_path: Path, options: dict[str, Any]) -> None:
    backend, card = load(tmp_path / "m", hidden=64, precision="int8", **options)
    assert not measure(backend, card).exact_in_batches


def test_the_graph_must_take_what_the_card_says(tmp_path: Path) -> None:
    write_student(tmp_path / "m", problem="single_label", types=True)
    card = json.loads((tmp_path / "m" / "retort.json").read_text())
    for inputs in (None, ["input_ids", "attention_mask", "position_ids"]):
        read = ModelCard.model_validate(card | {"inputs": inputs})
        with pytest.raises(ValueError, match="token_type_ids"):
            OnnxRuntime.load(tmp_path / "m", read.backends[0], read, 1)
    nothing = ModelCard.model_validate(card | {"labels": None, "embedding_dim": None})
    with pytest.raises(ValueError, match="neither"):
        OnnxRuntime.load(tmp_path / "m", nothing.backends[0], nothing, 1)
    tokens = ModelCard.model_validate(card | {"problem": "tokens"})
    with pytest.raises(ValueError, match="logits has shape"):
        measure(OnnxRuntime.load(tmp_path / "m", tokens.backends[0], tokens, 1), tokens)


def test_pairs_are_encoded_and_cut_as_in_training(tmp_path: Path) -> None:
    write_student(tmp_path / "m", problem="single_label", pairs=True, types=True, max_length=16)
    reference = make_tokenizer()
    reference.backend_tokenizer.save(str(tmp_path / "m" / "tokenizer.json"))
    card = ModelCard.model_validate(json.loads((tmp_path / "m" / "retort.json").read_text()))
    backend = OnnxRuntime.load(tmp_path / "m", card.backends[0], card, 1)
    pairs = [("refund", "card"), (" ".join(WORDS), "card"), ("my card", " ".join(WORDS)), (" ".join(WORDS), " ".join(WORDS[9:]))]
    first, second = ([pair[n] for pair in pairs] for n in (0, 1))
    expected = reference(first, second, truncation=True, max_length=16, return_token_type_ids=True)
    rows = backend.prepare(pairs)
    assert [row.ids for row in rows] == expected["input_ids"]
    assert [row.types for row in rows] == expected["token_type_ids"]
    assert [row.truncated for row in rows] == [False, True, True, True]
    assert all(set(row.types or []) == {0, 1} for row in rows)
    # The types reach the graph: the halves swapped are another question.
    forth, back = backend.forward(backend.prepare([("refund", "card"), ("card", "refund")])).logits  # type: ignore[misc]
    assert np.abs(forth - back).max() > 1e-3


def test_words_begin_where_training_puts_their_label(tmp_path: Path) -> None:
    write_student(tmp_path / "m", problem="tokens", labels=("O", "B-X"), max_length=20)
    reference = make_tokenizer()
    reference.backend_tokenizer.save(str(tmp_path / "m" / "tokenizer.json"))
    card = ModelCard.model_validate(json.loads((tmp_path / "m" / "retort.json").read_text()))
    backend = OnnxRuntime.load(tmp_path / "m", card.backends[0], card, 1)
    texts = ["my card, unbelievably, arrived 19-days late!", "O'Neil  refunds\t(U.S.)", " ".join(WORDS), "  ", "ok"]
    for text, row in zip(texts, backend.prepare(texts), strict=True):
        spans = words(text)
        split = [text[a:b] for a, b in spans]
        encoded = reference(split, is_split_into_words=True, truncation=True, max_length=20)
        owners = encoded.word_ids()
        firsts = [(n, *spans[w]) for n, w in enumerate(owners) if w is not None and w not in owners[:n]]
        assert row.ids == encoded["input_ids"]
        assert row.words is not None
        assert [tuple(word) for word in row.words.tolist()] == firsts
        assert row.truncated is (len(reference(split, is_split_into_words=True)["input_ids"]) > 20)
    with pytest.raises(ValueError, match="pairs"):
        backend.prepare([("a", "b")])
