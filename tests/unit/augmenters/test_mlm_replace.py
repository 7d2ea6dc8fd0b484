"""Words replaced: which, by which, how many, for every task, the same for the same seed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, BertForMaskedLM

from app.domain.errors import IncompatibleModels
from tests.unit.augmenters.conftest import Record, records_of
from worker.augmenters.base import Scene
from worker.augmenters.mlm_replace import MlmReplace
from worker.writing.lexicon import Lexicon

Scenes = Callable[..., Scene]
CHANGED = {"single_label": ("text",), "pairs": ("text", "text_b"), "multi_label": ("text",), "regression": ("text",)}


def wrote(records: list[Record], scene: Scene, **params: Any) -> list[Record]:
    return list(MlmReplace(**params).write(records, scene))


def differing(old: str, new: str) -> list[tuple[str, str]]:
    """(word, its successor) of two texts with as many words."""
    return [(a, b) for a, b in zip(old.split(" "), new.split(" "), strict=True) if a != b]


@pytest.mark.parametrize("problem", ["single_label", "pairs", "multi_label", "regression"])
def test_one_text_of_a_row_changes(problem: str, scene: Scenes, masked: Path, texts: list[Record]) -> None:
    records = records_of(problem, texts)
    rows = wrote(records, scene(problem, teachers=(masked,)), factor=2)
    assert len(rows) == 2 * len(records)
    changed: Counter[str] = Counter()
    for row in rows:
        parent = records[row["source"]["parent"]]
        assert row["source"] == {"augmenter": "mlm_replace", "parent": parent["id"]}
        assert set(row) == (set(parent) | {"source"}) - {"id"}
        assert row["label"] is None
        fields = [name for name in CHANGED[problem] if row[name] != parent[name]]
        assert len(fields) == 1
        assert differing(parent[fields[0]], row[fields[0]])
        changed[fields[0]] += 1
    assert set(changed) == set(CHANGED[problem])


def test_tagged_words_change_where_they_are_outside(scene: Scenes, masked: Path, texts: list[Record]) -> None:
    records = records_of("tokens", texts)
    for record in records[::3]:
        record["label"] = None  # no tags: every word may change
    rows = wrote(records, scene("tokens", teachers=(masked,)), factor=3)
    inside_changed = 0
    for row in rows:
        parent = records[row["source"]["parent"]]
        assert len(row["words"]) == len(parent["words"])
        at = [n for n, (a, b) in enumerate(zip(parent["words"], row["words"], strict=True)) if a != b]
        assert at
        if parent["label"] is not None:
            assert all(parent["label"][n] == 0 for n in at)
        else:
            inside_changed += sum(len(parent["words"][n]) > 5 for n in at)
    assert inside_changed > 0


def test_words_that_hold_spaces_or_signs_stay_whole(scene: Scenes, masked: Path) -> None:
    records = [{"id": 0, "words": ["my", "new york", "card", "b-2", "lost"], "label": [0, 0, 0, 0, 0]}]
    rows = wrote(records, scene("tokens", teachers=(masked,)), factor=20, share=1.0)
    assert rows
    for row in rows:
        assert (len(row["words"]), row["words"][1], row["words"][3]) == (5, "new york", "b-2")


def test_a_query_changes_and_its_documents_stay(scene: Scenes, masked: Path, texts: list[Record]) -> None:
    records = records_of("ranking", texts)
    for row in wrote(records, scene("ranking", teachers=(masked,)), factor=1):
        parent = records[row["source"]["parent"]]
        assert row["documents"] == parent["documents"]
        assert row["query"] != parent["query"]


def test_texts_to_embed_are_rows_by_themselves(scene: Scenes, masked: Path, texts: list[Record]) -> None:
    records = records_of("embedding", texts)
    rows = wrote(records, scene("embedding", teachers=(masked,)), factor=4)
    second = 0
    for row in rows:
        assert "text_b" not in row
        parent = records[row["source"]["parent"]]
        own, other = (parent.get(name, "") for name in ("text", "text_b"))
        same_length = [text for text in (own, other) if len(text.split(" ")) == len(row["text"].split(" "))]
        assert same_length
        second += own not in same_length
    assert second > 5


def test_the_same_seed_gives_the_same_rows(scene: Scenes, masked: Path, texts: list[Record]) -> None:
    first, again, other = (wrote(texts, scene(seed=seed, teachers=(masked,)), factor=1.5) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(first) == 60


def test_successors_are_the_words_that_the_model_finds_most_probable(scene: Scenes, masked: Path, texts: list[Record]) -> None:
    """Every successor is among the best of a plain pass of the model over the text with that word masked."""
    tokenizer, model = AutoTokenizer.from_pretrained(masked), BertForMaskedLM.from_pretrained(masked)
    model.train(False)
    words = Lexicon(tokenizer).words
    numbers = tokenizer.convert_tokens_to_ids(words)
    ranks: Counter[int] = Counter()
    for row in wrote(texts[:10], scene(teachers=(masked,)), factor=6, candidates=3, max_changed=1):
        parent = texts[row["source"]["parent"]]["text"].split(" ")
        (at,) = [n for n, (a, b) in enumerate(zip(parent, row["text"].split(" "), strict=True)) if a != b]
        text = " ".join([*parent[:at], tokenizer.mask_token, *parent[at + 1 :]])
        encoded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            scores = model(**encoded).logits[0, encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
        best = [words[i] for i in scores[numbers].argsort(descending=True).tolist() if words[i] != parent[at]][:3]
        ranks[best.index(row["text"].split(" ")[at])] += 1
    assert set(ranks) == {0, 1, 2}


def test_a_word_of_several_pieces_is_one_mask(scene: Scenes, masked: Path) -> None:
    records = [{"id": 0, "text": "my refundable card", "label": 0}]
    rows = wrote(records, scene(teachers=(masked,)), factor=30, max_changed=1)
    changed = {pair[0] for row in rows for pair in differing("my refundable card", row["text"])}
    assert changed == {"my", "refundable", "card"}


def test_without_a_masked_language_model_embeddings_are_asked(scene: Scenes, encoder: Path, texts: list[Record]) -> None:
    records = [*texts[:10], {"id": 10, "text": "my refundable card", "label": 0}]
    rows = wrote(records, scene(teachers=(encoder, encoder)), factor=8, candidates=4)
    seen: dict[str, set[str]] = {}
    for row in rows:
        for old, new in differing(records[row["source"]["parent"]]["text"], row["text"]):
            seen.setdefault(old, set()).add(new)
    assert "refundable" not in seen  # no single piece: it has no neighbours
    assert all(len(others) <= 4 for others in seen.values())  # of a word, wherever it stands
    assert any(len(others) == 4 for others in seen.values())


def test_the_model_that_the_teacher_came_from_guesses(scene: Scenes, encoder: Path, masked: Path, texts: list[Record]) -> None:
    guessed = wrote(texts, scene(teachers=(masked, masked)))
    assert wrote(texts, scene(teachers=(encoder, masked))) == guessed
    assert wrote(texts, scene(teachers=(encoder, encoder), model=masked)) == guessed
    assert wrote(texts, scene(teachers=(encoder, encoder))) != guessed


@pytest.mark.parametrize("share", [0.15, 0.6])
def test_share_is_the_probability_of_a_change(share: float, scene: Scenes, masked: Path, texts: list[Record]) -> None:
    rows = wrote(texts, scene(teachers=(masked,)), factor=6, share=share)
    parents = [texts[row["source"]["parent"]]["text"].split(" ") for row in rows]
    free = [sum(len(word) > 1 for word in parent) for parent in parents]
    changed = sum(len(differing(" ".join(parent), row["text"])) for parent, row in zip(parents, rows, strict=True))
    expected = sum(share * n + (1 - share) ** n for n in free)  # one word at least changes
    deviation = sum(share * (1 - share) * n for n in free) ** 0.5
    assert abs(changed - expected) < 4 * deviation


def test_bounds_on_changed_words(scene: Scenes, masked: Path, texts: list[Record]) -> None:
    short: Record = {"id": 40, "text": "my card", "label": 1}
    rows = wrote([*texts, short], scene(teachers=(masked,)), factor=3, share=0.5, min_changed=3, max_changed=4)
    counts = Counter(len(differing(texts[row["source"]["parent"]]["text"], row["text"])) for row in rows)
    assert set(counts) == {3, 4}
    assert len(rows) == 3 * len(texts)  # none of the short one


@pytest.mark.parametrize(
    "params",
    [
        {"share": 0},
        {"share": 1.1},
        {"candidates": 0},
        {"factor": 0},
        {"factor": 101},
        {"min_changed": 0},
        {"max_similarity": 0.2},
        {"min_confidence": 1.5},
        {"source": "openai"},
        {"model": ""},
        {"words": 3},
    ],
)
def test_bad_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MlmReplace(**params)


def test_max_changed_never_undercuts_min_changed(scene: Scenes, masked: Path, texts: list[Record]) -> None:
    rows = wrote(texts, scene(teachers=(masked,)), factor=1, share=1.0, min_changed=3, max_changed=2)
    assert {len(differing(texts[row["source"]["parent"]]["text"], row["text"])) for row in rows} == {3}


def test_a_model_that_guesses_no_words_is_refused(scene: Scenes, encoder: Path, texts: list[Record]) -> None:
    with pytest.raises(IncompatibleModels) as refused:
        wrote(texts, scene(model=encoder))
    assert refused.value.hint


def test_it_stops_when_it_is_asked_to(scene: Scenes, masked: Path, texts: list[Record]) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    made = scene(teachers=(masked,))
    with pytest.raises(Stop):
        wrote(texts, Scene(made.teachers, made.head, made.device, made.dtype, made.seed, stop))
