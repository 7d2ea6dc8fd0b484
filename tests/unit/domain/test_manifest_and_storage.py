import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import manifest
from app.domain.errors import ArtifactCorrupt, InvalidRequest
from app.domain.storage import BlobStore, safe_join


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "onnx").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "onnx" / "model.onnx").write_bytes(b"graph")
    return made


def test_the_digest_knows_content_not_time_place_or_extras(folder: Path, tmp_path: Path) -> None:
    first = manifest.write(folder, attempt=1)
    os.utime(folder / "config.json", (1, 1))
    second = manifest.write(folder, attempt=2)
    assert first["digest"] == second["digest"] == manifest.verify(folder)["digest"]
    (folder / "config.json").write_text("{ }")
    assert manifest.build(folder)["digest"] != first["digest"]


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "extra_name", "no_manifest", "bad_json", "escape", "link"])
def test_harm_is_found(folder: Path, harm: str) -> None:
    manifest.write(folder)
    graph, listing = folder / "onnx" / "model.onnx", folder / manifest.NAME
    match harm:
        case "flip":
            graph.write_bytes(b"grapH")
        case "truncate":
            graph.write_bytes(b"grap")
        case "remove":
            graph.unlink()
        case "extra_name":
            data = json.loads(listing.read_text())
            data["files"]["more"] = {"bytes": 0, "sha256": ""}
            listing.write_text(json.dumps(data))
        case "no_manifest":
            listing.unlink()
        case "bad_json":
            listing.write_text("{")
        case "escape":
            data = json.loads(listing.read_text())
            data["files"] = {"../x": data["files"]["config.json"]}
            data["digest"] = manifest.digest(data["files"])
            (folder.parent / "x").write_text("{}")
            listing.write_text(json.dumps(data))
        case "link":
            graph.unlink()
            (folder.parent / "elsewhere").write_bytes(b"graph")
            graph.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(ArtifactCorrupt):
        manifest.verify(folder)


def test_an_artifact_is_stored_once_whoever_is_first(folder: Path, tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    want = manifest.write(folder)["digest"]
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: blobs.put_artifact(folder), range(16)))
    assert digests == {want}
    assert [p.name for p in (blobs.root / "artifacts").iterdir()] == [want]
    assert not list((blobs.root / "tmp").iterdir())
    manifest.verify(blobs.artifact(want), want)


def test_a_stored_artifact_does_not_change_with_its_source(folder: Path, tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    manifest.write(folder)
    digest = blobs.put_artifact(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text("other")
    manifest.verify(blobs.artifact(digest), digest)


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../../x", "/etc/passwd", "a\\..\\..\\x", "..\\x", "x\0", "", ".", "a/..", "//x", "~/../../x"]
)
def test_no_name_leaves_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises((InvalidRequest, ValueError)):
        safe_join(tmp_path, name)


@given(st.text(max_size=30))
def test_whatever_the_name_the_result_is_inside_or_refused(name: str) -> None:
    root = Path("/nonexistent-root")
    try:
        path = safe_join(root, name)
    except (InvalidRequest, ValueError, OSError):
        return
    assert path != root
    assert path.is_relative_to(root)


def test_a_link_inside_does_not_lead_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(InvalidRequest):
        safe_join(root, "out", "x")
