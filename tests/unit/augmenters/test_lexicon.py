"""Which words of a text and of a vocabulary can be replaced."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.fixtures.tiny import FILLERS, INTENTS, make_tokenizer
from worker.writing.lexicon import Lexicon, Neighbours, sentences


def metaspace() -> PreTrainedTokenizerFast:
    """As XLM-R and Llama cut: punctuation belongs to the word before it, a word begins with a mark."""
    pieces = [("<unk>", 0.0), ("▁where", -2.0), ("▁card", -2.0), ("s", -3.0), (",", -3.0), ("▁", -4.0), ("d", -5.0), ("card", -6.0)]
    tokenizer = Tokenizer(models.Unigram([(p, s) for p, s in pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2 and RoBERTa cut: a space belongs to the word behind it."""
    words = ["Ġcard", "Ġwhere", "card", "ing"]
    merges = []
    vocabulary = {piece: n for n, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for word in words:
        piece = word[0]
        for letter in word[1:]:
            merges.append((piece, letter))
            piece += letter
            vocabulary.setdefault(piece, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("My card, please!", ["My", "card", "please"]),
        ("I don't know why", ["know", "why"]),
        ("route 66 or B52 a x2", ["route", "or"]),
        ("refunds refundable", ["refunds", "refundable"]),
        ("银行 card", ["card"]),  # what the vocabulary does not know cannot be replaced
        ("", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    (sentence,) = sentences([text], make_tokenizer(), 64)
    assert [sentence.word(n) for n in range(len(sentence.words))] == words


def test_a_word_knows_its_pieces_and_the_cut_is_heeded() -> None:
    tokenizer = make_tokenizer()
    (sentence,) = sentences(["card refundable money"], tokenizer, 64)
    pieces = [tokenizer.convert_ids_to_tokens(list(sentence.pieces(n))) for n in range(3)]
    assert pieces == [["card"], ["refund", "##a", "##b", "##l", "##e"], ["money"]]
    (short,) = sentences(["card money refund"], tokenizer, 4)
    assert [short.word(n) for n in range(len(short.words))] == ["card", "money"]


def test_what_comes_in_place_of_a_word_is_written_as_it_was() -> None:
    (sentence,) = sentences(["My CARD, a refund."], make_tokenizer(), 64)
    assert sentence.replaced({0: "the", 1: "money", 2: "account"}) == "The MONEY, a account."
    assert sentence.replaced({2: "PIN"}) == "My CARD, a PIN."
    assert sentence.replaced({}) == sentence.text


def test_whole_words_of_a_vocabulary() -> None:
    tokenizer = make_tokenizer()
    expected = {w for group in INTENTS.values() for w in group} | {w for w in FILLERS if len(w) > 1}
    lexicon = Lexicon(tokenizer)
    assert set(lexicon.words) == expected
    assert tokenizer.convert_ids_to_tokens(lexicon.ids_W.tolist()) == lexicon.words


def test_pieces_that_only_go_on_a_word_are_none() -> None:
    unigram = metaspace()
    assert Lexicon(unigram).words == ["where", "card"]
    (sentence,) = sentences(["where cards, card"], unigram, 64)
    assert [(sentence.word(n), len(sentence.pieces(n))) for n in range(3)] == [("where", 1), ("cards", 2), ("card", 1)]
    bpe = byte_level()
    lexicon = Lexicon(bpe)
    assert {"Ġcard", "Ġwhere"} <= set(bpe.convert_ids_to_tokens(lexicon.ids_W.tolist()))
    assert "ing" not in lexicon.words
    assert lexicon.words.count("card") == 1  # the one with a space, not the one without
    (sentence,) = sentences(["where card"], bpe, 64)
    assert sentence.word(len(sentence.words) - 1) == "card"


def test_neighbours_are_the_nearest_by_cosine_without_the_mean() -> None:
    tokenizer = make_tokenizer()
    lexicon = Lexicon(tokenizer)
    table = torch.randn(len(tokenizer), 6, generator=torch.Generator().manual_seed(0)) + 5.0
    x = table.double().numpy()[lexicon.ids_W.numpy()]
    x -= x.mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    near = np.argsort(-(x @ x.T), axis=1)
    found = Neighbours(table, lexicon).of(lexicon.ids_W.tolist(), 5)
    for w, others in enumerate(found):
        assert others == [lexicon.words[i] for i in near[w] if i != w][:5]
