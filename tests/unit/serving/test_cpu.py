"""The number of lanes follows the real quota."""

from pathlib import Path

import pytest

from app.serving import cpu


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/pod/a\n", {"cpu.max": "max 100000", "pod/a/cpu.max": "150000 100000"}, 1.5),
        ("0::/pod/a\n", {"pod/cpu.max": "50000 100000", "pod/a/cpu.max": "max 100000"}, 0.5),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"}, 2.0),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
    ],
)
def test_quota_is_read_from_either_version(tmp_path: Path, membership: str, files: dict[str, str], expected: float | None) -> None:
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    (tmp_path / "membership").write_text(membership)
    assert cpu.quota(tmp_path / "fs", tmp_path / "membership") == expected


def test_there_is_always_a_core() -> None:
    assert cpu.cores() >= 1
