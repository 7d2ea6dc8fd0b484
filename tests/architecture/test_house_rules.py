"""Rules of the house that a machine can check: sizes, words, calls, the catalogue."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.architecture.requirements import closure

ROOT = Path(__file__).parents[2]
CODE = ("app", "worker", "migrations", "bench", "examples")
FILE_LINES, FUNCTION_LINES = 400, 60


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for line in listed.splitlines() if (path := ROOT / line).is_file()]


def _python(*folders: str) -> list[Path]:
    return [p for p in _tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders]


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_files_and_functions_can_be_read_in_one_sitting() -> None:
    long = []
    for path in _python(*CODE):
        source = path.read_text(encoding="utf-8")
        if (lines := source.count("\n")) >= FILE_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        if path.is_relative_to(ROOT / "migrations" / "versions"):
            continue  # a list of tables is as long as it is
        for function in _functions(ast.parse(source)):
            assert function.end_lineno is not None
            if (lines := function.end_lineno - function.lineno + 1) >= FUNCTION_LINES:
                long.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {lines} lines")
    assert not long, "\n".join(long)


@pytest.mark.parametrize(
    "pattern",
    [
        r"trust_remote_code\s*[=:]\s*True",
        r"\bpickle\.(loads?|dumps?)\b",
        r"\btorch\.(load|save)\(",
        r"weights_only\s*=",
        r"(?<![\w.])eval\(",
        r"(?<![\w.])exec\(",
        r"shell\s*=\s*True",
        r"\bT" + r"ODO\b|\bF" + r"IXME\b",
    ],
)
def test_what_never_appears_in_the_code(pattern: str) -> None:
    assert _hits(pattern, _python(*CODE)) == []


@pytest.mark.parametrize(
    "pattern",
    [
        r"py" + r"pi\.org|python" + r"hosted|regis" + r"try\.npmjs|download\.py" + r"torch|deb\.deb" + r"ian\.org",
        r"/wo" + r"rk/|/ro" + r"ot/|/home/[a-z]",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    ],
)
def test_no_file_names_a_machine_or_a_registry(pattern: str) -> None:
    texts = [p for p in _tracked() if p.suffix in {"", ".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".cfg", ".ini"}]
    assert len(texts) > 50
    assert _hits(pattern, texts) == []


def _hits(pattern: str, paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    return found


def test_only_settings_reads_the_environment() -> None:
    allowed = {"app/settings.py", "worker/run/__main__.py", "worker/run/faults.py", "worker/run/environment.py"}
    hits = _hits(r"\bos\.(environ|getenv)\b", _python("app", "worker", "migrations"))
    assert [hit for hit in hits if hit.split(":")[0] not in allowed] == []


def test_the_catalogue_is_what_the_plugins_say() -> None:
    stored = json.loads((ROOT / "app" / "domain" / "catalog.json").read_text(encoding="utf-8"))
    code = "import json; from worker.catalog_export import build; print(json.dumps(build()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == stored, "run: make catalog"


def test_imports_keep_to_the_contracts() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def test_requirements_are_all_pinned() -> None:
    """Every package that the extras bring on this platform has a line in constraints.txt."""
    pins = dict(
        re.fullmatch(r"([\w.-]+)==([^\s+]+)", line).groups()  # type: ignore[union-attr]
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    installed = set()
    for name in closure("retort", "dev") - {"retort"}:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:  # of another platform
            continue
        installed.add(name)
    assert installed - pins.keys() == set()
