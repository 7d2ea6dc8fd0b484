"""The real child process: what it answers to good, bad and impossible requests, and to a disk that fills up."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.ids import FILE, new_id
from tests.fixtures.run_child import Result, RunChild, say
from tests.fixtures.tiny import make_rows, make_tiny_teacher
from worker.run import exitcodes

SPEC: dict[str, Any] = {
    "name": "tiny",
    "task": "text-classification",
    "teacher": {"source": "local", "model": "t", "finetune": {"epochs": 2, "learning_rate": 2e-3, "batch_size": 16}},
    "student": {"init": "teacher_layers", "layers": 1, "hidden_size": 16},
    "data": {"training_file": new_id(FILE), "max_length": 24},
    "recipe": {"type": "response", "epochs": 2, "learning_rate": 2e-3, "batch_size": 16},
    "evaluation": {"baseline": False},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("tiny") / "teacher")


def child(tmp_path: Path, folder: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> RunChild:
    path = tmp_path / "train.jsonl"
    if rows is None:
        make_rows(path, 100, seed=1)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunChild(tmp_path / "run", {**SPEC, **changes}, folder, {"training": path})


def failure(result: Result) -> Any:
    (failed,) = result.of("failed")
    return failed


def test_six_phases_and_a_package(tmp_path: Path, teacher: Path) -> None:
    result = child(tmp_path, teacher).run()
    assert result.code == exitcodes.DONE, result.log
    completed = [e.name for e in result.of("phase") if e.status == "completed"]
    assert completed == ["preparing", "labelling", "training", "quantizing", "evaluating", "packaging"]
    percents = [e.percent for e in result.of("progress")]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    steps = [e for e in result.of("metrics") if e.stage == "response" and "loss" in e.values]
    assert len(steps) == 12
    assert {"response/loss", "response/temperature", "response/grad_norm", "hard_label/loss"} <= set(steps[0].values)
    assert (result.workdir / result.of("done")[0].model_dir / "retort.json").exists()


@pytest.mark.parametrize(
    ("rows", "code", "told"),
    [
        ([{"text": "a", "label": "x"}] * 10, "dataset_invalid", "1 distinct labels"),
        ([{"text": "a", "label": "x"}, {"text": "", "label": "y"}, {"label": "y"}], "dataset_invalid", "line 2: 'text' is empty"),
        ([{"text": 3, "label": "x"}], "dataset_invalid", "must be a text"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, teacher: Path, rows: list[dict[str, Any]], code: str, told: str) -> None:
    result = child(tmp_path, teacher, rows).run()
    assert result.code == exitcodes.BAD_DATA
    assert failure(result).code == code
    assert told in failure(result).message
    assert not result.of("done")


def test_a_teacher_without_a_head_is_refused_with_the_way_out(tmp_path: Path, teacher: Path) -> None:
    result = child(tmp_path, teacher, teacher={"source": "local", "model": "t"}).run()
    assert result.code == exitcodes.BAD_SPEC
    assert failure(result).code == "incompatible_models"
    assert "finetune" in failure(result).hint


def test_a_loss_that_explodes_fails_with_a_hint(tmp_path: Path, teacher: Path) -> None:
    hot = {"type": "response", "epochs": 2, "learning_rate": 1e30, "batch_size": 16}
    result = child(tmp_path, teacher, recipe=hot).run()
    assert result.code == exitcodes.DIVERGED
    assert failure(result).code == "loss_diverged"
    assert "learning rate" in failure(result).hint
    assert not (result.workdir / "result.json").exists()


def test_a_full_disk_fails_clearly_and_resumes(tmp_path: Path, teacher: Path) -> None:
    run = child(tmp_path, teacher)
    full = run.run(fault="checkpoint.after_write:2=full")
    assert full.code == exitcodes.DISK_FULL
    assert failure(full).code == "disk_full"
    assert failure(full).retryable
    assert run.run().code == exitcodes.DONE


def test_stop_commands_and_resume(tmp_path: Path, teacher: Path) -> None:
    def ask(command: str) -> Any:
        return lambda event, process: say(process, command) if event.event == "metrics" and event.step == 3 else None

    run = child(tmp_path, teacher)
    assert run.run(watch=ask("cancel")).code == exitcodes.CANCELLED
    paused = run.run(watch=ask("checkpoint_and_exit"))
    assert paused.code == exitcodes.TRY_AGAIN
    assert paused.of("checkpoint")
    resumed = run.run()
    assert resumed.code == exitcodes.DONE, resumed.log
    assert min(e.step for e in resumed.of("metrics") if e.stage == "teacher") > 1, "the teacher went on from its checkpoint"


def test_labels_are_asked_for_once(tmp_path: Path, teacher: Path) -> None:
    run = child(tmp_path, teacher)
    first = run.run()
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "cache").rglob("*.safetensors")}
    assert shards
    run.folder = tmp_path / "second"
    run.attempt = 0
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "cache").symlink_to(tmp_path / "run" / "cache")
    second = run.run()
    assert second.digest == first.digest
    assert {p: p.stat().st_mtime_ns for p in shards} == shards


def test_an_unlabelled_row_teaches_through_the_teacher_only(tmp_path: Path, teacher: Path) -> None:
    path = tmp_path / "train.jsonl"
    make_rows(path, 120, seed=1, unlabelled=40)
    result = RunChild(tmp_path / "run", SPEC, teacher, {"training": path}).run()
    assert result.code == exitcodes.DONE, result.log
    counts = json.loads((result.workdir / "prepared" / "data.json").read_text())
    assert counts["unlabelled"] == 40
    assert counts["counts"] == {"train": 110, "validation": 10, "test": 10}
