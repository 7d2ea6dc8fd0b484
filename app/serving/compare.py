"""Two served models on the same labelled rows: both answer through their queues, past the cache, in turn."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app import quality
from app.api import problems
from app.domain.db import Sessions, reading
from app.domain.errors import DatasetInvalid, InvalidRequest, MissingParameter, NotFound, UnsupportedMethod
from app.domain.models import File
from app.domain.repositories.files import Files
from app.domain.storage import BlobStore
from app.serving import judging, labelled
from app.serving.admission import Limits
from app.serving.backends.base import ModelCard, Text
from app.serving.labelled import Example
from app.serving.work import Answer, Kind

_TEXTS_AT_ONCE = 64  # of one model; then it is the other's turn, so that a slow moment of the machine falls on both

Name = Annotated[str, Field(min_length=1, max_length=128)]


class CompareRequest(BaseModel):
    """Body of POST /v1/compare."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    models: list[Name] = Field(min_length=2, max_length=2, description="Two of `name`, `name:3` (version) or `name@alias`.")
    file: Name = Field(description="An uploaded file with labelled rows.")
    text: Name = Field(default="text", description="Column of the text; of the words, or of the query, where the models read such.")
    text_b: Name | None = Field(default=None, description="Column of the second text, for models that judge or embed pairs.")
    documents: Name = Field(default="documents", description="Rankers: column with the list of a query's documents.")
    label: Name = Field(default="label", description="Column of the labels; rows without one are left out.")
    max_items: int = Field(default=1000, ge=1, description="Of more labelled rows, so many are drawn, always the same.")


@dataclass
class Contestant:
    """A model in the comparison; `ask` sends texts through its queue and waits."""

    id: str
    card: ModelCard
    kind: Kind
    ask: Callable[[Sequence[Text], Callable[[int], str]], Awaitable[list[Answer]]]
    answers: list[list[Answer]] = field(default_factory=list)  # of each row
    seconds: float = 0.0


def read(body: dict[str, Any], limits: Limits) -> CompareRequest:
    try:
        wanted = CompareRequest.model_validate(body)
    except ValidationError as error:
        raise problems.from_validation(error.errors()) from None
    if wanted.max_items > limits.max_items:
        raise InvalidRequest(
            f"'max_items' is {wanted.max_items}; one comparison may have {limits.max_items} rows.",
            param="max_items",
            hint="A difference that needs more rows to be seen is a small one.",
        )
    return wanted


def check_models(wanted: CompareRequest, first: ModelCard, second: ModelCard) -> None:
    """Both must answer the same question."""
    asks = [(card.problem, card.judges_pairs and not card.cross_encoder) for card in (first, second)]
    if asks[0] != asks[1]:
        told = ["pairs, " * pairs + problem for problem, pairs in asks]
        raise UnsupportedMethod(
            f"'{wanted.models[0]}' answers another question ({told[0]}) than '{wanted.models[1]}' ({told[1]}).",
            param="models",
            hint="Compare models of the same task.",
        )
    if wanted.text_b is None and (asks[0][1] or first.problem == "embedding"):
        raise MissingParameter(
            "These models need pairs of texts.", param="text_b", hint="Name the column of the second text in 'text_b'."
        )
    if wanted.text_b is not None and not (asks[0][1] or first.problem == "embedding"):
        raise InvalidRequest("These models judge single texts.", param="text_b", hint="Leave 'text_b' out.")


def examples(sessions: Sessions, blobs: BlobStore, project: str, wanted: CompareRequest, card: ModelCard, limits: Limits) -> Any:
    """The labelled rows of the project's file."""
    file = _file(sessions, project, wanted.file)
    names = labelled.columns(card.problem, text=wanted.text, text_b=wanted.text_b, documents=wanted.documents, label=wanted.label)
    try:
        found = labelled.sample(blobs.file(file.id), file.format, names, card.problem, wanted.max_items, limits.max_characters)
    except FileNotFoundError:  # deleted in this moment
        raise NotFound("file", wanted.file, param="file") from None
    except DatasetInvalid as error:
        error.param = error.param or "file"
        raise
    if not found:
        columns = ", ".join(list((file.report or {}).get("columns", {}))[:20])
        raise DatasetInvalid(
            f"No row of '{wanted.file}' has a label in column '{wanted.label}'.",
            param="label",
            hint=f"Name the column that holds the labels; the file has: {columns}." if columns else "Upload labelled rows.",
        )
    return found


def _file(sessions: Sessions, project: str, file_id: str) -> File:
    try:
        with reading(sessions) as session:
            return Files(session, project).get(file_id)
    except NotFound as error:
        error.param = "file"
        raise


async def run(rows: Sequence[Example], contestants: Sequence[Contestant]) -> dict[str, Any]:
    """Answers, measured and compared."""
    for contestant in contestants:
        judging.check_labels(rows, contestant.card.problem, contestant.id, contestant.card)
    for turn, chunk in enumerate(_chunks(rows)):
        for contestant in contestants if turn % 2 == 0 else contestants[::-1]:
            await _answer(contestant, chunk)
    return await asyncio.to_thread(_judge, rows, contestants)


async def _answer(contestant: Contestant, chunk: Sequence[Example]) -> None:
    texts = [judging.asked(example, contestant.kind, contestant.card) for example in chunk]
    lines = [example.line for example, own in zip(chunk, texts, strict=True) for _ in own]
    started = time.perf_counter()
    flat = iter(await contestant.ask([text for own in texts for text in own], lambda n: f"file[{lines[n]}]"))
    contestant.seconds += time.perf_counter() - started
    contestant.answers += [[next(flat) for _ in own] for own in texts]


def _chunks(rows: Sequence[Example]) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    for row in rows:
        if chunk and sum(2 + len(r.documents) for r in [*chunk, row]) > _TEXTS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(row)
    yield chunk


def _judge(rows: Sequence[Example], contestants: Sequence[Contestant]) -> dict[str, Any]:
    problem = contestants[0].card.problem
    labels = sorted({label for contestant in contestants for label in contestant.card.labels}) if problem in judging.NAMED else []
    given = [judging.outputs(rows, c.answers, c.kind, c.card, labels) for c in contestants]
    try:
        found = quality.compare(problem, given[0], given[1], judging.targets(rows, problem, labels), labels)
    except ValueError as error:
        raise DatasetInvalid(
            f"The rows cannot tell the models apart: {error}.", param="label", hint="Give rows whose labels differ."
        ) from error
    measured = zip(contestants, (found.first, found.second), strict=True)
    return {
        "object": "comparison",
        "metric": found.first.metric,
        "models": [
            {"model": c.id, "quality": q.value, "ci95": q.ci95, "rows_per_second": len(rows) / max(c.seconds, 1e-9)}
            for c, q in measured
        ],
        "difference": found.difference.to_json(),
        "agreement": found.agreement,
        "only_first_right": found.only_first_right,
        "only_second_right": found.only_second_right,
        "rows": len(rows),
    }
