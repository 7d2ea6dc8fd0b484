"""Prepared records of every task: what is written for each row, which rows are held out, what is refused."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import DatasetInvalid
from app.domain.spec import JobSpec
from worker.phases import prepare
from worker.phases.base import Context
from worker.run import protocol

Rows = Sequence[dict[str, Any]]
Made = dict[str, Any]  # train, validation, test and data.json


def prepared(
    folder: Path,
    task: str,
    rows: Rows | str,
    *,
    more: dict[str, Rows] | None = None,
    teacher: dict[str, Any] | None = None,
    finetune: dict[str, Any] | None = None,
    **data: Any,
) -> Made:
    """The phase's output for these training rows (JSON Lines, or the text of a CSV file) and those of the other roles.
    `teacher`: of its config.json."""
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"], **(teacher or {})}))
    files = {}
    for role, given in {"training": rows, **(more or {})}.items():
        path = folder / f"{role}.{'csv' if isinstance(given, str) else 'jsonl'}"
        path.write_text(given if isinstance(given, str) else "".join(json.dumps(row) + "\n" for row in given))
        files[role] = path
    spec = JobSpec.model_validate(
        {
            "name": "a job",
            "task": task,
            "teacher": {"source": "local", "model": "tiny", "finetune": finetune},
            "student": {"init": "teacher_layers"},
            "data": {"training_file": "file-" + "0" * 26, "validation_split": 0.25, **data},
        }
    )
    request = protocol.RunRequest(
        job_id="djob_test",
        attempt=1,
        spec=spec.resolved(),
        config_hash="sha256:0",
        workdir=str(folder),
        cache_dir=str(folder),
        files={role: str(path) for role, path in files.items()},
        formats={role: path.suffix.removeprefix(".") for role, path in files.items()},
        teacher_dir=str(folder),
    )
    context = Context(request, spec, folder, lambda event: None)
    prepare.run(context)
    out = folder / "prepared"
    made: Made = {
        split: [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "validation", "test")
    }
    assert context.sealed("prepared")
    return made | {"data": json.loads((out / "data.json").read_text()), "lines": (out / "train.jsonl").read_text().splitlines()}


def everything(made: Made) -> list[dict[str, Any]]:
    return [*made["train"], *made["validation"]]


SINGLE = [{"text": f"text {n}", "label": ("b", "a")[n % 2]} for n in range(8)]


def test_single_labels_byte_by_byte(tmp_path: Path) -> None:
    rows = [*SINGLE, {"text": "ünlabelled"}]
    made = prepared(tmp_path, "text-classification", rows)
    assert made["lines"] == [
        '{"id": 0, "text": "text 0", "label": 1}',
        '{"id": 1, "text": "text 1", "label": 0}',
        '{"id": 2, "text": "text 2", "label": 1}',
        '{"id": 3, "text": "text 3", "label": 0}',
        '{"id": 4, "text": "text 5", "label": 0}',
        '{"id": 5, "text": "text 6", "label": 1}',
        '{"id": 6, "text": "ünlabelled", "label": null}',
    ]
    assert made["data"] == {
        "task": "text-classification",
        "problem": "single_label",
        "labels": ["a", "b"],
        "counts": {"train": 7, "validation": 2, "test": 2},
        "unlabelled": 1,
        "skipped": 0,
        "test_is_validation": True,
        "max_length": 128,
        "pairs": False,
    }
    assert made["test"] == made["validation"]


def test_whole_numbers_are_labels_too(tmp_path: Path) -> None:
    made = prepared(tmp_path, "text-classification", [{"text": f"t{n}", "label": (10, 9)[n % 2]} for n in range(8)])
    assert made["data"]["labels"] == ["10", "9"], "by their text"
    assert {r["label"] for r in everything(made)} == {0, 1}


def test_pairs_of_texts(tmp_path: Path) -> None:
    made = prepared(tmp_path, "text-classification", [{**row, "second": "s"} for row in SINGLE], text_b="second")
    assert made["lines"][0] == '{"id": 0, "text": "text 0", "text_b": "s", "label": 1}'
    assert made["data"]["pairs"] is True


def test_several_labels_a_row(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"t{n}", "label": ([], ["b"], ["a", "b", "a"], [3])[n % 4]} for n in range(12)] + [{"text": "none"}]
    made = prepared(tmp_path, "text-classification", rows, problem="multi_label")
    assert made["data"]["labels"] == ["3", "a", "b"]
    by_text = {r["text"]: r["label"] for r in everything(made)}
    assert (by_text["t0"], by_text["t1"], by_text["t2"], by_text["t3"]) == ([0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0])
    assert by_text["none"] is None
    assert len(made["validation"]) == 3
    assert all(r["label"] is not None for r in made["validation"])


def test_numbers(tmp_path: Path) -> None:
    made = prepared(tmp_path, "text-classification", [{"text": f"t{n}", "label": -n / 2} for n in range(8)], problem="regression")
    assert made["data"]["labels"] == []
    assert {r["text"]: r["label"] for r in everything(made)} == {f"t{n}": -n / 2 for n in range(8)}, "not rescaled"


def test_words_and_their_tags(tmp_path: Path) -> None:
    rows = [{"text": ["Ada", f"w{n}"], "label": ["B-P", "O"]} for n in range(8)] + [{"text": ["bare"]}]
    made = prepared(tmp_path, "token-classification", rows)
    assert made["data"]["labels"] == ["B-P", "O"]
    assert made["data"]["problem"] == "tokens"
    assert made["train"][0].keys() == {"id", "words", "label"}
    assert all(r["label"] == [0, 1] for r in everything(made) if r["words"] != ["bare"])
    assert made["train"][-1]["label"] is None


def test_a_teacher_that_knows_the_labels_says_their_order(tmp_path: Path) -> None:
    rows = [{"text": ["Ada", f"w{n}"], "label": ["B-P", "O"]} for n in range(8)]
    ner = {"architectures": ["BertForTokenClassification"], "id2label": {"10": "I-P", "0": "O", "2": "B-P"}}
    cases: list[tuple[dict[str, Any], dict[str, Any] | None, list[str]]] = [
        (ner, None, ["O", "B-P", "I-P"]),
        (ner, {"epochs": 1}, ["B-P", "O"]),
        ({**ner, "architectures": ["BertForSequenceClassification"]}, None, ["B-P", "O"]),
        ({**ner, "id2label": {"0": "O", "1": "PER"}}, None, ["B-P", "O"]),
    ]
    for n, (teacher, finetune, labels) in enumerate(cases):
        (folder := tmp_path / str(n)).mkdir()
        made = prepared(folder, "token-classification", rows, teacher=teacher, finetune=finetune)
        assert made["data"]["labels"] == labels
        assert made["train"][0]["label"] == [labels.index("B-P"), labels.index("O")]


def test_texts_and_scored_pairs(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"t{n}", "b": "other", "label": n} for n in range(6)]
    rows = [*rows, {"text": "alone"}, {"text": "alone with a score", "label": 3}, {"text": "unscored", "b": "pair"}]
    made = prepared(tmp_path, "embedding", rows, text_b="b", more={"test": [{"text": "x", "b": "y", "label": 10}]})
    assert made["data"]["score_range"] == [0, 10]
    labels = {r["text"]: r["label"] for r in everything(made)}
    assert labels == {**{f"t{n}": n / 10 for n in range(6)}, "alone": None, "alone with a score": None, "unscored": None}
    assert made["test"] == [{"id": 0, "text": "x", "text_b": "y", "label": 1.0}]
    assert made["data"]["pairs"] is True
    assert next(r for r in everything(made) if r["text"] == "alone").keys() == {"id", "text", "label"}


def test_scores_that_are_shares_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "b": "other", "label": n / 20} for n in range(2, 10)]
    made = prepared(tmp_path, "embedding", rows, text_b="b")
    assert "score_range" not in made["data"]
    assert sorted(r["label"] for r in everything(made)) == [n / 20 for n in range(2, 10)]


def test_texts_alone_need_no_label_column(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "a topic"} for n in range(8)]
    for task, problem in (("embedding", "embedding"), ("masked-lm", "masked_lm")):
        (folder := tmp_path / task).mkdir()
        made = prepared(folder, task, rows)
        assert made["data"]["problem"] == problem
        assert all(r.keys() == {"id", "text", "label"} and r["label"] is None for r in everything(made))
        assert (len(made["train"]), len(made["validation"])) == (6, 2)
        assert not made["data"]["pairs"]


def test_queries_and_documents(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"q{n}", "documents": ["d1", "d2"], "label": [2, 0]} for n in range(8)]
    rows = [*rows, {"text": "unlabelled", "documents": ["d1", "d2", "d3"]}]
    made = prepared(tmp_path, "ranking", rows)
    assert made["lines"][0].startswith('{"id": 0, "query": "q')
    assert made["train"][0].keys() == {"id", "query", "documents", "label"}
    assert {r["query"]: r["label"] for r in everything(made)} == {**{f"q{n}": [2.0, 0.0] for n in range(8)}, "unlabelled": None}


def test_the_route_of_a_row_is_kept(tmp_path: Path) -> None:
    rows = [{**row, "lang": (1, "en")[n % 2]} for n, row in enumerate(SINGLE)] + [{"text": "nowhere"}]
    made = prepared(tmp_path, "text-classification", rows, route="lang")
    assert {r["text"]: r["route"] for r in everything(made)} == {
        **{f"text {n}": ("1", "en")[n % 2] for n in range(8)},
        "nowhere": None,
    }
    assert [*made["train"][0]] == ["id", "text", "label", "route"]


def test_lists_and_numbers_in_csv_cells(tmp_path: Path) -> None:
    made = prepared(
        tmp_path,
        "text-classification",
        "text,label\n" + "".join(f't{n},"[""a"", {n % 2}]"\n' for n in range(8)),
        problem="multi_label",
    )
    assert made["data"]["labels"] == ["0", "1", "a"]
    (folder := tmp_path / "numbers").mkdir()
    made = prepared(folder, "text-classification", "text,label\n" + "".join(f"{n},{n}.5\n" for n in range(8)), problem="regression")
    assert {r["text"]: r["label"] for r in everything(made)} == {str(n): n + 0.5 for n in range(8)}


# -- held out --------------------------------------------------------------------------------------------------------


def test_what_is_held_out_depends_on_the_seed_alone_and_leaves_every_label_a_row(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": [f"rare-{n}"] if n < 3 else [("a", "b")[n % 2]]} for n in range(40)]
    chosen = []
    for turn in range(2):
        (folder := tmp_path / str(turn)).mkdir()
        made = prepared(folder, "text-classification", rows, problem="multi_label")
        chosen.append([r["text"] for r in made["validation"]])
        assert len(made["validation"]) == 10
        left = Counter(i for r in made["train"] for i, one in enumerate(r["label"]) if one)
        assert set(left) == set(range(5))
    assert chosen[0] == chosen[1]
    assert chosen[0] == sorted(chosen[0], key=lambda text: int(text[1:])), "in the file's order"


def test_labelled_and_unlabelled_rows_are_held_out_alike(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"q{n}", "documents": ["a", "b"], **({"label": [1, 0]} if n < 12 else {})} for n in range(40)]
    made = prepared(tmp_path, "ranking", rows)
    labelled = [r["label"] is not None for r in made["validation"]]
    assert (sum(labelled), len(labelled)) == (3, 10)


def test_max_examples(tmp_path: Path) -> None:
    made = prepared(tmp_path, "masked-lm", [{"text": f"t{n}"} for n in range(50)], max_examples=20)
    assert made["data"]["counts"] == {"train": 15, "validation": 5, "test": 5}


# -- refused ---------------------------------------------------------------------------------------------------------

TOKENS = [{"text": ["a", "b"], "label": ["O", "X"]} for _ in range(4)]


@pytest.mark.parametrize(
    ("task", "rows", "more", "param"),
    [
        ("text-classification", [{"text": "a", "label": "x"}] * 4, {}, "data.label"),
        ("text-classification", [*SINGLE, {"text": " "}], {}, "data.training_file"),
        ("text-classification", SINGLE, {"test": [{"text": "a", "label": "new"}]}, "data.test_file"),
        ("text-classification", SINGLE, {"validation": [{"text": "a"}]}, "data.validation_file"),
        ("token-classification", [*TOKENS, {"text": ["a"], "label": ["O", "O"]}], {}, "data.training_file"),
        ("token-classification", TOKENS, {"test": [{"text": ["a"], "label": ["new"]}]}, "data.test_file"),
        ("ranking", [{"text": "q", "documents": ["a"]}], {}, "data.training_file"),
        ("masked-lm", [{"text": "a"}], {}, "data.training_file"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, task: str, rows: Rows, more: dict[str, Rows], param: str) -> None:
    data = {"test_file": "file-" + "1" * 26, "validation_file": "file-" + "2" * 26} if more else {}
    with pytest.raises(DatasetInvalid) as caught:
        prepared(tmp_path, task, rows, more=more, **{k: v for k, v in data.items() if k.removesuffix("_file") in more})
    assert caught.value.param == param
    assert caught.value.hint


def test_bad_rows_may_be_skipped(tmp_path: Path) -> None:
    rows: Rows = [*TOKENS, {"text": ["a"], "label": ["O", "O"]}, {"text": "no list"}]
    made = prepared(tmp_path, "token-classification", rows, on_bad_row="skip")
    assert made["data"]["skipped"] == 2
    assert len(everything(made)) == 4


@pytest.mark.parametrize("task", ["embedding", "ranking", "masked-lm"])
def test_unlabelled_test_rows_measure_nothing_but_are_no_fault(tmp_path: Path, task: str) -> None:
    rows = [{"text": f"t{n}", "documents": ["a", "b"]} for n in range(8)]
    made = prepared(tmp_path, task, rows, more={"test": rows[:3], "validation": rows[:2]})
    assert made["data"]["counts"] == {"train": 8, "validation": 2, "test": 3}
    assert not made["data"]["test_is_validation"]
