"""Killed inside every kind of stage, the child goes on to the same student and the same loss curve, bit for bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.domain.ids import FILE, new_id
from tests.fixtures.run_child import Result, RunChild
from tests.fixtures.tiny import make_rows, make_tiny_teacher
from worker.run import exitcodes

PACE = {"epochs": 2, "learning_rate": 2e-3, "batch_size": 16}
SOFT = {"type": "response", "temperature": 2.0}
HARD = {"type": "hard_label"}
STAGES = [
    {"name": "features", "objectives": [{"type": "hidden_mse"}, {"type": "attention_mse"}], "balance": False, **PACE},
    {"name": "again", "restart": True, "teacher": {"type": "previous"}, "objectives": [SOFT, HARD], **PACE},
    {"name": "average", "teacher": {"type": "ema"}, "objectives": [SOFT, HARD], **PACE},
    {"name": "peers", "teacher": {"type": "mutual"}, "objectives": [SOFT, HARD], **PACE},
    {"name": "main", "objectives": [SOFT, {"type": "early_exit"}], **PACE},
]
STEPS = 12  # of a stage: 90 training rows in batches of 16, twice
FITTING = 12  # of the teacher
SPEC: dict[str, Any] = {
    "name": "stages",
    "task": "text-classification",
    "teacher": {"source": "local", "model": "t", "finetune": {**PACE}},
    "student": {"init": "teacher_layers", "layers": 2, "hidden_size": 16, "adapter": {"type": "lora", "r": 2}},
    "data": {"training_file": new_id(FILE), "max_length": 24},
    "augmentation": [{"type": "mixup"}],
    "stages": STAGES,
    "quantization": {"scheme": "int8_qat", "epochs": 2},
    "evaluation": {"baseline": False, "max_items": 8},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("tiny") / "teacher", layers=3)


def child(folder: Path, teacher: Path) -> RunChild:
    folder.mkdir(parents=True, exist_ok=True)
    make_rows(folder / "train.jsonl", 100, seed=1)
    options = {"checkpoint_every_steps": 4}
    return RunChild(folder / "run", SPEC, teacher, {"training": folder / "train.jsonl"}, options=options)


def curves(result: Result) -> dict[str, list[dict[str, float]]]:
    """Every stage's curve without the speeds."""
    found = {}
    for path in (result.workdir / "curves").glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.stem] = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]
    return found


@pytest.fixture(scope="module")
def undisturbed(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    result = child(tmp_path_factory.mktemp("undisturbed"), teacher).run()
    assert result.code == exitcodes.DONE, result.log
    return result


@pytest.mark.parametrize("stage", [*(s["name"] for s in STAGES), "qat"])
def test_killed_in(stage: str, teacher: Path, undisturbed: Result, tmp_path: Path) -> None:
    number = [*(s["name"] for s in STAGES), "qat"].index(stage)
    run = child(tmp_path, teacher)
    first = run.run(fault=f"train.step:{FITTING + number * STEPS + (7 if stage != 'qat' else 5)}")
    assert first.code == -9, first.log
    second = run.run()
    assert second.code == exitcodes.DONE, second.log
    assert second.digest == undisturbed.digest
    whole, resumed = curves(undisturbed), curves(second)
    assert resumed[stage] == whole[stage]
    assert stage in whole
    shutil.rmtree(run.folder)
