"""The example job of every recipe, sent as `retort submit` would: its files uploaded, then validated over HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.client import load_spec, local_files
from app.domain import catalog
from app.domain.db import Sessions, transaction
from app.domain.importing import register_checkpoint, store_checkpoint
from app.domain.storage import BlobStore
from app.settings import Settings
from tests.conftest import PROJECT
from tests.fixtures.api import Api, control_plane
from tests.fixtures.modeldirs import write_model_dir

EXAMPLES = Path(__file__).parents[3] / "examples" / "recipes"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}
LOCAL: dict[str, dict[str, Any]] = {  # folders that an operator has, by the examples' names for them
    "bert-base-uncased": MINILM
    | {"architectures": ["BertForMaskedLM"], "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
    "ms-marco-minilm-l6-v2": MINILM | {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def api(settings: Settings, sessions: Sessions, blobs: BlobStore, tmp_path: Path) -> Iterator[Api]:
    assert settings.models_dir is not None
    for name, config in LOCAL.items():
        write_model_dir(settings.models_dir / name, **config)
    stored = store_checkpoint(write_model_dir(tmp_path / "minilm", **MINILM), blobs)
    with transaction(sessions) as session:
        register_checkpoint(session, PROJECT, "minilm", stored, base_model="test", provenance={})
    with control_plane(settings, sessions) as made:
        yield made


def test_every_recipe_has_an_example() -> None:
    assert set(NAMES) == set(catalog.room("recipes"))


def test_the_examples_are_valid_jobs(api: Api) -> None:
    uploaded: dict[Path, str] = {}
    for name in NAMES:
        spec = load_spec(EXAMPLES / f"{name}.yaml")
        for field, path in local_files(spec, EXAMPLES).items():
            file = path.resolve()
            if file not in uploaded:
                answer = api.upload(file.read_bytes(), file.name)
                assert answer.status_code == 201, answer.text
                uploaded[file] = answer.json()["id"]
            spec["data"][field] = uploaded[file]
        asked = spec["recipe"]["type"]
        assert asked == name
        said = api.client.post("/v1/distillation/validate", json=spec).json()
        assert said["valid"], (name, said["errors"])
        assert said["resolved_spec"]["recipe"] is None
        assert said["resolved_spec"]["stages"]
        assert said["estimate"]["fits"], name
    assert len(uploaded) == 3


def test_the_articles_are_rankings() -> None:
    rows = [json.loads(line) for line in (EXAMPLES / "articles.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["text"] for row in rows}) == len(rows) > 20
    for row in rows:
        assert len(set(row["documents"])) == len(row["documents"]) == len(row["label"]) == 4
        assert sorted(row["label"]) == [0, 0, 0, 1]
    assert len({tuple(row["label"]) for row in rows}) == 4, "the right article stands in every place"
