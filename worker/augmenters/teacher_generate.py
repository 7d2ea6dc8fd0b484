"""Rows that a language model writes, shown a few of the job's own."""

import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field

from app.domain.errors import InvalidRequest
from worker.augmenters.base import ModelParams, Record, Scene, Writer, alone
from worker.writing.fewshot import Form
from worker.writing.sampling import LineWriter

ATTEMPTS = 3  # texts written at most per row that is wanted: some are duplicates, on some the teacher is unsure


class TeacherGenerate(Writer):
    """A causal language model is shown `examples` rows of one label and writes one more line; labels take turns, so that each
    gets as many attempts. Rows without label are not shown where others have one. Where labels are no categories (a number,
    tags, relevance, none) any rows are shown together.

    Pairs: the first text is one of the job's, the second is written. Ranking: a query is written for a row's most relevant
    document, and all the row's documents are kept. Words with tags: the line is cut at spaces. Whatever it was asked for, the
    label of a new row is what the teacher says of it; `keep_label` keeps those on which the two agree (single_label alone).

    Sampled from softmax(z / temperature) over the smallest set of tokens with probability `top_p`; seeded, the same texts on a
    CPU. The prompt is plain text to be continued, with no chat template. A prompt that is longer than the model reads loses
    its first examples. At most three texts are written per row wanted.

    Errors: IncompatibleModels when the model is no causal language model.
    Source: few-shot generation as in Self-Instruct, Wang et al. 2022, arXiv 2212.10560, which also drops near-duplicates.
    """

    name = "teacher_generate"
    problems: ClassVar[frozenset[str]] = frozenset(
        {"single_label", "multi_label", "regression", "tokens", "embedding", "ranking", "masked_lm"}
    )
    meant: ClassVar[frozenset[str]] = frozenset({"single_label"})
    architectures: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel")

    class Params(ModelParams):
        model: str = Field(min_length=1, max_length=200, description="The causal language model that writes.")
        max_similarity: float = Field(
            default=0.7, ge=0.3, le=1, description="As for every augmenter; lower here, for language models repeat what they saw."
        )
        examples: int = Field(default=4, ge=1, le=32, description="Rows shown in a prompt.")
        temperature: float = Field(default=1.0, gt=0, le=5, description="Of the softmax that is sampled from.")
        top_p: float = Field(default=0.95, gt=0, le=1, description="Probability of the tokens that may be drawn.")
        max_new_tokens: int = Field(default=64, ge=1, le=1024, description="Of a text; it ends at the end of the line before that.")
        batch_size: int = Field(default=16, ge=1, le=1024, description="Texts written at once.")
        instruction: str = Field(default="", max_length=2000, description="A line or more in front of every prompt.")
        descriptions: dict[str, str] = Field(
            default={}, max_length=1000, description="What a label is called in prompts, where its name says too little."
        )

    def write(self, records: Sequence[Record], scene: Scene) -> Iterator[Record]:
        unknown = sorted(set(self.params.descriptions) - set(scene.head.about.labels))
        if unknown:
            raise InvalidRequest(
                f"'{unknown[0][:80]}' is described but is no label of the rows.",
                param="augmentation.descriptions",
                hint=f"Labels: {', '.join(scene.head.about.labels[:20])}.",
            )
        if scene.model is None:
            raise InvalidRequest("No model was given to write texts.", param="augmentation.model", hint="Name one with 'model'.")
        writer = LineWriter(scene.model, scene.device, scene.dtype, self.architectures)
        form, pools = Form.of(scene.head.about), _pools(records, scene.head.about.problem)
        prompts = self._prompts(form, pools, records, scene, writer)
        for number in range(-(-round(self.params.factor * len(records)) * ATTEMPTS // self.params.batch_size)):
            scene.stop()
            batch = [next(prompts) for _ in range(self.params.batch_size)]
            asked = [(prompt, parent) for prompt, parent in batch if prompt is not None]
            if not asked:
                continue
            lines = writer.lines(
                [prompt for prompt, _ in asked],
                seed=(scene.seed * 1_000_003 + number) % 2**63,
                new_tokens=self.params.max_new_tokens,
                temperature=self.params.temperature,
                top_p=self.params.top_p,
            )
            for line, (_, parent) in zip(lines, asked, strict=True):
                if line:
                    yield self.made(alone(parent, scene), **form.fields(line, parent))

    def _prompts(
        self, form: Form, pools: dict[int | None, list[Record]], records: Sequence[Record], scene: Scene, writer: LineWriter
    ) -> Iterator[tuple[str | None, Record]]:
        """(prompt, parent) without end, one label after another; None where even a prompt without examples is too long."""
        turns, labels = list(pools), scene.head.about.labels
        number = 0
        while True:
            label = turns[number % len(turns)]
            chance = random.Random(f"{scene.seed}:prompt:{number}")
            shown = chance.sample(pools[label], min(self.params.examples, len(pools[label])))
            last = chance.choice(pools[label]) if form.given else shown[-1]
            category = None if label is None else self.params.descriptions.get(labels[label], labels[label])
            prompt: str | None = form.prompt(shown, last, category, self.params.instruction)
            while prompt is not None and not writer.fits(prompt, self.params.max_new_tokens):
                prompt = form.prompt(shown := shown[1:], last, category, self.params.instruction) if shown else None
            yield prompt, last
            number += 1


def _pools(records: Sequence[Record], problem: str) -> dict[int | None, list[Record]]:
    """The rows of each label that has some; None for all rows where labels are no categories, or none has one."""
    pools: dict[int | None, list[Record]] = {}
    if problem in ("single_label", "multi_label"):
        for record in records:
            for label in _classes(record["label"]):
                pools.setdefault(label, []).append(record)
    return {label: pools[label] for label in sorted(pools, key=lambda n: n or 0)} if pools else {None: list(records)}


def _classes(label: Any) -> list[int]:
    if label is None:
        return []
    return [n for n, value in enumerate(label) if value] if isinstance(label, list) else [int(label)]
