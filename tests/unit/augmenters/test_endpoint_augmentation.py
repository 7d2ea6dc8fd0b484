"""Rows written through an HTTP endpoint, for every task; and any augmentation that was stopped in the middle."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.domain.errors import EndpointNotAllowed, EndpointRefused
from tests.fixtures.endpoint import FakeEndpoint, answering, completion, error
from tests.unit.augmenters.conftest import PROBLEMS, Made, Record, kept, records_of
from worker import plugins
from worker.augmenters.teacher_generate import ATTEMPTS, TeacherGenerate
from worker.phases import augment
from worker.phases.base import Context, StopRequested
from worker.writing.masked import Guesser
from worker.writing.sampling import LineWriter

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def fake() -> Iterator[FakeEndpoint]:
    """Its texts depend on the prompt and on when they were asked for: asked again it says something else."""
    words = ("apple", "river", "stone", "window", "summer", "garden", "engine", "letter", "mountain", "silver", "candle")

    def reply(n: int, body: dict[str, Any]) -> Any:
        return completion(" ".join(words[(n * 7 + k * k) % len(words)] for k in range(n % 5 + 2)) + f" {n * 7919}")

    with answering(reply) as up:
        yield up


def block(fake: FakeEndpoint, **params: Any) -> dict[str, Any]:
    return {"type": "teacher_generate", "source": "openai", "base_url": fake.url, "model": "m", "concurrency": 4, **params}


def allowed(fake: FakeEndpoint) -> dict[str, Any]:
    return {"endpoint_keys": {fake.origin: SecretStr(KEY)}, "private_endpoints": [fake.origin]}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_task_gets_rows(problem: str, fake: FakeEndpoint, job: Made, texts: list[Record]) -> None:
    records = records_of(problem, texts)
    context = job(problem, records, block(fake, factor=0.5, examples=2), **allowed(fake))
    rows, told = kept(context)
    assert len(rows) == 20
    new = {"pairs": "text_b", "tokens": "words", "ranking": "query"}.get(problem, "text")
    answers = [json.loads(line)["value"]["text"] for line in (context.output("augmented") / "journal-0.jsonl").open()]
    for row in rows:
        assert row["source"]["augmenter"] == "teacher_generate"
        assert row["label"] is None
        assert (" ".join(row[new]) if problem == "tokens" else row[new]) in answers
    usage = told["augmenters"][0]["usage"]
    assert 20 <= usage["requests"] <= len(fake.bodies) <= 20 + 2 * 4
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (20 * usage["requests"], 5 * usage["requests"])
    assert {header["authorization"] for header in fake.headers} == {f"Bearer {KEY}"}


def test_each_row_belongs_to_the_parent_that_was_shown(fake: FakeEndpoint, job: Made, texts: list[Record]) -> None:
    fake.reply = lambda n, body: completion(
        "like " + body["messages"][1]["content"].split("\n")[-2].removeprefix("Text: ") + f" {n}{n}"
    )
    rows, _ = kept(job("single_label", texts, block(fake, examples=1, factor=0.5, max_similarity=1), **allowed(fake)))
    assert len(rows) == 20
    for row in rows:
        assert row["text"].startswith(f"like {texts[row['source']['parent']]['text']} ")


def test_no_more_is_asked_than_is_allowed(fake: FakeEndpoint, job: Made, texts: list[Record]) -> None:
    fake.reply = lambda n, body: completion("always the same")
    _, told = kept(job("single_label", texts, block(fake, factor=0.25), **allowed(fake)))
    assert told["augmenters"][0]["usage"]["requests"] == len(fake.bodies) == ATTEMPTS * 10
    fake.bodies.clear()
    kept(job("single_label", texts, block(fake, factor=0.25, max_requests=7), **allowed(fake)))
    assert len(fake.bodies) == 7


def test_what_the_operator_does_not_allow_is_not_asked(fake: FakeEndpoint, job: Made, texts: list[Record]) -> None:
    with pytest.raises(EndpointNotAllowed):
        kept(job("single_label", texts, block(fake)))
    assert fake.bodies == []


@pytest.mark.parametrize(
    "params",
    [
        {"source": "openai"},
        {"base_url": "https://api.example.com/v1"},
        {"source": "openai", "base_url": "https://x.y", "concurrency": 0},
    ],
)
def test_bad_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TeacherGenerate(model="m", **params)


# -- stopped in the middle -------------------------------------------------------------------------------------------


def interrupted(context: Context, when: Callable[[], bool]) -> None:
    """The phase, stopped as soon as `when` holds."""

    def stop() -> None:
        if when():
            raise StopRequested(checkpoint=True)

    context.stop = stop
    with pytest.raises(StopRequested):
        kept(context)


def test_what_an_endpoint_has_answered_is_not_asked_for_again(fake: FakeEndpoint, job: Made, texts: list[Record]) -> None:
    """Stopped twice, then finished: every answer is used, none is paid for twice, and another run finds all of it."""
    asked = block(fake, factor=1, max_similarity=1)
    first = job("single_label", texts, asked, **allowed(fake))
    interrupted(first, lambda: len(fake.bodies) >= 10)
    second = job("single_label", texts, asked, **allowed(fake), previous=[str(first.workdir)])
    interrupted(second, lambda: len(fake.bodies) >= 25)
    before = len(fake.bodies)
    assert before < 40
    third = job("single_label", texts, asked, **allowed(fake), previous=[str(second.workdir), str(first.workdir)])
    rows, told = kept(third)
    assert len(rows) == 40
    assert len({row["text"] for row in rows}) == 40
    assert 40 <= told["augmenters"][0]["usage"]["requests"] <= len(fake.bodies) <= 40 + 2 * 4
    paid = len(fake.bodies)
    again = job("single_label", texts, asked, **allowed(fake), previous=[str(third.workdir)])
    repeated, _ = kept(again)
    assert repeated == rows
    assert len(fake.bodies) <= paid + 2 * 4  # at most what is begun ahead
    prompts = [json.dumps(body, sort_keys=True) for body in fake.bodies[:40]]
    assert len(set(prompts)) >= 38  # not the first ones over and over


def test_after_a_refusal_the_rest_is_asked(fake: FakeEndpoint, job: Made, texts: list[Record]) -> None:
    """Quota used up in the middle, raised, resumed."""
    good = fake.reply
    fake.reply = lambda n, body: good(n, body) if n < 12 else error(429, "quota", "insufficient_quota")
    first = job("single_label", texts, block(fake, factor=1, max_similarity=1), **allowed(fake))
    with pytest.raises(EndpointRefused, match="429"):
        kept(first)
    refused = len(fake.bodies) - 12
    fake.reply = good
    second = job("single_label", texts, block(fake, factor=1, max_similarity=1), **allowed(fake), previous=[str(first.workdir)])
    rows, _ = kept(second)
    assert len(rows) == 40
    assert len(fake.bodies) <= 40 + refused + 2 * 4


@pytest.mark.parametrize("kind", ["teacher_generate", "mlm_replace"])
def test_what_a_local_model_has_made_is_not_made_again(
    kind: str,
    job: Made,
    writer: Path,
    masked: Path,
    texts: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows are those of a run that nobody stopped, and the model was asked for the rest only."""
    monkeypatch.setattr("worker.augmenters.mlm_replace.CHUNK", 8)
    cls, method = (LineWriter, "lines") if kind == "teacher_generate" else (Guesser, "of")
    calls: list[int] = []
    original = getattr(cls, method)
    monkeypatch.setattr(cls, method, lambda self, *a, **k: (original(self, *a, **k), calls.append(1))[0])
    params = {"max_new_tokens": 8, "examples": 1, "batch_size": 8} if kind == "teacher_generate" else {"share": 0.3}
    spec = {"type": kind, "model": "m", "factor": 1, **params}
    folders = {"augmenter_dirs": [str(writer if kind == "teacher_generate" else masked)]}
    whole, _ = kept(job("single_label", texts, spec, **folders))
    needed = len(calls)
    assert needed >= 5
    calls.clear()
    first = job("single_label", texts, spec, **folders)
    monkeypatch.setattr(augment, "CHUNK", 4)
    interrupted(first, lambda: len(calls) >= 3)
    assert len(calls) == 3
    monkeypatch.setattr(augment, "CHUNK", 256)
    rows, _ = kept(job("single_label", texts, spec, **folders, previous=[str(first.workdir)]))
    assert rows == whole
    assert len(calls) == needed
    other, _ = kept(job("single_label", texts, spec, **folders, previous=[str(first.workdir)], config_hash="sha256:y"))
    assert other == whole
    assert len(calls) == 2 * needed  # of another configuration nothing is taken


def test_a_long_silence_is_broken(fake: FakeEndpoint, job: Made, texts: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "BEAT", 0.05)
    fake.slow = 0.1
    context = job("single_label", texts, block(fake, factor=0.2), **allowed(fake))
    kept(context)
    shown = [event for event in context.events if event.event == "progress" and event.stage == "teacher_generate"]  # type: ignore[attr-defined]
    assert len(shown) >= 3
    assert {event.examples_total for event in shown} == {8}


def test_other_augmenters_take_no_endpoint() -> None:
    for name, cls in plugins.discover("augmenters").items():
        if name != "teacher_generate":
            assert "base_url" not in cls.Params.model_fields
