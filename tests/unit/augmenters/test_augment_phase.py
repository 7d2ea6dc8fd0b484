"""The phase: what is kept of what augmenters write, held against comparing and asking for every row by hand."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoTokenizer

from tests.unit.augmenters.conftest import PROBLEMS, Made, Record, kept, records_of
from tests.unit.augmenters.test_similarity import jaccard
from worker import plugins
from worker.augmenters.base import Scene, Writer, alone
from worker.phases import label, runs
from worker.phases.base import Context
from worker.rows import collate
from worker.signals import Wants


class Scripted(Writer):
    """Writes what the test says."""

    name = "scripted"
    problems: ClassVar[frozenset[str]] = frozenset(PROBLEMS)
    meant: ClassVar[frozenset[str]] = frozenset({"single_label", "multi_label", "tokens"})
    script: ClassVar[Callable[[Sequence[Record]], Iterator[tuple[Record, dict[str, Any]]]]]

    def write(self, records: Sequence[Record], scene: Scene) -> Iterator[Record]:
        for parent, fields in type(self).script(records):
            yield self.made(alone(parent, scene), **fields)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    known = plugins.get
    monkeypatch.setattr(plugins, "get", lambda room, name: Scripted if name == "scripted" else known(room, name))
    return Scripted


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p != "masked_lm"])
def test_every_task_trains_on_more_rows(problem: str, job: Made, texts: list[Record]) -> None:
    records = records_of(problem, texts)
    context = job(problem, records, {"type": "mlm_replace", "factor": 1.5, "share": 0.5})
    rows, told = kept(context)
    assert [row["id"] for row in rows] == list(range(40, 40 + len(rows)))
    assert len(rows) == told["rows"] > 30
    assert all(row["label"] is None for row in rows)
    joined = runs.records(context, "train")
    assert joined[:40] == records
    assert joined[40:] == rows
    members = label.members(context)
    assert len(members[0].rows.examples) == len(joined)
    assert runs.records(context, "validation") == records
    again, _ = kept(context)
    assert again == rows


@pytest.mark.parametrize("problem", ["single_label", "pairs", "tokens", "embedding", "ranking"])
@pytest.mark.parametrize("limit", [0.6, 0.9, 1.0])
def test_duplicates_go_as_comparing_every_row_says(
    problem: str, limit: float, job: Made, scripted: type[Scripted], texts: list[Record]
) -> None:
    """Rows that repeat others wholly, nearly, or not at all: those remain that comparing with all before them leaves."""
    records = records_of(problem, texts)
    field = {"pairs": "text_b", "tokens": "words", "ranking": "query"}.get(problem, "text")

    def script(known: Sequence[Record]) -> Iterator[tuple[Record, dict[str, Any]]]:
        for n, parent in enumerate(known):
            words = parent["words"] if problem == "tokens" else parent[field].split(" ")
            back = [f"new{n}", *words[::-1]]
            forms = [words, [w.upper() for w in words], [*words, "now"], back, [w.upper() for w in back], [*back, "now"]]
            for form in forms:
                yield parent, {field: form if problem == "tokens" else " ".join(form)}

    scripted.script = script  # type: ignore[method-assign]
    rows, told = kept(job(problem, records, {"type": "scripted", "factor": 100, "max_similarity": limit}))

    def sides(record: Record) -> list[tuple[str, ...]]:
        if problem == "embedding":
            return [(record[name],) for name in ("text", "text_b") if name in record]
        text = " ".join(record["words"]) if problem == "tokens" else record.get("query", record.get("text"))
        return [(text, record["text_b"])] if problem == "pairs" else [(text,)]

    before = [texts for record in records for texts in sides(record)]
    expected = []
    for parent, fields in script(records):
        record = {**{k: v for k, v in parent.items() if problem != "embedding" or k != "text_b"}, **fields}
        (mine,) = sides(record)
        near = [all(a.lower() == b.lower() or jaccard(a, b) > limit for a, b in zip(mine, other, strict=True)) for other in before]
        if not any(near):
            before.append(mine)
            expected.append(record[field])
    assert [row[field] for row in rows] == expected
    counts = told["augmenters"][0]
    assert counts["written"] == 6 * len(records) == counts["duplicates"] + counts["kept"]
    assert 0 < counts["kept"] < counts["written"]


def answers(context: Context, rows: list[Record], problem: str) -> list[torch.Tensor]:
    """What the teachers say of each row, one row and one teacher at a time; several averaged as probabilities."""
    members, found = label.members(context, "prepared-train"), []
    tokenizer = AutoTokenizer.from_pretrained(members[0].folder)
    for row in rows:
        mean = 0.0
        for member in members:
            with torch.no_grad():
                logits = member.head.forward(member.model, collate(member.head.encode([row], tokenizer), [0]), Wants(logits=True))
            z = logits.logits_NC.double()
            mean += member.weight * (z.sigmoid() if problem == "multi_label" else z.softmax(-1))
        found.append(mean / sum(member.weight for member in members))
    return found


def confidence(p: torch.Tensor, problem: str) -> float:
    if problem == "multi_label":
        return min(max(x, 1 - x) for x in p[0].tolist())
    best = [max(row) for row in p.tolist()]
    return sum(best) / len(best)


@pytest.mark.parametrize(
    ("problem", "teachers"), [("single_label", 1), ("single_label", 2), ("pairs", 1), ("multi_label", 1), ("tokens", 1)]
)
def test_rows_go_of_which_the_teacher_is_unsure(problem: str, teachers: int, job: Made, texts: list[Record]) -> None:
    records = records_of(problem, texts)
    block = {"type": "mlm_replace", "factor": 3, "share": 0.6}
    context = job(problem, records, block, teachers=teachers)
    everything, _ = kept(context)
    sure = [confidence(p, problem) for p in answers(context, everything, problem)]
    assert max(sure) - min(sure) > 0.15
    least = sorted(sure)[len(sure) // 2] + 1e-4
    rows, told = kept(job(problem, records, {**block, "min_confidence": least}, teachers=teachers))
    texts_of = {json.dumps({**row, "id": 0}) for row, c in zip(everything, sure, strict=True) if c >= least}
    assert {json.dumps({**row, "id": 0}) for row in rows} == texts_of
    counts = told["augmenters"][0]
    assert counts["unsure"] == counts["written"] - counts["duplicates"] - len(rows) > 0
    assert rows


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "tokens"])
def test_rows_go_that_the_teacher_labels_otherwise(problem: str, job: Made, texts: list[Record]) -> None:
    records = records_of(problem, texts)
    first = job(problem, records, {"type": "mlm_replace", "factor": 3})
    for record, p in zip(records, answers(first, records, problem), strict=True):  # labels that the teacher mostly agrees with
        given = (p > 0.5).double()[0].tolist() if problem == "multi_label" else p.argmax(-1).tolist()
        record["label"] = given[0] if problem == "single_label" else given
    records[5]["label"] = None
    block = {"type": "mlm_replace", "factor": 3, "share": 0.3}
    everything, _ = kept(job(problem, records, block))
    rows, told = kept(context := job(problem, records, {**block, "keep_label": True}))
    expected = []
    for row, p in zip(everything, answers(context, everything, problem), strict=True):
        meant = records[row["source"]["parent"]]["label"]
        said = (p > 0.5).double()[0].tolist() if problem == "multi_label" else p.argmax(-1).tolist()
        if meant is None or said == (meant if isinstance(meant, list) else [meant]):
            expected.append({**row, "id": 0})
    assert [{**row, "id": 0} for row in rows] == expected
    assert told["augmenters"][0]["relabelled"] == len(everything) - len(rows) > 0
    assert rows


def test_a_new_row_is_judged_by_the_teacher_of_its_parent(job: Made, texts: list[Record]) -> None:
    records = [{**record, "route": f"t{n % 2}"} for n, record in enumerate(texts)]
    block = {"type": "mlm_replace", "factor": 2}
    everything, _ = kept(job("single_label", records, block, teachers=2))
    assert all(row["route"] == records[row["source"]["parent"]]["route"] for row in everything)
    context = job("single_label", records, {**block, "min_confidence": 0.6}, teachers=2)
    members = label.members(context, "prepared-train")
    expected = []
    for row in everything:
        member = members[int(row["route"][1])]
        encoded = member.head.encode([row], AutoTokenizer.from_pretrained(member.folder))
        with torch.no_grad():
            logits = member.head.forward(member.model, collate(encoded, [0]), Wants(logits=True)).logits_NC
        if float(logits.softmax(-1).max()) >= 0.6:
            expected.append(row["text"])
    rows, _ = kept(context)
    assert [row["text"] for row in rows] == expected
    assert 0 < len(rows) < len(everything)


def test_factor_caps_what_is_kept(job: Made, scripted: type[Scripted], texts: list[Record]) -> None:
    drawn = 0

    def script(known: Sequence[Record]) -> Iterator[tuple[Record, dict[str, Any]]]:
        nonlocal drawn
        while True:  # an augmenter without end
            drawn += 1
            yield known[0], {"text": f"{drawn} {drawn * 7} {drawn * 13}"}

    scripted.script = script  # type: ignore[method-assign]
    rows, told = kept(job("single_label", texts, {"type": "scripted", "factor": 7.5, "max_similarity": 1}))
    assert len(rows) == told["rows"] == 300
    assert drawn == 300


def test_several_augmenters_each_say_what_they_did(job: Made, writer: Path, texts: list[Record]) -> None:
    blocks = (
        {"type": "mixup", "alpha": 0.2},
        {"type": "mlm_replace", "factor": 1},
        {"type": "teacher_generate", "model": "w", "factor": 0.5, "max_new_tokens": 8, "examples": 1, "batch_size": 24},
    )
    context = job("single_label", texts, *blocks, augmenter_dirs=[None, None, str(writer)])
    rows, told = kept(context)
    assert [entry["type"] for entry in told["augmenters"]] == ["mlm_replace", "teacher_generate"]
    by = [sum(row["source"]["augmenter"] == entry["type"] for row in rows) for entry in told["augmenters"]]
    assert by == [entry["kept"] for entry in told["augmenters"]] == [len(rows) - 20, 20]
    assert [row["id"] for row in rows] == list(range(40, 40 + len(rows)))
    shares = [event.phase_percent for event in context.events if event.event == "progress"]  # type: ignore[attr-defined]
    assert shares == sorted(shares)
    assert 20 <= shares[0] <= shares[-1] <= 40


def test_mixup_alone_writes_no_rows(job: Made, texts: list[Record]) -> None:
    context = job("single_label", texts, {"type": "mixup"})
    rows, told = kept(context)
    assert (rows, told) == ([], {"rows": 0, "augmenters": []})
    assert not context.warnings


def test_nothing_kept_is_said(job: Made, scripted: type[Scripted], texts: list[Record]) -> None:
    scripted.script = lambda known: ((row, {}) for row in known)  # type: ignore[method-assign]
    context = job("single_label", texts, {"type": "scripted"})
    assert kept(context)[0] == []
    assert [warning["code"] for warning in context.warnings] == ["nothing_augmented"]
    assert "40 rows" in context.warnings[0]["message"]
    scripted.script = lambda known: iter(())  # type: ignore[method-assign]
    context = job("single_label", texts, {"type": "scripted"})
    kept(context)
    assert "wrote no rows" in context.warnings[0]["message"]


def test_the_catalogue_knows_each_augmenter() -> None:
    found = plugins.discover("augmenters")
    assert set(found) >= {"mixup", "mlm_replace", "teacher_generate"}
    for cls in found.values():
        assert cls.problems <= {p for p in PROBLEMS if p != "pairs"}
        assert all(p.get("description") for p in cls.Params.model_json_schema()["properties"].values())
        assert "arXiv" in (cls.__doc__ or "")
