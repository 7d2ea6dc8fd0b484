"""The control plane starts fast and never loads what only trains or serves."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.architecture.requirements import closure

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "numpy", "onnxruntime", "onnx", "tokenizers", "safetensors", "accelerate", "worker")
IMPORT_SECONDS = 6.0  # about 1.5 alone; the machine that runs the tests is busy

SEEN = """
import sys
import app.main
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""

BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from fastapi.testclient import TestClient
from app.main import create_app
from app.settings import Settings
from migrations import upgrade

settings = Settings()
upgrade(settings.database)
with TestClient(create_app(settings)) as client:
    ready = client.get("/readyz")
    assert ready.status_code == 200, ready.text
    catalog = client.get("/v1/catalog", headers={"Authorization": "Bearer " + settings.bootstrap_key})
    assert catalog.status_code == 200, catalog.text
    assert "response" in catalog.text
print("alive")
"""


def _python(code: str, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    full = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env}
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=full, capture_output=True, text=True, timeout=120)


def test_importing_the_api_loads_nothing_heavy() -> None:
    began = time.monotonic()
    done = _python(SEEN)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "fastapi" in loaded
    assert not loaded & set(HEAVY)
    assert time.monotonic() - began < IMPORT_SECONDS


def test_the_api_runs_where_nothing_heavy_is_installed(tmp_path: Path) -> None:
    key = "rt_architecture-test-key-0123456789abcdefghijk"
    done = _python(
        BLOCKED,
        ",".join(HEAVY),
        RETORT_DATA_DIR=str(tmp_path),
        RETORT_BOOTSTRAP_KEY=key,
        RETORT_PEPPER="pepper-of-the-tests-0123456789",
        REDIS_URL="redis://127.0.0.1:1/0",
        HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["alive"]


@pytest.mark.parametrize(
    ("extra", "absent"), [("", {"torch", "numpy", "transformers", "onnxruntime"}), ("serve", {"torch", "transformers"})]
)
def test_what_an_install_brings(extra: str, absent: set[str]) -> None:
    """Follows the requirements of the installed packages, as pip does for `pip install .` and `.[serve]`."""
    found = closure("retort", extra)
    assert {"fastapi", "sqlalchemy", "celery"} <= found
    assert not found & absent
