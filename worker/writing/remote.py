"""A language model behind an endpoint that goes on to the end of the line."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from worker.writing.endpoint import Endpoint, answer_invalid
from worker.writing.journal import Journal

TASK = (
    "The user shows a few examples and ends where the next one begins. Write that one: of the same kind, new, in the same "
    "language and style. Answer with its text alone, on one line."
)
_TOKENS = ("prompt_tokens", "completion_tokens")
Answer = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is asked of it. `api`: chat → POST /chat/completions with the prompt as the user's message; completions → the prompt
    itself, to be continued, to POST /completions."""

    model: str
    api: Literal["chat", "completions"]
    new_tokens: int
    length_field: Literal["max_tokens", "max_completion_tokens"]
    temperature: float
    top_p: float

    def request(self, prompt: str) -> tuple[str, dict[str, Any]]:
        """(path, body)."""
        sampling = {"model": self.model, self.length_field: self.new_tokens, "temperature": self.temperature, "top_p": self.top_p}
        if self.api == "completions":
            return "/completions", {**sampling, "prompt": prompt, "stop": ["\n"]}
        messages = [{"role": "system", "content": TASK}, {"role": "user", "content": prompt}]
        return "/chat/completions", {**sampling, "messages": messages}


class RemoteWriter:
    """`wanted` is what the last line of a prompt begins with. `usage` counts every answer, those of an earlier attempt too."""

    def __init__(self, endpoint: Endpoint, asked: Asked, wanted: str, journal: Journal, param: str) -> None:
        self._endpoint, self._asked, self._wanted, self._journal, self._param = endpoint, asked, wanted, journal, param
        self._lock = threading.Lock()
        self.usage = Counter(requests=0, prompt_tokens=0, completion_tokens=0)

    def lines(self, prompts: Iterable[str], stop: Callable[[], None]) -> Iterator[str]:
        """One line per prompt, in their order; empty where it wrote none."""
        calls = (partial(self._call, n, prompt) for n, prompt in enumerate(prompts))
        for answer in self._endpoint.each(calls, stop):
            yield first_line(answer["text"], self._wanted, cut=answer["finish_reason"] == "length")

    def _call(self, n: int, prompt: str) -> Answer:
        path, body = self._asked.request(prompt)
        key = json.dumps([n, path, body], sort_keys=True)
        answer = self._journal.once(key, lambda: self._answer(self._endpoint.post(path, body)))
        with self._lock:
            self.usage.update(requests=1, **{name: answer[name] for name in _TOKENS})
        return answer

    def _answer(self, said: dict[str, Any]) -> Answer:
        """What is kept of an answer."""
        try:
            choice = said["choices"][0]
            text = choice["text"] if self._asked.api == "completions" else choice["message"]["content"]
            if not isinstance(text, str | None):
                raise TypeError
        except (KeyError, IndexError, TypeError):
            where = "choices[0].text" if self._asked.api == "completions" else "choices[0].message.content"
            raise answer_invalid(f"The answer of the endpoint has no text in {where}.", self._param) from None
        usage = said.get("usage")
        told = {name: _count(usage, name) for name in _TOKENS}
        text = (text or "").encode("utf-8", "replace").decode()  # JSON can hold halves of characters, files cannot
        return {"text": text, "finish_reason": str(choice.get("finish_reason")), **told}


def first_line(text: str, wanted: str, *, cut: bool) -> str:
    """The first line that is not empty; of a text cut short the whole words. Chat models like to repeat the name of what is
    wanted and to put it in quotes, `Text: "lost my card"`: both go."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else ""
    if cut and len(lines) == 1 and " " in line:
        line = line.rpartition(" ")[0]  # the last word may be a part of one
    line = line.removeprefix(f"{wanted}:").strip()
    if len(line) > 1 and (line[0], line[-1]) in (('"', '"'), ("“", "”")) and line[0] not in line[1:-1]:
        line = line[1:-1].strip()
    return line


def _count(usage: Any, name: str) -> int:
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and 0 <= found < 2**31 else 0
