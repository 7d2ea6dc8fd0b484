"""A teacher that was fitted before is taken over, with the time that it saves."""

import json
from pathlib import Path
from typing import Any

from app.domain import manifest
from app.domain.spec import Finetune
from tests.integration.test_finish_phases import _context
from worker.phases import fitting, runs


def test_a_fitted_teacher_says_what_fitting_it_took(tmp_path: Path) -> None:
    def fill(name: str) -> dict[str, Any]:
        context = _context(tmp_path / name)
        request = context.request.model_copy(update={"cache_dir": str(tmp_path / "cache")})
        context.request = request
        wanted = Finetune(epochs=1, learning_rate=1e-3, batch_size=16)
        fitting.fill(context, runs.head(context, "teacher"), "teacher", tmp_path / "first" / "student", wanted, 0.0, 1.0)
        told: dict[str, Any] = json.loads(context.output("teacher.json").read_text())
        return told

    first = fill("first")
    assert first["steps"] == 2
    assert "seconds_saved" not in first
    (kept,) = (tmp_path / "cache").glob("fitted-*")
    assert fill("second") == {"steps": 0, "seconds": 0.0, "reused": True, "seconds_saved": round(first["seconds"], 3)}
    described = manifest.read(kept)
    del described["seconds"]
    (kept / manifest.NAME).write_text(json.dumps(described))  # as an earlier release wrote it
    assert fill("third") == {"steps": 0, "seconds": 0.0, "reused": True}
