"""A job service over a migrated database with models and files, and a job that is valid."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.db import Sessions, transaction
from app.domain.importing import register_checkpoint, store_checkpoint
from app.domain.storage import BlobStore
from app.services.files import FileService
from app.services.jobs import JobService
from app.settings import Settings
from tests.conftest import PROJECT
from tests.fixtures.models import model_folder

ROWS = [{"text": f"where is my {thing} number {n}", "label": thing} for n in range(20) for thing in ("card", "parcel")]
Upload = Callable[..., str]


@pytest.fixture
def service(sessions: Sessions, blobs: BlobStore, settings: Settings) -> JobService:
    return JobService(sessions, blobs, settings, PROJECT, "key_test")


@pytest.fixture
def upload(sessions: Sessions, blobs: BlobStore) -> Upload:
    """Store rows (dicts, or the bytes of a JSON Lines file) and return the file's id."""

    def act(rows: list[dict[str, Any]] | bytes = ROWS, project: str = PROJECT, name: str = "rows.jsonl") -> str:
        files = FileService(sessions, blobs, project)
        content = rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode()
        with files.receiving(2**24) as place:
            place.write(content)
            return files.store(files.check(place, name, "distill")).id

    return act


@pytest.fixture
def register(sessions: Sessions, blobs: BlobStore, tmp_path: Path) -> Callable[..., str]:
    """Put a small model into the registry and return 'name:version'."""

    def act(name: str = "minilm", project: str = PROJECT, **config: Any) -> str:
        stored = store_checkpoint(model_folder(tmp_path / f"{project}-{name}", **config), blobs)
        with transaction(sessions) as session:
            version = register_checkpoint(session, project, name, stored, base_model="test", provenance={})
        return f"{name}:{version.version}"

    return act


@pytest.fixture
def body(upload: Upload, register: Callable[..., str]) -> dict[str, Any]:
    register()
    return {
        "name": "Support intents",
        "task": "text-classification",
        "teacher": {"source": "registry", "model": "minilm", "finetune": {"epochs": 1}},
        "student": {"init": "teacher_layers", "layers": 1},
        "data": {"training_file": upload(), "max_length": 32},
        "recipe": "response",
    }
