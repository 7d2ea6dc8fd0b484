"""Words replaced by others that a masked language model would put there: TinyBERT's augmentation."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from pydantic import Field
from transformers import AutoTokenizer

from app.domain.errors import IncompatibleModels, UnsupportedMethod
from worker.augmenters.base import ModelParams, Record, Scene, Writer, alone
from worker.writing.lexicon import Lexicon, Neighbours, Sentence, sentences
from worker.writing.masked import Guesser, Place, has_head

CHUNK = 64  # records whose words are looked up together


@dataclass(frozen=True)
class _Copy:
    parent: Record
    field: str
    sentence: Sentence
    places: dict[int, float]  # which words change; a draw in [0, 1) that picks among the candidates


class MlmReplace(Writer):
    """Each word changes with probability `share`; its successor is drawn evenly from `candidates` words. Which words those are:

    - a masked language model, where there is one (`model`, else the teacher or the model that it was fitted from, if its
      architecture ends in ForMaskedLM): the word is masked in its text, and the most probable whole words of the vocabulary
      are taken. A word of several pieces is replaced by a single mask.
    - otherwise the teacher's input embeddings: the nearest whole words by cosine, the mean of all words taken off. Words of
      several pieces stay.

    Only words of letters change, within max_length; words of one Latin letter and parts of "don't" stay. Of pairs one side
    changes, of ranking the query, of words with tags those tagged O (all where there is no such tag); a pair of texts to embed
    gives one text. TinyBERT takes GloVe's neighbours for words of several pieces; none are shipped here.

    Errors: IncompatibleModels when `model` guesses no words; UnsupportedMethod for a tokenizer without offsets.
    Source: TinyBERT, Jiao et al. 2020, arXiv 1909.10351, algorithm 1 (there p_t = 0.4, K = 15, 20 copies).
    """

    name = "mlm_replace"
    problems: ClassVar[frozenset[str]] = frozenset({"single_label", "multi_label", "regression", "tokens", "embedding", "ranking"})
    meant: ClassVar[frozenset[str]] = frozenset({"single_label", "multi_label", "tokens"})
    architectures: ClassVar[tuple[str, ...]] = ("ForMaskedLM",)

    class Params(ModelParams):
        factor: float = Field(default=4.0, gt=0, le=100, description="Changed copies per training row, at most.")
        share: float = Field(default=0.4, gt=0, le=1, description="Probability that a word changes.")
        candidates: int = Field(default=15, ge=1, le=200, description="Words among which its successor is drawn.")
        min_changed: int = Field(default=1, ge=1, le=100, description="Words that change at least; shorter texts give no copy.")
        max_changed: int | None = Field(default=None, ge=1, le=1000, description="Words that change at most, but for min_changed.")
        model: str | None = Field(
            default=None, min_length=1, max_length=200, description="A masked language model to ask. Default: see above."
        )

    def write(self, records: Sequence[Record], scene: Scene) -> Iterator[Record]:
        words = _Words(scene, self.params.candidates)
        whole, part = divmod(self.params.factor, 1)
        extra = set(random.Random(f"{scene.seed}:extra").sample(range(len(records)), round(part * len(records))))
        for start in range(0, len(records), CHUNK):
            scene.stop()
            counted = [(r, int(whole) + (r in extra)) for r in range(start, min(start + CHUNK, len(records)))]
            chunk = partial(self._chunk, [(records[r], number) for r, number in counted], words, scene)
            yield from scene.journal.once(f"rows {start}", chunk) if words.guessed else chunk()

    def _chunk(self, counted: Sequence[tuple[Record, int]], words: "_Words", scene: Scene) -> list[Record]:
        """All copies of some records."""
        copies = [copy for record, number in counted for copy in self._copies(record, number, words, scene)]
        others = words.others([(copy.sentence, n) for copy in copies for n in copy.places])
        return [record for copy in copies if (record := self._changed(copy, others, scene)) is not None]

    def _copies(self, record: Record, number: int, words: "_Words", scene: Scene) -> Iterator[_Copy]:
        """What changes in each copy of a record: a function of the seed, the record and the copy's number."""
        fields = [name for name in ("query", "text", "text_b", "words") if record.get(name) is not None]
        texts = {name: words.sentence(record[name]) for name in fields}
        free = {name: [n for n in self._free(record, name, texts[name], scene) if words.knows(texts[name], n)] for name in fields}
        fields = [name for name in fields if len(free[name]) >= self.params.min_changed]
        if not fields:
            return
        for n in range(number):
            chance = random.Random(f"{scene.seed}:{record['id']}:{n}")
            field = chance.choice(fields)
            chosen = [w for w in free[field] if chance.random() < self.params.share]
            if (missing := self.params.min_changed - len(chosen)) > 0:
                chosen += chance.sample([w for w in free[field] if w not in chosen], missing)
            if self.params.max_changed is not None:
                most = max(self.params.max_changed, self.params.min_changed)
                chosen = chance.sample(chosen, min(most, len(chosen)))
            yield _Copy(record, field, texts[field], {w: chance.random() for w in sorted(chosen)})

    @staticmethod
    def _free(record: Record, field: str, sentence: Sentence, scene: Scene) -> list[int]:
        """The words that may change."""
        everything = range(len(sentence.words))
        if field != "words":
            return list(everything)
        at, labels = _starts(record["words"]), scene.head.about.labels
        outside = labels.index("O") if "O" in labels and record["label"] is not None else None
        free = []
        for n in everything:
            number = at.get(sentence.words[n].start)
            if number is None or sentence.word(n) != record["words"][number]:
                continue
            if outside is None or record["label"][number] == outside:
                free.append(n)
        return free

    def _changed(self, copy: _Copy, others: dict[tuple[int, int], list[str]], scene: Scene) -> Record | None:
        """None when too few of its words have a successor."""
        found = {n: others[id(copy.sentence), n] for n in copy.places}
        picked = {n: possible[int(copy.places[n] * len(possible))] for n, possible in found.items() if possible}
        if len(picked) < self.params.min_changed:
            return None
        if copy.field == "words":
            at, words = _starts(copy.parent["words"]), list(copy.parent["words"])
            for n, other in picked.items():
                words[at[copy.sentence.words[n].start]] = copy.sentence.in_case(n, other)
            return self.made(copy.parent, words=words)
        parent = alone(copy.parent, scene)
        return self.made(parent, **{copy.field if copy.field in parent else "text": copy.sentence.replaced(picked)})


def _starts(words: Sequence[str]) -> dict[int, int]:
    """Where each word begins in the words joined by spaces → its number."""
    at, found = 0, {}
    for number, word in enumerate(words):
        found[at] = number
        at += len(word) + 1
    return found


class _Words:
    """The words that could stand in a place, by a masked language model or by embeddings."""

    def __init__(self, scene: Scene, k: int) -> None:
        if scene.model is not None and not has_head(scene.model):
            raise IncompatibleModels(
                "The model does not guess masked words: its architecture is none ForMaskedLM.",
                param="augmentation.model",
                hint="Name a masked language model, or leave 'model' out: the teacher's embeddings are used then.",
            )
        folders = [scene.model] if scene.model is not None else scene.teachers
        self._k, self._stop, self._max_length = k, scene.stop, scene.head.about.max_length
        guessing = next((folder for folder in folders if has_head(folder)), None)
        folder = guessing or folders[0]
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not self._tokenizer.is_fast:
            raise UnsupportedMethod(
                f"{type(self._tokenizer).__name__} does not say where its pieces lie in the text.",
                param="augmentation",
                hint="Bring tokenizer.json beside the weights.",
            )
        self._lexicon = Lexicon(self._tokenizer)
        self._guesser = self._neighbours = None
        if guessing is not None and self._tokenizer.mask_token_id is not None:
            self._guesser = Guesser(folder, self._tokenizer, self._lexicon, scene.device, scene.dtype)
        else:
            model: Any = scene.head.load(folder)
            self._neighbours = Neighbours(model.get_input_embeddings().weight.detach(), self._lexicon)

    @property
    def guessed(self) -> bool:
        """By a model that reads every text: that takes long."""
        return self._guesser is not None

    def sentence(self, value: str | list[str]) -> Sentence:
        text = value if isinstance(value, str) else " ".join(value)
        return sentences([text], self._tokenizer, self._max_length)[0]

    def knows(self, sentence: Sentence, n: int) -> bool:
        """Whether there can be successors."""
        return self._neighbours is None or self._neighbours.knows(sentence.pieces(n))

    def others(self, places: Sequence[Place]) -> dict[tuple[int, int], list[str]]:
        """(sentence's identity, word) → its possible successors; each place is looked up once."""
        distinct = {(id(sentence), n): (sentence, n) for sentence, n in places}
        if self._guesser is not None:
            found = self._guesser.of(list(distinct.values()), self._k, self._stop)
        else:
            assert self._neighbours is not None
            pieces = [sentence.pieces(n) for sentence, n in distinct.values()]
            found = self._neighbours.of([p[0] for p in pieces], self._k)
        return dict(zip(distinct, found, strict=True))
