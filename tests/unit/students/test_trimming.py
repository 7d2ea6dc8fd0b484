"""Fewer tokens: the job's own texts fall into the same pieces, the model says the same of them, unseen words are still spelt."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.domain.errors import UnsupportedMethod
from tests.fixtures.encoders import (
    TASKS,
    byte_bpe_tokenizer,
    head_of,
    make_origin,
    make_records,
    make_teacher,
    unigram_tokenizer,
)
from tests.fixtures.tiny import make_tokenizer
from worker.rows import collate
from worker.students.base import Origin
from worker.students.teacher_layers import TeacherLayers
from worker.surgery import trimming
from worker.surgery.trimming import TrimVocabulary

KINDS: dict[str, tuple[str, Callable[[], PreTrainedTokenizerFast]]] = {
    "wordpiece": ("bert", make_tokenizer),
    "byte_bpe": ("roberta", byte_bpe_tokenizer),
    "unigram": ("xlm-roberta", unigram_tokenizer),
}
CORPUS = ["please tell me about my card", "the quick card is lost", "i need help with the lazy dog", "why is my parcel late ?"]
UNSEEN = ["quickly brown jumps", "telling a zebra", "savings", "my card"]


def _trim(folder: Path, kind: str, corpus: list[Any] = CORPUS, **options: Any) -> tuple[dict[str, Any], Path, Path]:
    family, make = KINDS[kind]
    teacher = make_teacher(folder / "teacher", family, "single_label", make())
    told = trimming.trim(
        teacher, folder / "out", head_of("single_label").load, corpus, UNSEEN, TrimVocabulary(**{"common": 0} | options)
    )
    return told, teacher, folder / "out"


@pytest.mark.parametrize("kind", KINDS)
def test_the_jobs_own_texts_mean_the_same_to_both(tmp_path: Path, kind: str) -> None:
    told, whole, trimmed = _trim(tmp_path, kind)
    assert told["same_segmentation"] is True
    assert told["after"] < told["before"]
    theirs, ours = (AutoTokenizer.from_pretrained(folder) for folder in (whole, trimmed))
    assert len(ours) == told["after"]
    ids = trimming.correspondence(ours, theirs)
    for pair in ((CORPUS,), (CORPUS, CORPUS[::-1])):
        wanted = theirs(*pair)["input_ids"]
        assert [[ids[i] for i in row] for row in ours(*pair)["input_ids"]] == wanted
    before, after = (head_of("single_label").load(folder).train(False) for folder in (whole, trimmed))
    found = []
    for model, tokenizer in ((before, theirs), (after, ours)):
        encoded = tokenizer(CORPUS, padding=True, return_tensors="pt")
        with torch.no_grad():
            found.append(model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits)
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert after.config.vocab_size == told["after"] == after.get_input_embeddings().num_embeddings
    assert after.config.pad_token_id == ours.pad_token_id


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_words_are_spelt_and_what_is_lost_is_counted(tmp_path: Path, kind: str) -> None:
    told, whole, trimmed = _trim(tmp_path, kind)
    theirs, ours = (AutoTokenizer.from_pretrained(folder) for folder in (whole, trimmed))
    assert told["unknown_share"] == told["unknown_share_before"] == 0.0
    lengths = [sum(len(row) for row in t(UNSEEN, add_special_tokens=False)["input_ids"]) for t in (theirs, ours)]
    assert told["longer"] == pytest.approx(lengths[1] / lengths[0] - 1, abs=1e-6)
    assert told["longer"] >= 0
    for text in UNSEEN:
        decoded = ours.decode(ours(text, add_special_tokens=False)["input_ids"]).replace("##", "")
        assert decoded.replace(" ", "") == text.replace(" ", "")


def test_characters_of_the_corpus_alone_lose_the_others(tmp_path: Path) -> None:
    told, _, trimmed = _trim(tmp_path, "wordpiece", characters="corpus")
    ours = AutoTokenizer.from_pretrained(trimmed)
    assert told["unknown_share"] > 0
    assert ours.unk_token_id in ours("42")["input_ids"]
    assert ours.unk_token_id not in ours("quill")["input_ids"]
    everything, _, _ = _trim(tmp_path / "all", "wordpiece")
    assert told["after"] < everything["after"]


def test_a_byte_vocabulary_keeps_every_byte_whatever_is_asked(tmp_path: Path) -> None:
    told, _, trimmed = _trim(tmp_path, "byte_bpe", characters="corpus")
    ours = AutoTokenizer.from_pretrained(trimmed)
    assert ours.decode(ours("Ωß 漢字", add_special_tokens=False)["input_ids"]).strip() == "Ωß 漢字"
    assert told["same_segmentation"] is True


def test_common_tokens_stay_in_the_vocabularys_order(tmp_path: Path) -> None:
    few, whole, fewest = _trim(tmp_path, "wordpiece", characters="corpus")
    more, _, trimmed = _trim(tmp_path / "more", "wordpiece", characters="corpus", common=7)
    theirs, least, ours = (AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (whole, fewest, trimmed))
    left = [word for word in sorted(theirs, key=theirs.__getitem__) if word not in least]
    assert ours.keys() - least.keys() == set(left[:7])
    assert more["after"] == few["after"] + 7
    assert more["same_segmentation"] is True


def test_rare_tokens_may_go_too_and_the_report_says_that_rows_are_cut_anew(tmp_path: Path) -> None:
    told, _, _ = _trim(tmp_path, "wordpiece", min_count=2)
    assert told["same_segmentation"] is False
    assert told["after"] < _trim(tmp_path / "all", "wordpiece")[0]["after"]


@pytest.mark.parametrize("kind", KINDS)
def test_segmentation_holds_for_many_texts(tmp_path: Path, kind: str) -> None:
    """Merges, paths and longest matches are those of the whole vocabulary, also where many words share their pieces."""
    words = [a + b for a in ("quick", "tell", "card", "abo", "lazy") for b in ("ly", "ing", "", "s", "ut", "card")]
    corpus = [" ".join(words[n : n + 5]) for n in range(len(words) - 5)]
    told, _, _ = _trim(tmp_path, kind, corpus)
    assert told["same_segmentation"] is True


def test_the_file_is_consistent_for_readers_of_its_own(tmp_path: Path) -> None:
    """Serving reads tokenizer.json alone."""
    _, _, trimmed = _trim(tmp_path, "unigram")
    ours, plain = AutoTokenizer.from_pretrained(trimmed), Tokenizer.from_file(str(trimmed / "tokenizer.json"))
    for text in (*CORPUS, *UNSEEN):
        assert plain.encode(text).ids == ours(text)["input_ids"]
    described = json.loads((trimmed / "tokenizer.json").read_text())
    for token in described["added_tokens"]:
        assert plain.token_to_id(token["content"]) == token["id"]
    assert {path.name for path in trimmed.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_tokenizers_of_another_kind_are_refused_with_the_way_out(tmp_path: Path) -> None:
    words = ["<pad>", "<unk>", "a", "b"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    teacher = make_teacher(tmp_path / "teacher", "bert", "single_label", made)
    with pytest.raises(UnsupportedMethod, match="WordLevel") as refused:
        trimming.trim(teacher, tmp_path / "out", head_of("single_label").load, ["a b"], [], TrimVocabulary())
    assert refused.value.param == "student.trim_vocabulary"
    assert "WordPiece" in (refused.value.hint or "")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_finds_its_texts(tmp_path: Path, task: str) -> None:
    records = make_records(task, tmp_path, 6)
    joined = " ".join(" ".join(t) if isinstance(t, list) else t for t in trimming.texts_of(records))
    assert len(joined.split()) >= 6 * 5
    for record in records:
        for value in record.values():
            if isinstance(value, str):
                assert value in joined


# -- as an option of an initialiser ---------------------------------------------------------------------------------------


def _same_hidden_states(origin: Origin, init: TeacherLayers, student: Any) -> bool:
    rows = [
        origin.head.encode(origin.sample, AutoTokenizer.from_pretrained(folder))
        for folder in (origin.teacher_dir, init.tokenizer_dir(origin))
    ]
    teacher = origin.teacher_head.load(origin.teacher_dir).train(False)
    found = []
    for model, own in zip((teacher, student.train(False)), rows, strict=True):
        batch = collate(replace(own, masking=None, positions=None, problem="single_label", labels=[0] * len(own)), range(8))
        with torch.no_grad():
            out = model.base_model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
            found.append(out.last_hidden_state)
    return found[0].shape == found[1].shape and torch.allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("task", ["single_label", "tokens", "masked_lm"])
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_still_align_token_by_token(tmp_path: Path, kind: str, task: str) -> None:
    family, make = KINDS[kind]
    origin = make_origin(tmp_path, family, task, tokenizer=make())
    init = TeacherLayers(layers=4, trim_vocabulary={"common": 0})
    student = init.build(origin)
    assert init.plan["vocabulary"]["after"] < init.plan["vocabulary"]["before"] or kind == "wordpiece"
    assert init.plan["vocabulary"]["same_segmentation"] is True
    assert _same_hidden_states(origin, init, student)
    if task == "masked_lm":
        assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
        assert student.get_output_embeddings().out_features == init.plan["vocabulary"]["after"]
    origin.head.save(student, init.tokenizer_dir(origin), tmp_path / "saved")
    again = origin.head.load(tmp_path / "saved").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in student.state_dict().items())


def test_a_narrower_student_may_be_trimmed_too(tmp_path: Path) -> None:
    origin = make_origin(tmp_path, "roberta", "masked_lm", tokenizer=byte_bpe_tokenizer())
    init = TeacherLayers(layers=2, hidden_size=16, trim_vocabulary={"min_count": 2, "common": 0})
    student = init.build(origin)
    assert student.get_input_embeddings().weight.shape == (init.plan["vocabulary"]["after"], 16)
    assert 0 < init.plan["variance_kept"] <= 1
