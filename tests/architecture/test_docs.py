"""The documents say what the code does: settings, errors, paths, commands, links."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import typer
import yaml

from app.cli import app
from app.domain.spec import JobSpec
from app.main import create_app
from app.settings import Settings
from tests.architecture.errors_page import page

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "support_intents" / "README.md",
]
SERVED = {"/v1/classify", "/v1/embeddings", "/v1/rerank", "/v1/compare", "/v1/models"}  # by the data plane


def test_the_errors_page_is_the_catalogue() -> None:
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == page(), (
        "run: python -m tests.architecture.errors_page > docs/errors.md"
    )


def test_every_setting_is_explained() -> None:
    text = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias if isinstance(field.validation_alias, str) else f"RETORT_{name.upper()}"
        if name != "fault":  # of the chaos tests
            assert f"`{variable}`" in text, variable
    known = {f.validation_alias or f"RETORT_{n.upper()}" for n, f in Settings.model_fields.items()}
    assert set(re.findall(r"`(RETORT_[A-Z_]+)`", text)) <= known


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_operations_exist(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in re.findall(r"(?:^|[`$] ?)retort ([a-z]+)", text, re.M):
        assert name in known, f"retort {name}"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.M)) <= targets
    paths = create_app(Settings(data_dir=tmp_path)).openapi()["paths"]
    operations = {re.sub(r"\{\w+\}", "{id}", path) for path in paths} | SERVED
    for operation in re.findall(r"`(?:GET|POST|PUT|PATCH|DELETE) (/v1/[a-z_/{}]+)`", text):
        assert operation in operations, operation


def test_the_example_job_is_a_valid_job() -> None:
    for path in (ROOT / "examples" / "support_intents" / "job.yaml", ROOT / "bench" / "spec_banking77.yaml"):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        spec["data"] |= {"training_file": "file-" + "0" * 26}
        spec["data"].pop("test_file", None)
        assert JobSpec.model_validate(spec).task == "text-classification"


def test_the_objective_in_the_guide_works(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "add-an-objective.md").read_text(encoding="utf-8")
    file = tmp_path / "hellinger.py"
    file.write_text(guide.split("```python\n")[1].split("```")[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("hellinger", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from worker.rows import Batch
    from worker.signals import Signals

    objective = module.Hellinger(temperature=2.0)
    z_NC, ones_BT = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 3.0]]), torch.ones(2, 1, dtype=torch.long)
    batch = Batch(torch.arange(2), ones_BT, ones_BT, torch.tensor([0, 2]))
    assert objective(Signals(z_NC), Signals(z_NC), batch, 0.0) == 0
    far = objective(Signals(z_NC), Signals(-20 * z_NC), batch, 0.0)
    assert 0.5 < far <= 2
    assert objective.count(batch) == 2
