"""An operator's keys of endpoints: read once, told to the child alone, printed nowhere."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.settings import Settings, run_environment
from worker.child import Child
from worker.run.protocol import RunRequest

KEY = "sk-secret-0123456789abcdef"
ORIGIN = "https://api.example.com"


def request(tmp_path: Path, **changes: Any) -> RunRequest:
    return RunRequest(
        job_id="djob_t",
        attempt=1,
        spec={},
        config_hash="sha256:x",
        workdir=str(tmp_path),
        cache_dir="c",
        files={},
        formats={},
        teacher_dir="t",
        **{"endpoint_keys": {ORIGIN: SecretStr(KEY)}, **changes},
    )


def test_a_request_shows_its_keys_to_the_child_alone(tmp_path: Path) -> None:
    made = request(tmp_path)
    for shown in (repr(made), str(made), made.model_dump_json(), str(made.model_dump()), str(made.model_dump(mode="json"))):
        assert ORIGIN in shown
        assert KEY not in shown
    heard = RunRequest.model_validate_json(made.spoken())
    assert heard == made
    assert heard.endpoint_keys[ORIGIN].get_secret_value() == KEY
    assert "\n" not in made.spoken()


def test_a_request_that_is_not_valid_does_not_show_them_either(tmp_path: Path) -> None:
    broken = json.loads(request(tmp_path).spoken()) | {"endpoint_keys": {ORIGIN: [KEY]}, "more": KEY}
    with pytest.raises(ValidationError) as refused:
        RunRequest.model_validate(broken)
    assert KEY not in str(refused.value)


def test_the_child_gets_them_on_stdin_and_nowhere_else(tmp_path: Path) -> None:
    """A child that prints its arguments, its environment and a digest of what it heard."""
    code = "import hashlib, os, sys; said = sys.stdin.buffer.readline().strip()\n"
    code += "print(sys.argv, dict(os.environ), hashlib.sha256(said).hexdigest(), b'sk-secret' in said, flush=True)"
    made = request(tmp_path)
    child = Child([sys.executable, "-c", code], made, {"PATH": "/usr/bin:/bin"}, tmp_path / "child.log")
    while child.poll() is None:
        pass
    child.close()
    log = (tmp_path / "child.log").read_text()
    assert "True" in log
    assert KEY not in log
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_settings_know_endpoints_by_their_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_ENDPOINT_KEYS", json.dumps({"HTTPS://API.example.com:443/": KEY, "http://10.0.0.5:8000": "k"}))
    monkeypatch.setenv("RETORT_PRIVATE_ENDPOINTS", '["http://10.0.0.5:8000/", "http://[::1]:80"]')
    settings = Settings()
    assert list(settings.endpoint_keys) == [ORIGIN, "http://10.0.0.5:8000"]
    assert settings.private_endpoints == ["http://10.0.0.5:8000", "http://[::1]"]
    assert KEY not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert "RETORT_ENDPOINT_KEYS" not in run_environment()


@pytest.mark.parametrize(
    "value",
    [
        {"api.example.com": KEY},
        {"https://api.example.com/v1": KEY},
        {"https://user@api.example.com": KEY},
        {ORIGIN: KEY + "\n"},
        {ORIGIN: KEY + " é"},
        {ORIGIN: ""},
        {ORIGIN: [KEY]},
        [KEY],
    ],
)
def test_settings_that_are_wrong_say_so_without_the_key(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_ENDPOINT_KEYS", json.dumps(value))
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert KEY not in str(refused.value)
    assert "endpoint_keys" in str(refused.value)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As docker-compose.yml passes one on that is not set."""
    monkeypatch.setenv("RETORT_ENDPOINT_KEYS", "")
    monkeypatch.setenv("RETORT_PRIVATE_ENDPOINTS", "")
    assert (Settings().endpoint_keys, Settings().private_endpoints) == ({}, [])


def test_settings_that_are_no_json_say_so_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_ENDPOINT_KEYS", f"{{{ORIGIN}: {KEY}}}")
    with pytest.raises(Exception, match="endpoint_keys") as refused:
        Settings()
    assert KEY not in str(refused.value)
