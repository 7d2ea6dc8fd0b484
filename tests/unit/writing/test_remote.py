"""What is asked of an endpoint's model, and what is taken of its answer."""

from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import EndpointAnswerInvalid
from tests.fixtures.endpoint import FakeEndpoint, Reply, answering, completion
from worker.writing.endpoint import Access, Endpoint
from worker.writing.journal import Journal
from worker.writing.remote import TASK, Asked, RemoteWriter, first_line

PROMPTS = ["Text: one\nText:", "Text: two\nText:", "Text: one\nText:"]


def wrote(
    fake: FakeEndpoint, journal: Journal | None = None, prompts: list[str] | None = None, **asked: Any
) -> tuple[list[str], Any]:
    options = {"api": "chat", "new_tokens": 9, "length_field": "max_tokens", "temperature": 0.5, "top_p": 0.9, **asked}
    with Endpoint(fake.url, Access(private={fake.origin}), param="augmentation", pause=0.001) as endpoint:
        writer = RemoteWriter(endpoint, Asked("m", **options), "Text", journal or Journal(), "augmentation")
        return list(writer.lines(prompts or PROMPTS, lambda: None)), writer.usage


def test_a_chat() -> None:
    with answering(lambda n, body: completion(f"answer to {body['messages'][1]['content'][6:9]}")) as fake:
        lines, usage = wrote(fake)
    assert lines == ["answer to one", "answer to two", "answer to one"]
    assert usage == {"requests": 3, "prompt_tokens": 60, "completion_tokens": 15}
    assert set(fake.paths) == {"/v1/chat/completions"}
    messages = [{"role": "system", "content": TASK}, {"role": "user", "content": PROMPTS[1]}]
    expected = {"model": "m", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "messages": messages}
    assert expected in fake.bodies


def test_a_completion() -> None:
    with answering(lambda n, body: completion(" lost my card\nText: more")) as fake:
        lines, _ = wrote(fake, api="completions", length_field="max_completion_tokens", prompts=PROMPTS[:1])
    assert lines == ["lost my card"]
    assert fake.paths == ["/v1/completions"]
    sampling = {"model": "m", "max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.9}
    assert fake.bodies == [{**sampling, "prompt": PROMPTS[0], "stop": ["\n"]}]


def without_usage(n: int, body: dict[str, Any]) -> Reply:
    return (
        200,
        b'{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}], "usage": {"prompt_tokens": "many"}}',
        {},
    )


def test_an_answer_without_text_or_usage_is_one() -> None:
    with answering(without_usage) as fake:
        lines, usage = wrote(fake)
    assert lines == ["", "", ""]
    assert usage == {"requests": 3, "prompt_tokens": 0, "completion_tokens": 0}


def test_halves_of_characters_are_no_text(tmp_path: Path) -> None:
    said = (
        b'{"choices": [{"message": {"content": "lost \\ud83d card"}}], "usage": {"prompt_tokens": 1e999, "completion_tokens": 7}}'
    )
    with answering(lambda n, body: (200, said, {})) as fake:
        lines, usage = wrote(fake, Journal(tmp_path / "a"))
    assert lines == ["lost ? card"] * 3
    assert usage == {"requests": 3, "prompt_tokens": 0, "completion_tokens": 21}


@pytest.mark.parametrize(
    "said",
    [b"{}", b'{"choices": []}', b'{"choices": {}}', b'{"choices": "no"}', b'{"choices": [null]}', b'{"choices": [{"text": "x"}]}',
     b'{"choices": [{"message": null}]}', b'{"choices": [{"message": {"content": ["parts"]}}]}'],
)  # fmt: skip
def test_an_answer_of_another_shape_is_said(said: bytes) -> None:
    with answering(lambda n, body: (200, said, {})) as fake, pytest.raises(EndpointAnswerInvalid, match=r"message\.content"):
        wrote(fake)


@pytest.mark.parametrize(
    ("text", "cut", "line"),
    [
        ("lost my card", False, "lost my card"),
        ("\n\n  lost my card  \nand more", False, "lost my card"),
        ('Text: "lost my card"', False, "lost my card"),
        ("“lost my card”", False, "lost my card"),
        ('"lost" and "found"', False, '"lost" and "found"'),
        ('"', False, '"'),
        ('""', False, ""),
        ("lost my ca", True, "lost my"),
        ("single", True, "single"),
        ("lost my card\nTe", True, "lost my card"),
        ("", True, ""),
        (" \n\t\n", False, ""),
        ("lost\r\nmy\u2028card", False, "lost"),
        ("Texture: x", False, "Texture: x"),
    ],
)
def test_what_is_taken_of_an_answer(text: str, cut: bool, line: str) -> None:
    assert first_line(text, "Text", cut=cut) == line


def test_a_second_time_only_what_is_missing_is_asked(tmp_path: Any) -> None:
    """The same prompt twice is two requests; after a failure only those without an answer are sent again."""

    def reply(n: int, body: dict[str, Any]) -> Reply:
        return (500, b"", {}) if body["messages"][1]["content"] == PROMPTS[1] and fake.fails else completion(f"answer {n}")

    with answering(reply) as fake:
        fake.fails = True  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="500"):
            wrote(fake, Journal(tmp_path / "a"))
        asked = len(fake.bodies)
        fake.fails = False  # type: ignore[attr-defined]
        lines, usage = wrote(fake, Journal(tmp_path / "a"))
        assert len(fake.bodies) == asked + 1
        assert lines[1] == f"answer {asked}"
        assert lines[0] != lines[2]
        assert usage["requests"] == 3
        again, _ = wrote(fake, Journal(tmp_path / "a"))
        assert again == lines
        assert len(fake.bodies) == asked + 1
        wrote(fake, Journal(tmp_path / "a"), temperature=0.6)  # what is asked is another thing
        assert len(fake.bodies) == asked + 4
