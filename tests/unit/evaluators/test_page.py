"""The HTML page: whole, self-contained, the same every time, and deaf to what users put into their texts."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluators.reports import qualities, regression_qualities, sample
from worker.evaluators import plots, report, tables
from worker.evaluators.page import render

ROOT = Path(__file__).parents[3]
EVIL = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$\\frac{1}{0}$ & <b>", "日本語\u202e{{7*7}}{% raw %}"]
TRIALS: list[dict[str, Any]] = [
    {"name": "large", "latency_ms": 3.0, "bytes": 9e6, "quality": 0.9, "retention": 0.98, "speedup": 7.0, "share": 1.0},
    {
        "name": "small",
        "latency_ms": 1.0,
        "bytes": 4e6,
        "quality": 0.8,
        "retention": 0.9,
        "speedup": 20.0,
        "share": 1.0,
        "chosen": True,
    },
    {"name": "beaten", "latency_ms": 3.5, "bytes": 9e6, "quality": 0.7, "retention": 0.8, "speedup": 6.0, "share": 0.25},
    {"name": "too slow", "latency_ms": 30.0, "bytes": 9e7, "quality": None, "retention": None, "speedup": 0.7, "share": 0.0},
]
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Tags, attributes and text; fails when tags do not close as they opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def whole() -> str:
    return render(sample(search={"trials": TRIALS}))


def test_it_holds_every_part(whole: str) -> None:
    read = Reader(whole)
    text = " ".join(" ".join(read.texts).split())
    for words in (
        "support intents",
        "of the teacher's accuracy",
        "for a million requests",
        "Distillation closed 72% of the gap",
        "student, not distilled",
        "What each step gained (accuracy)",
        "lost_or_stolen_card",
        "INT8 against float",
        "0 ← 2, 1 ← 5",
        "temperature cosine 8 → 1",
        "No speed of the teacher: a 'strange' classifier.",
        "0.05 USD per core-hour",
    ):
        assert words in text, words
    assert read.tags.count("svg") == 6
    assert len(whole) < 400_000


def test_it_needs_nothing_from_elsewhere(whole: str) -> None:
    read = Reader(whole)
    assert not {"script", "link", "img", "iframe", "object", "image", "foreignobject"} & set(read.tags)
    for name, value in read.attributes:
        if name in ("href", "src", "xlink:href", "action"):
            assert value.startswith("#"), (name, value)
        assert not name.startswith("on"), (name, value)
    assert "@import" not in whole
    assert not re.search(r"url\((?!#)", whole)
    assert "default-src 'none'" in dict(read.attributes)["content"] or "default-src 'none'" in whole


def test_every_id_is_used_once_and_every_reference_leads_somewhere(whole: str) -> None:
    read = Reader(whole)
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = {value[1:] for name, value in read.attributes if name == "href"} | set(re.findall(r"url\(#([^)]+)\)", whole))
    assert references
    assert references <= set(ids)


def test_it_is_the_same_every_time(whole: str) -> None:
    assert render(sample(search={"trials": TRIALS})) == whole
    assert not re.search(r"20\d\d-\d\d-\d\d", whole)


def test_dark_and_light_are_the_page_s_decision(whole: str) -> None:
    assert "prefers-color-scheme: dark" in whole
    drawn = "".join(re.findall(r"<svg.*?</svg>", whole, flags=re.DOTALL))
    left = set(re.findall(r"(?<!, )#[0-9a-f]{6}\b", drawn))
    assert left <= {"#000000", "#ffffff"}, left  # everything that is drawn on purpose is a variable
    for variable in set(re.findall(r"var\(--([\w-]+)", whole)):
        assert f"--{variable}:" in whole, variable


def test_what_users_wrote_stays_text() -> None:
    told = sample(qualities(labels=EVIL), name=EVIL[0])
    told["warnings"] = [{"code": EVIL[1], "message": EVIL[0]}]
    told["plan"]["teacher"]["model"] = EVIL[1]
    told["data"]["labels"] = EVIL
    told["search"] = {"trials": [{**TRIALS[0], "name": text} for text in EVIL]}
    told["curves"] = {EVIL[0]: {"steps": [0, 1], "values": {f"{EVIL[2]}/loss": [2.0, 1.0], "loss": [2.0, 1.0]}}}
    read = Reader(render(told))
    assert not {"script", "img", "b"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    texts = " ".join(read.texts)
    for text in EVIL:
        assert text in texts, text


def _regression() -> dict[str, Any]:
    return sample(regression_qualities(), curves={})


def _bare() -> dict[str, Any]:
    found = qualities()
    told = sample({"student": found["student"]})
    told["models"]["student"] |= {"speed": None, "by_length": [], "peak_memory_bytes": None}
    told["models"]["student"]["quality"]["ci95"] = None
    told |= {"summary": report.summarize(told["models"]), "quantization": {}, "training": {}, "warnings": []}
    del told["curves"]
    return told


@pytest.mark.parametrize(("make", "drawn"), [(_regression, 2), (_bare, 2)])
def test_what_is_missing_is_left_out(make: Any, drawn: int) -> None:
    read = Reader(render(make()))
    assert read.tags.count("svg") == drawn
    text = " ".join(read.texts)
    assert "nan" not in text
    assert "None" not in text


def test_many_classes_fold_away() -> None:
    labels = [f"label {n}" for n in range(40)]
    told = sample(qualities(rows=400, labels=labels), curves={})
    read = Reader(render(told))
    assert read.tags.count("details") == 1
    assert "label 39" in " ".join(read.texts)


def test_curves_skip_what_was_not_noted_and_keep_objectives_apart() -> None:
    curves = {"s": {"steps": [0, 10, 20], "values": {"loss": [3.0, None, 1.0], "a/loss": [1.0, 0.5, 0.25], "a/weight": [1, 1, 1]}}}
    assert list(plots._lines(curves["s"], "loss")) == [("", [0, 20], [3.0, 1.0]), ("a", [0, 10, 20], [1.0, 0.5, 0.25])]
    assert ">a</text>" in plots.curve(curves, "loss", "loss")
    assert plots.curve(curves, "grad_norm", "gradient norm") == ""


def test_trials_that_nothing_beats_are_joined() -> None:
    known = [t for t in TRIALS if t["quality"] is not None]
    assert [t["name"] for t in known if any(plots._beats(other, t) for other in known)] == ["beaten"]
    told = sample(search={"trials": TRIALS})
    drawn = plots.trials(told)
    assert "small (chosen)</text>" in drawn
    assert "too slow" not in drawn
    table = next(t for t in tables.tables(told) if t.title == "The search for the target")
    assert [row[0] for row in table.rows] == ["small (chosen)", "large", "beaten", "too slow"]
    assert table.rows[-1][1:] == ["-", "-", "30.00", "0.7×", "90,000,000", "-"]
    assert plots.trials(sample(search={"trials": TRIALS[3:]})) == ""


def test_plotting_costs_the_start_nothing() -> None:
    code = """
import sys
from worker.evaluators import page, plots, report
assert not {"matplotlib", "jinja2"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("name", ["$a$ costs $5", "$\\frac{1}{0}$", "$\\nonsense{$"])
def test_a_dollar_sign_begins_no_formula(name: str) -> None:
    assert f">{name}</text>" in plots.trials(sample(search={"trials": [{**TRIALS[0], "name": name}]}))
