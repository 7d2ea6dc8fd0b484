"""The estimate moves the right way with everything that costs something."""

from typing import Any

import pytest

from app.domain import catalog
from app.domain.model_checks import Models
from app.domain.modelfiles import ModelInfo
from app.domain.spec import JobSpec
from app.services.estimate import Sizes, estimate

TEACHER = ModelInfo(
    model_type="bert",
    architectures=["BertForSequenceClassification"],
    hidden_size=384,
    num_layers=6,
    num_heads=12,
    intermediate_size=1536,
    vocab_size=30_522,
    max_positions=512,
    num_labels=2,
    labels=None,
    has_tokenizer=True,
    params=22_700_000,
    bytes=91_000_000,
)
SIZES = Sizes(rows=10_000, validation=None, test=1000, characters=60)


def of(
    task: str = "text-classification", sizes: Sizes = SIZES, device: str = "cpu", free: int = 2**40, **changes: Any
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": "a job",
        "task": task,
        "teacher": {"source": "local", "model": "m"},
        "student": {"init": "teacher_layers", "layers": 2},
        "data": {"training_file": "file-" + "0" * 26},
    }
    for name, value in changes.items():
        body[name] = {**body[name], **value} if isinstance(body.get(name), dict) else value
    return estimate(catalog.expand(JobSpec.model_validate(body)), sizes, Models(TEACHER, None), device, free)


def seconds(**changes: Any) -> int:
    return int(of(**changes)["duration_seconds"]["expected"])


def stage(*objectives: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "one", "epochs": 4, "objectives": [{"type": o} for o in objectives], **more}]


def test_the_shape_of_an_estimate() -> None:
    said = of()
    assert said["steps"] == 282 * 10, "9,000 rows in batches of 32, ten epochs"
    assert said["duration_seconds"]["low"] < said["duration_seconds"]["expected"] < said["duration_seconds"]["high"]
    assert said["teacher_tokens"] == pytest.approx(11_000 * (2 + 60 / 4.5), rel=1e-3)
    assert of(device="cuda")["duration_seconds"]["expected"] < said["duration_seconds"]["expected"]
    assert said["fits"]
    assert not of(free=10**6)["fits"]


@pytest.mark.parametrize(
    ("dearer", "than"),
    [
        ({"recipe": {"type": "response", "epochs": 20}}, {}),
        ({"teacher": {"finetune": {"epochs": 5}}}, {}),
        ({"teacher": {"ensemble": [{"source": "local", "model": "n"}]}}, {}),
        ({"student": {"layers": 6}}, {}),
        ({}, {"evaluation": {"baseline": False}}),
        ({"target": {"min_speedup": 5}}, {}),
        ({"augmentation": [{"type": "mlm_replace", "factor": 4}]}, {}),
        ({"sizes": Sizes(10_000, None, 1000, 60, sequences=20), "task": "ranking"}, {"task": "ranking"}),
        ({"stages": stage("response", teacher={"type": "mutual"})}, {"stages": stage("response")}),
        (
            {"stages": stage("response", teacher={"type": "mutual", "peers": 3})},
            {"stages": stage("response", teacher={"type": "mutual"})},
        ),
        ({"stages": stage("response", "attention_mse")}, {"stages": stage("response")}),
        ({"stages": stage("response", "hidden_mse"), "teacher": {"cache": "never"}}, {"stages": stage("response", "hidden_mse")}),
    ],
)
def test_what_costs_time(dearer: dict[str, Any], than: dict[str, Any]) -> None:
    assert seconds(**dearer) > seconds(**than)


def test_kept_states_cost_disk() -> None:
    kept = of(stages=stage("response", "hidden_mse"))["disk_bytes"]
    assert kept > of(stages=stage("response"))["disk_bytes"]
    assert kept > of(stages=stage("response", "hidden_mse"), teacher={"cache": "never"})["disk_bytes"]
    many = Sizes(rows=10_000_000, validation=None, test=0, characters=60)
    always = of(sizes=many, stages=stage("response", "hidden_mse"), teacher={"cache": "always"})["disk_bytes"]
    assert always > of(sizes=many, stages=stage("response", "hidden_mse"))["disk_bytes"] + 4 * 2**30


def test_a_model_of_the_hub_is_assumed_to_be_of_base_size() -> None:
    spec = JobSpec.model_validate(
        {
            "name": "a job",
            "task": "masked-lm",
            "teacher": {"source": "hub", "model": "m"},
            "student": {"init": "pretrained", "source": "hub", "model": "n"},
            "data": {"training_file": "file-" + "0" * 26},
        }
    )
    said = estimate(catalog.expand(spec), SIZES, Models(None, None), "cpu", 2**40)
    assert any("base-size" in line for line in said["assumptions"])
