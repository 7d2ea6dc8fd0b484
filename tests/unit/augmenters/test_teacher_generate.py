"""Rows that a language model writes: what it is shown, what is made of its lines, the same for the same seed."""

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, LlamaForCausalLM

from app.domain.errors import IncompatibleModels, InvalidRequest
from tests.unit.augmenters.conftest import LABELS, PROBLEMS, Record, about_of, records_of
from worker.augmenters.base import Scene
from worker.augmenters.teacher_generate import TeacherGenerate
from worker.writing.fewshot import GIVEN_CHARACTERS, Form
from worker.writing.sampling import LineWriter

Scenes = Callable[..., Scene]
STORIES = Path(__file__).parents[4] / "shared" / "models" / "stories260K"


def wrote(records: list[Record], scene: Scene, take: int | None = None, **params: Any) -> list[Record]:
    params = {"model": "writer", "max_new_tokens": 12, "examples": 2, **params}
    return list(islice(TeacherGenerate(**params).write(records, scene), take))


class Spy:
    """Stands in for the model and keeps what it is shown."""

    most = 10**6

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def fits(self, prompt: str, new_tokens: int) -> bool:
        return len(prompt) + new_tokens <= self.most

    def lines(self, prompts: list[str], **_: Any) -> list[str]:
        self.prompts += prompts
        return [f"new text {len(self.prompts)}" for _ in prompts]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy()
    monkeypatch.setattr("worker.augmenters.teacher_generate.LineWriter", lambda *_: made)
    return made


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_task_gets_rows_of_its_own_kind(problem: str, scene: Scenes, writer: Path, texts: list[Record]) -> None:
    records = records_of(problem, texts)
    rows = wrote(records, scene(problem, model=writer), take=12, factor=1)
    assert len(rows) == 12
    for row in rows:
        parent = records[row["source"]["parent"]]
        assert row["label"] is None
        assert row["source"] == {"augmenter": "teacher_generate", "parent": parent["id"]}
        assert set(row) == (set(parent) | {"source"}) - {"id"} - ({"text_b"} if problem == "embedding" else set())
        new = {"pairs": "text_b", "tokens": "words", "ranking": "query"}.get(problem, "text")
        assert row[new]
        assert row[new] != parent[new]
        kept = set(row) - {new, "label", "source"}
        assert {name: row[name] for name in kept} == {name: parent[name] for name in kept}
        text = " ".join(row[new]) if problem == "tokens" else row[new]
        assert "\n" not in text
        assert text == text.strip()
    made = scene(problem).head.encode(
        [{"id": n, **row} for n, row in enumerate(rows)], AutoTokenizer.from_pretrained(scene().teachers[0])
    )
    assert len(made.examples) == 12


def test_the_same_seed_gives_the_same_texts(scene: Scenes, writer: Path, texts: list[Record]) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (wrote(texts, scene(seed=seed, model=writer), take=20) for seed in (1, 1, 2))
    assert first == again
    assert [row["text"] for row in first] != [row["text"] for row in other]
    assert len({row["text"] for row in first}) == 20
    assert torch.equal(torch.random.get_rng_state(), state)  # drawn apart from what trains


def test_labels_take_turns_and_only_their_rows_are_shown(spy: Spy, scene: Scenes, texts: list[Record], writer: Path) -> None:
    records = [*texts, {"id": 40, "text": "nobody said what this is", "label": None}]
    rows = wrote(records, scene(model=writer), take=50, factor=2, examples=3, descriptions={"card": "lost cards"})
    names = ["lost cards" if name == "card" else name for name in LABELS]
    for n, (prompt, row) in enumerate(zip(spy.prompts, rows, strict=False)):
        first, *shown, last = prompt.split("\n")
        assert first == f"Category: {names[n % 5]}"
        assert last == "Text:"
        assert len(shown) == 3
        by_text = {record["text"]: record for record in records}
        assert {by_text[line.removeprefix("Text: ")]["label"] for line in shown} == {n % 5}
        assert records[row["source"]["parent"]]["label"] == n % 5
    assert Counter(records[row["source"]["parent"]]["label"] for row in rows) == dict.fromkeys(range(5), 10)


@pytest.mark.parametrize(
    ("problem", "lines"),
    [
        ("pairs", ["Category: balance", "First: ", "Second: ", "First: ", "Second:"]),
        ("ranking", ["Document: ", "Query: ", "Document: ", "Query:"]),
        ("regression", ["Text: ", "Text:"]),
        ("tokens", ["Text: ", "Text:"]),
        ("multi_label", ["Category: balance", "Text: ", "Text:"]),
    ],
)
def test_what_a_prompt_shows(problem: str, lines: list[str], spy: Spy, scene: Scenes, texts: list[Record], writer: Path) -> None:
    records = records_of(problem, texts)
    (row,) = wrote(records, scene(problem, model=writer), take=1, examples=1, instruction="Banking.")
    prompt = spy.prompts[0].split("\n")
    assert prompt[0] == "Banking."
    assert all(found.startswith(expected) for found, expected in zip(prompt[1:], lines, strict=True))
    assert prompt[-1] == lines[-1]
    parent = records[row["source"]["parent"]]
    if problem == "ranking":
        assert prompt[-2] == f"Document: {parent['documents'][1]}"  # the relevant one
    if problem == "pairs":
        assert prompt[-2] == f"First: {parent['text']}"


def test_texts_of_several_lines_are_shown_on_one() -> None:
    form = Form.of(about_of("pairs"))
    record = {"text": "one\ntwo  three " + "x" * 2000, "text_b": "a\n\nb", "label": 0}
    prompt = form.prompt([record], record, "a\nb", "")
    assert prompt.split("\n")[2] == "Second: a b"
    assert len(prompt.split("\n")[1]) == len("First: ") + GIVEN_CHARACTERS


def test_a_prompt_too_long_loses_its_first_examples(spy: Spy, scene: Scenes, texts: list[Record], writer: Path) -> None:
    spy.most = 150
    rows = wrote(texts, scene(model=writer), take=20, examples=6)
    assert rows
    assert all(len(prompt) <= 150 - 12 for prompt in spy.prompts)
    assert {prompt.count("Text: ") for prompt in spy.prompts} <= {1, 2, 3, 4, 5}
    spy.most = 10
    assert wrote(texts, scene(model=writer)) == []


def test_rows_without_any_label_are_shown_together(spy: Spy, scene: Scenes, texts: list[Record], writer: Path) -> None:
    wrote([{**row, "label": None} for row in texts], scene(model=writer), take=3)
    assert not any("Category" in prompt for prompt in spy.prompts)


def test_it_writes_three_times_as_much_at_most(spy: Spy, scene: Scenes, texts: list[Record], writer: Path) -> None:
    assert len(wrote(texts, scene(model=writer), factor=0.5, batch_size=6)) == 60


def test_sampling_follows_the_distribution_of_the_model(writer: Path) -> None:
    """The first token drawn a thousand times against the model's own softmax, temperature and nucleus applied by hand."""
    lines = LineWriter(writer, torch.device("cpu"), torch.float32, ("ForCausalLM",))
    model = LlamaForCausalLM.from_pretrained(writer)
    model.train(False)
    ids = lines.tokenizer("Text:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        model.lm_head.weight.mul_(12)  # far from even
        lines.model.lm_head.weight.mul_(12)
        p = (model(ids).logits[0, -1].double() / 0.7).softmax(-1)
    top, order = p.sort(descending=True)
    kept = int((top.cumsum(0) < 0.8).sum()) + 1
    expected = torch.zeros_like(p).scatter(0, order[:kept], top[:kept] / top[:kept].sum())
    drawn = Counter()
    seen: list[int] = []
    lines._line = lambda row: seen.append(row[0]) or ""  # type: ignore[method-assign, func-returns-value]
    for seed in range(4):
        lines.lines(["Text:"] * 500, seed=seed, new_tokens=1, temperature=0.7, top_p=0.8)
    drawn.update(seen)
    assert set(drawn) <= set(order[:kept].tolist())
    assert kept > 2
    for token, share in ((int(i), float(expected[i])) for i in order[:kept]):
        assert abs(drawn[token] / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5 + 1e-3


def test_a_line_ends_where_the_line_ends(writer: Path) -> None:
    lines = LineWriter(writer, torch.device("cpu"), torch.float32, ("ForCausalLM",))
    ids = lines.tokenizer
    assert lines._line(ids(" lost my card\nText: more", add_special_tokens=False)["input_ids"]) == "lost my card"
    assert lines._line([*ids(" lost my card", add_special_tokens=False)["input_ids"], ids.eos_token_id]) == "lost my card"
    assert lines._line(ids(" lost my ca", add_special_tokens=False)["input_ids"]) == "lost my"  # cut short: whole words
    assert lines._line(ids("\n\n", add_special_tokens=False)["input_ids"]) == ""
    assert lines._line(ids(" single", add_special_tokens=False)["input_ids"]) == "single"


def test_models_and_labels_that_do_not_fit_are_refused(scene: Scenes, encoder: Path, writer: Path, texts: list[Record]) -> None:
    with pytest.raises(IncompatibleModels, match="writes no texts"):
        wrote(texts, scene(model=encoder))
    with pytest.raises(InvalidRequest, match="No model"):
        wrote(texts, scene())
    with pytest.raises(InvalidRequest, match="no label") as refused:
        wrote(texts, scene(model=writer), descriptions={"cards": "lost cards"})
    assert refused.value.param == "augmentation.descriptions"


@pytest.mark.parametrize(
    "params", [{}, {"model": ""}, {"model": "m", "temperature": 0}, {"model": "m", "top_p": 0}, {"model": "m", "examples": 0}]
)
def test_bad_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TeacherGenerate(**params)


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not here")
def test_a_model_that_learned_english_writes_english(scene: Scenes) -> None:
    stories = [
        "Once upon a time there was a little girl named Lily.",
        "Tom had a big red ball.",
        "The cat was happy and ran to the park.",
    ]
    records = [{"id": n, "text": text, "label": None} for n, text in enumerate(stories)]
    rows = wrote(records, scene("masked_lm", model=STORIES), take=8, factor=4, temperature=0.7, max_new_tokens=24)
    words = {word.strip(".,!").lower() for row in rows for word in row["text"].split()}
    assert {"the", "a", "and", "to", "was"} & words
    assert len({row["text"] for row in rows}) > 4
