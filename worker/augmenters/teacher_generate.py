"""Rows that a language model writes, shown a few of the job's own."""

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from app.domain.errors import InvalidRequest
from worker.augmenters.base import Record, Scene, Writer, WriterParams, alone
from worker.writing.endpoint import Endpoint
from worker.writing.fewshot import Form
from worker.writing.remote import Asked, RemoteWriter
from worker.writing.sampling import LineWriter

Pools = dict[int | None, list[Record]]  # label → the rows that have it

ATTEMPTS = 3  # texts written at most per row that is wanted: some are duplicates, on some the teacher is unsure


class TeacherGenerate(Writer):
    """A language model is shown `examples` rows of one label and writes one more line; labels take turns, so that each gets as
    many attempts. Rows without label are not shown where others have one. Where labels are no categories (a number, tags,
    relevance, none) any rows are shown together.

    Pairs: the first text is one of the job's, the second is written. Ranking: a query is written for a row's most relevant
    document, and all the row's documents are kept. Words with tags: the line is cut at spaces. Whatever it was asked for, the
    label of a new row is what the teacher says of it; `keep_label` keeps those on which the two agree (single_label alone).

    The model is a causal one that the worker runs, or, with source openai, one that an HTTP endpoint runs for it. The worker's
    is sampled from softmax(z / temperature) over the smallest set of tokens with probability `top_p`; seeded, the same texts on
    a CPU. The prompt is plain text to be continued, with no chat template; at an endpoint it is the user's message of a chat.
    A prompt that is longer than the worker's model reads loses its first examples. At most three texts are written per row
    wanted.

    Errors: IncompatibleModels when the model is no causal language model; those of `worker/writing/endpoint.py`.
    Source: few-shot generation as in Self-Instruct, Wang et al. 2022, arXiv 2212.10560, which also drops near-duplicates.
    """

    name = "teacher_generate"
    problems: ClassVar[frozenset[str]] = frozenset(
        {"single_label", "multi_label", "regression", "tokens", "embedding", "ranking", "masked_lm"}
    )
    meant: ClassVar[frozenset[str]] = frozenset({"single_label"})
    architectures: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel")

    class Params(WriterParams):
        source: Literal["registry", "local", "hub", "openai"] = Field(
            default="registry", description="Where that model comes from; openai: it stays behind an HTTP endpoint."
        )
        revision: str | None = Field(default=None, max_length=100, description="Of a model of the hub.")
        model: str = Field(min_length=1, max_length=200, description="The causal language model that writes.")
        base_url: str | None = Field(
            default=None,
            max_length=2000,
            description="Source openai: the endpoint, such as https://api.example.com/v1. Its key is the operator's.",
        )
        api: Literal["chat", "completions"] = Field(
            default="chat", description="Source openai: POST base_url/chat/completions or base_url/completions."
        )
        length_field: Literal["max_tokens", "max_completion_tokens"] = Field(
            default="max_tokens", description="Source openai: what the endpoint calls max_new_tokens."
        )
        concurrency: int = Field(default=8, ge=1, le=64, description="Source openai: requests in flight at once.")
        timeout_seconds: float = Field(default=60.0, ge=1, le=600, description="Source openai: of one request.")
        max_requests: int | None = Field(
            default=None, ge=1, le=10_000_000, description="Source openai: texts asked for at most. Default: three per row wanted."
        )
        max_similarity: float = Field(
            default=0.7, ge=0.3, le=1, description="As for every augmenter; lower here, for language models repeat what they saw."
        )
        examples: int = Field(default=4, ge=1, le=32, description="Rows shown in a prompt.")
        temperature: float = Field(default=1.0, gt=0, le=5, description="Of the softmax that is sampled from.")
        top_p: float = Field(default=0.95, gt=0, le=1, description="Probability of the tokens that may be drawn.")
        max_new_tokens: int = Field(default=64, ge=1, le=1024, description="Of a text; it ends at the end of the line before that.")
        batch_size: int = Field(default=16, ge=1, le=1024, description="Texts written at once by the worker.")
        instruction: str = Field(default="", max_length=2000, description="A line or more in front of every prompt.")
        descriptions: dict[str, str] = Field(
            default={}, max_length=1000, description="What a label is called in prompts, where its name says too little."
        )

        @model_validator(mode="after")
        def _endpoint_has_an_address(self) -> Self:
            if (self.source == "openai") != (self.base_url is not None):
                raise ValueError("base_url belongs to source openai, which needs it")
            return self

    _usage: Mapping[str, int] = {}

    def write(self, records: Sequence[Record], scene: Scene) -> Iterator[Record]:
        unknown = sorted(set(self.params.descriptions) - set(scene.head.about.labels))
        if unknown:
            raise InvalidRequest(
                f"'{unknown[0][:80]}' is described but is no label of the rows.",
                param="augmentation.descriptions",
                hint=f"Labels: {', '.join(scene.head.about.labels[:20])}.",
            )
        form, pools = Form.of(scene.head.about), _pools(records, scene.head.about.problem)
        most = round(self.params.factor * len(records)) * ATTEMPTS
        written = self._remotely if self.params.source == "openai" else self._here
        for line, parent in written(form, pools, scene, most):
            if line:
                yield self.made(alone(parent, scene), **form.fields(line, parent))

    def usage(self) -> dict[str, int]:
        return dict(self._usage)

    def _here(self, form: Form, pools: Pools, scene: Scene, most: int) -> Iterator[tuple[str, Record]]:
        """(line, parent), by the worker's own model."""
        if scene.model is None:
            raise InvalidRequest("No model was given to write texts.", param="augmentation.model", hint="Name one with 'model'.")
        writer = LineWriter(scene.model, scene.device, scene.dtype, self.architectures)
        prompts = self._prompts(form, pools, scene, lambda prompt: writer.fits(prompt, self.params.max_new_tokens))
        for number in range(-(-most // self.params.batch_size)):
            scene.stop()
            batch = [next(prompts) for _ in range(self.params.batch_size)]
            asked = [(prompt, parent) for prompt, parent in batch if prompt is not None]
            if not asked:
                continue
            write = partial(
                writer.lines,
                [prompt for prompt, _ in asked],
                seed=(scene.seed * 1_000_003 + number) % 2**63,
                new_tokens=self.params.max_new_tokens,
                temperature=self.params.temperature,
                top_p=self.params.top_p,
            )
            lines = scene.journal.once(f"batch {number}", write)
            yield from zip(lines, (parent for _, parent in asked), strict=True)

    def _remotely(self, form: Form, pools: Pools, scene: Scene, most: int) -> Iterator[tuple[str, Record]]:
        """(line, parent), by the endpoint's model."""
        params, parents = self.params, deque[Record]()
        asked = Asked(params.model, params.api, params.max_new_tokens, params.length_field, params.temperature, params.top_p)

        def prompts() -> Iterator[str]:
            for prompt, parent in islice(self._prompts(form, pools, scene), min(most, params.max_requests or most)):
                assert prompt is not None
                parents.append(parent)
                yield prompt

        with Endpoint(
            params.base_url,
            scene.access,
            param="augmentation",
            concurrency=params.concurrency,
            timeout=params.timeout_seconds,
        ) as endpoint:
            writer = RemoteWriter(endpoint, asked, form.wanted, scene.journal, "augmentation")
            self._usage = writer.usage
            for line in writer.lines(prompts(), scene.stop):
                yield line, parents.popleft()

    def _prompts(
        self, form: Form, pools: Pools, scene: Scene, fits: Callable[[str], bool] = lambda prompt: True
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
            while prompt is not None and not fits(prompt):
                prompt = form.prompt(shown := shown[1:], last, category, self.params.instruction) if shown else None
            yield prompt, last
            number += 1


def _pools(records: Sequence[Record], problem: str) -> Pools:
    """The rows of each label that has some; None for all rows where labels are no categories, or none has one."""
    pools: Pools = {}
    if problem in ("single_label", "multi_label"):
        for record in records:
            for label in _classes(record["label"]):
                pools.setdefault(label, []).append(record)
    return {label: pools[label] for label in sorted(pools, key=lambda n: n or 0)} if pools else {None: list(records)}


def _classes(label: Any) -> list[int]:
    if label is None:
        return []
    return [n for n, value in enumerate(label) if value] if isinstance(label, list) else [int(label)]
