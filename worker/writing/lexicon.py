"""Words of a text and of a vocabulary: which can be replaced, and by which.

A word is a run of letters that a tokenizer cuts into pieces of its own: one alphabetic run within what its pre-tokenizer
calls a word, so the single character in Chinese BERT, and "hello" in "hello," everywhere. Shapes: W words of the
vocabulary, D hidden, Q words asked about.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import normalize

_LETTERS = re.compile(r"[^\W\d_]+")
_BEFORE = "a"  # a word in front: what follows it is cut as inside a sentence
_ASKED = 256  # words compared with the vocabulary at once
_SPARE = 8  # the word itself in other cases


@dataclass(frozen=True)
class Word:
    start: int  # in the text
    end: int
    at: tuple[int, ...]  # its pieces' positions among the tokens


@dataclass(frozen=True)
class Sentence:
    text: str
    ids: list[int]  # with special tokens
    words: list[Word]

    def word(self, n: int) -> str:
        return self.text[self.words[n].start : self.words[n].end]

    def pieces(self, n: int) -> tuple[int, ...]:
        return tuple(self.ids[i] for i in self.words[n].at)

    def replaced(self, others: dict[int, str]) -> str:
        """The text with these of its words replaced, written in the case of what was there."""
        text = self.text
        for n in sorted(others, reverse=True):
            word = self.words[n]
            text = text[: word.start] + self.in_case(n, others[n]) + text[word.end :]
        return text

    def in_case(self, n: int, other: str) -> str:
        return _cased_like(self.word(n), other)


def sentences(texts: Sequence[str], tokenizer: Any, max_length: int) -> list[Sentence]:
    """Texts with their replaceable words, as far as the model reads them. The tokenizer must be a fast one."""
    if not texts:
        return []
    found = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False)
    return [Sentence(t, list(found["input_ids"][n]), _words(t, found[n], tokenizer.unk_token_id)) for n, t in enumerate(texts)]


def _words(text: str, encoding: Any, unknown: int | None) -> list[Word]:
    spans: dict[int, list[tuple[int, int, int]]] = {}  # pre-tokenizer's word → (start, end, position) of its pieces
    for position, (word, (start, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
        while start < end and text[start].isspace():
            start += 1
        if word is not None and start < end:
            spans.setdefault(word, []).append((start, end, position))
    words = []
    for pieces in spans.values():
        first, last = pieces[0][0], pieces[-1][1]
        for run in _LETTERS.finditer(text, first, last):
            inside = [p for p in pieces if run.start() <= p[0] and p[1] <= run.end()]
            whole = inside and inside[0][0] == run.start() and inside[-1][1] == run.end()
            read = all(encoding.ids[p[2]] != unknown for p in inside)
            if whole and read and replaceable(text, run.start(), run.end()):
                words.append(Word(run.start(), run.end(), tuple(p[2] for p in inside)))
    return words


def replaceable(text: str, start: int, end: int) -> bool:
    """Neither a single Latin letter nor a part of "don't"."""
    if text[max(0, start - 1) : start] in ("'", "’") or text[end : end + 1] in ("'", "’"):
        return False
    return _worth(text[start:end])


def _worth(word: str) -> bool:
    return word.isalpha() and (len(word) > 1 or not word.isascii())


def _cased_like(old: str, new: str) -> str:
    if not new.islower():
        return new
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new


class Lexicon:
    """The vocabulary's whole words: tokens that are a word by themselves, so that one mask can stand for them."""

    def __init__(self, tokenizer: Any) -> None:
        plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        plain.no_padding()
        plain.no_truncation()
        special = set(tokenizer.all_special_ids)
        numbers = [i for i in range(plain.get_vocab_size()) if i not in special]
        texts = [text.strip() for text in plain.decode_batch([[i] for i in numbers], skip_special_tokens=False)]
        kept = [(i, text) for i, text in zip(numbers, texts, strict=True) if _worth(text)]
        before = plain.encode(_BEFORE, add_special_tokens=False).ids
        again = plain.encode_batch_fast([f"{_BEFORE} {text}" for _, text in kept], add_special_tokens=False)
        kept = [pair for pair, encoding in zip(kept, again, strict=True) if encoding.ids == [*before, pair[0]]]
        self.ids_W = torch.tensor([i for i, _ in kept], dtype=torch.long)
        self.words = [text for _, text in kept]

    def __len__(self) -> int:
        return len(self.words)

    def best(self, scores_QW: Tensor, words: Sequence[str], k: int) -> list[list[str]]:
        """For each word the k others with the highest score; the same word in another case is none."""
        found = []
        for word, indices in zip(words, scores_QW.topk(min(k + _SPARE, len(self)), dim=1).indices.tolist(), strict=True):
            others = {self.words[i].casefold(): self.words[i] for i in reversed(indices)}
            others.pop(word.casefold(), None)
            found.append([*reversed(others.values())][:k])
        return found


class Neighbours:
    """Words whose input embeddings point the same way: the cosine of vectors with the mean of all words taken off.

    They say what kind of word it is, not what the sentence needs. A word of several pieces has no embedding of its own.
    """

    def __init__(self, table_VD: Tensor, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        words_WD = table_VD[lexicon.ids_W.to(table_VD.device)].float()
        self._unit_WD = normalize(words_WD - words_WD.mean(0), dim=1)
        self._place = {i: w for w, i in enumerate(lexicon.ids_W.tolist())}
        self._known: dict[tuple[int, int], list[str]] = {}  # (piece, k) → its neighbours, wherever it stands

    def knows(self, pieces: Sequence[int]) -> bool:
        return len(pieces) == 1 and pieces[0] in self._place

    def of(self, pieces: Sequence[int], k: int) -> list[list[str]]:
        """For words of one piece that it knows."""
        new = [i for i in dict.fromkeys(pieces) if (i, k) not in self._known]
        for start in range(0, len(new), _ASKED):
            part = new[start : start + _ASKED]
            places = [self._place[i] for i in part]
            scores_QW = self._unit_WD[places] @ self._unit_WD.T
            found = self._lexicon.best(scores_QW, [self._lexicon.words[w] for w in places], k)
            self._known |= {(i, k): others for i, others in zip(part, found, strict=True)}
        return [self._known[i, k] for i in pieces]
