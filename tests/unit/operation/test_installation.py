"""The data folder: one server at a time, private keys, and how the command finds it."""

import os
import stat
from pathlib import Path

import pytest

from app.embedded import _check_exposure, _listen, _shown
from app.installation import Installation, OperatorError, find_server
from app.services.keys import generate


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_two_servers_cannot_share_a_folder(tmp_path: Path) -> None:
    home = Installation(tmp_path / "data")
    with home.exclusive():
        home.announce("http://127.0.0.1:4321")
        with (
            pytest.raises(OperatorError, match=f"at http://127.0.0.1:4321 \\(process {os.getpid()}\\)"),
            Installation(tmp_path / "data").exclusive(),
        ):
            pass
    assert home.server() is None
    with home.exclusive():
        assert home.folder.is_dir()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot be used"), Installation(tmp_path / "file").exclusive():
        pass


def test_the_first_key_is_made_once_and_private(tmp_path: Path) -> None:
    home = Installation(tmp_path)
    key, made = home.first_key("", generate)
    assert made
    assert key.startswith("rt_")
    assert len(key) > 40
    assert _mode(home.key_file) == 0o600
    assert home.first_key("", generate) == (key, False)
    assert home.first_key("rt_given-by-the-operator", generate) == ("rt_given-by-the-operator", False)
    assert home.key() == "rt_given-by-the-operator"


def test_the_command_finds_the_running_server(tmp_path: Path) -> None:
    home = Installation(tmp_path / "data")
    with pytest.raises(OperatorError, match="There is no Retort installation"):
        find_server(home.folder, anywhere=True)
    with home.exclusive():
        key, _ = home.first_key("", generate)
        home.announce("http://127.0.0.1:4321")
        assert _mode(home.server_file) == 0o600
        assert find_server(home.folder, anywhere=False) == ("http://127.0.0.1:4321", key)
        assert find_server(tmp_path / "elsewhere", anywhere=True) == ("http://127.0.0.1:4321", key)
        with pytest.raises(OperatorError):
            find_server(tmp_path / "elsewhere", anywhere=False)
    with pytest.raises(OperatorError, match="No Retort runs on"):
        find_server(home.folder, anywhere=True)


def test_a_broken_server_file_is_no_server(tmp_path: Path) -> None:
    home = Installation(tmp_path)
    for text in ("", "{", "[]", '{"url": "x"}'):
        home.server_file.write_text(text)
        assert home.server() is None


@pytest.mark.parametrize(
    ("host", "has_key", "allowed"),
    [
        ("127.0.0.1", False, True),
        ("127.3.2.1", False, True),
        ("::1", False, True),
        ("localhost", False, True),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("192.0.2.7", False, False),
        ("example.org", False, False),
        ("", False, False),
        ("0.0.0.0", True, True),
    ],
)
def test_strangers_are_not_let_near_an_installation_without_a_key(host: str, has_key: bool, allowed: bool) -> None:
    if allowed:
        _check_exposure(host, has_key)
    else:
        with pytest.raises(OperatorError, match="no key yet"):
            _check_exposure(host, has_key)


def test_a_taken_port_is_named() -> None:
    with _listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(OperatorError, match=f"127.0.0.1:{port}"):
            _listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("localhost", "localhost")]
)
def test_the_address_shown_can_be_opened(host: str, shown: str) -> None:
    assert _shown(host) == shown
