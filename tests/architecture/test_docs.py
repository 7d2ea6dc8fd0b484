"""The documents say what the code does: settings, errors, paths, commands, links."""

import re
from pathlib import Path

import pytest
import yaml

from app.settings import Settings
from tests.architecture.errors_page import page

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "support_intents" / "README.md",
]


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
def test_commands_and_operations_exist(path: Path) -> None:
    import typer

    from app.cli import app
    from app.embedded import compose  # noqa: F401  (its import is the CLI's)
    from app.main import create_app

    text = path.read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    for name in re.findall(r"(?:^|[`$] ?)retort ([a-z]+)", text, re.M):
        assert name in group.commands, f"retort {name}"  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets
    assert create_app is not None


def test_the_example_job_is_a_valid_job() -> None:
    from app.domain.spec import JobSpec

    for path in (ROOT / "examples" / "support_intents" / "job.yaml", ROOT / "bench" / "spec_banking77.yaml"):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        spec["data"] |= {"training_file": "file-" + "0" * 26}
        spec["data"].pop("test_file", None)
        assert JobSpec.model_validate(spec).task == "text-classification"
