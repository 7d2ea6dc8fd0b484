"""Models are opened by digest, checked before use, warmed by real forwards, and evicted when room is needed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain import manifest
from app.domain.errors import ArtifactCorrupt, DoesNotFit, DomainError, ModelLoading, Overloaded, Unavailable, UnsupportedMethod
from app.domain.storage import BlobStore
from app.serving import pool as pool_module
from app.serving.backends.base import BackendEntry, ModelCard, backend_class, names
from app.serving.backends.onnx_runtime import OnnxRuntime
from app.serving.pool import ModelPool
from app.serving.warmup import TOLERANCE, measure
from tests.fixtures.students import LABELS, WORDS, write_student

GIB = 2**30


def store(blobs: BlobStore, **options: Any) -> str:
    with blobs.staging() as folder:
        write_student(folder / "m", **options)
        return blobs.put_artifact(folder / "m")


def run(test: Callable[[ModelPool], Awaitable[None]], blobs: BlobStore, memory: int = GIB, settle: Any = None) -> None:
    async def scenario() -> None:
        pool = ModelPool(blobs, settle or (lambda results: None), memory_bytes=memory, lanes=1)
        try:
            await test(pool)
        finally:
            await pool.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_backends_are_found_by_file_and_explain_themselves() -> None:
    assert "onnx_runtime" in names()
    assert backend_class("onnx_runtime").formats == {".onnx"}
    with pytest.raises(LookupError, match="onnx_runtime"):
        backend_class("base")


def test_a_model_is_loaded_once_for_many_callers_and_is_warm_when_ready(blobs: BlobStore) -> None:
    async def test(pool: ModelPool) -> None:
        digest = store(blobs)
        served = await asyncio.gather(*(pool.get(digest, 10) for _ in range(20)))
        assert len({id(one) for one in served}) == 1
        assert served[0].measured.costs
        assert served[0].batcher.seconds_per_row > 0
        assert pool.state(digest) == "ready"

    run(test, blobs)


def test_a_damaged_artifact_is_refused_before_it_is_opened(blobs: BlobStore) -> None:
    async def test(pool: ModelPool) -> None:
        digest = store(blobs)
        path = blobs.artifact(digest) / "onnx" / "model.onnx"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        for _ in range(2):  # the second answer comes from memory
            with pytest.raises(ArtifactCorrupt, match=r"onnx/model\.onnx"):
                await pool.get(digest, 10)
        with pytest.raises(ArtifactCorrupt):
            await pool.get("0" * 64, 10)

    run(test, blobs)


def _rewritten(blobs: BlobStore, change: Callable[[Path], None]) -> str:
    with blobs.staging() as folder:
        write_student(folder / "m")
        change(folder / "m")
        manifest.write(folder / "m")
        return blobs.put_artifact(folder / "m")


def _card(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        card = json.loads((folder / "retort.json").read_text())
        (folder / "retort.json").write_text(json.dumps(card | changes))

    return change


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (_card(labels=["a", "b"]), ArtifactCorrupt, "logits has shape"),
        (_card(embedding_dim=999), ArtifactCorrupt, "embedding has shape"),
        (_card(format=2), ArtifactCorrupt, "retort.json"),
        (_card(max_length="long"), ArtifactCorrupt, "retort.json"),
        (_card(kind="checkpoint"), UnsupportedMethod, "not a servable student"),
        (_card(backends=[{"backend": "no_such", "file": "onnx/model.onnx"}]), Unavailable, "no_such"),
        (_card(backends=[{"backend": "onnx_runtime", "file": "../../x.onnx"}]), ArtifactCorrupt, "lacks"),
        (_card(backends=[{"backend": "onnx_runtime", "file": "tokenizer.json"}]), ArtifactCorrupt, "does not open"),
        (lambda folder: (folder / "onnx" / "model.onnx").write_bytes(b"not a graph"), ArtifactCorrupt, "cannot be served"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), ArtifactCorrupt, "cannot be served"),
        (lambda folder: (folder / "retort.json").unlink(), ArtifactCorrupt, "retort.json"),
    ],
)
def test_what_does_not_fit_is_said(blobs: BlobStore, change: Callable[[Path], None], error: type[DomainError], said: str) -> None:
    async def test(pool: ModelPool) -> None:
        digest = _rewritten(blobs, change)
        with pytest.raises(error, match=said) as caught:
            await pool.get(digest, 10)
        assert str(blobs.root) not in caught.value.message

    run(test, blobs)


def test_the_least_recently_used_idle_model_makes_room(blobs: BlobStore) -> None:
    async def test(pool: ModelPool) -> None:
        digests = [store(blobs, seed=n) for n in range(3)]
        one = (await pool.get(digests[0], 10)).bytes
        pool._memory = int(2.5 * one)
        await pool.get(digests[1], 10)
        await pool.get(digests[0], 10)
        await pool.get(digests[2], 10)
        assert [pool.state(d) for d in digests] == ["ready", "unloaded", "ready"]
        assert pool.used_bytes <= 2.5 * one
        for served in pool.all():
            served.batcher.backlog = 1
        with pytest.raises(Overloaded):
            await pool.get(digests[1], 10)
        for served in pool.all():
            served.batcher.backlog = 0
        pool._memory = one // 2
        with pytest.raises(DoesNotFit, match="MiB"):
            await pool.get(digests[1], 10)

    run(test, blobs)


def test_a_slow_load_answers_come_back_and_goes_on(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pool_module._open

    def slow(*args: Any) -> Any:
        import time

        time.sleep(0.5)
        return real(*args)

    monkeypatch.setattr(pool_module, "_open", slow)

    async def test(pool: ModelPool) -> None:
        digest = store(blobs)
        with pytest.raises(ModelLoading) as caught:
            await pool.get(digest, 0.05)
        assert caught.value.retry_after
        assert pool.state(digest) == "loading"
        assert (await pool.get(digest, 10)).digest == digest
        assert await pool.unload(digest)
        assert not await pool.unload(digest)

    run(test, blobs)


def _load(folder: Path, **options: Any) -> tuple[OnnxRuntime, ModelCard]:
    write_student(folder, **options)
    card = ModelCard.model_validate(json.loads((folder / "retort.json").read_text()))
    return OnnxRuntime.load(folder, card.backends[0], card, 1), card


def test_the_tokenizer_neither_pads_nor_cuts_by_itself(tmp_path: Path) -> None:
    backend, _ = _load(tmp_path / "m", max_length=64)
    short, long = backend.prepare(["my card", " ".join(WORDS * 3)])
    assert len(short.ids) == 4
    assert not short.truncated
    assert len(long.ids) == 64  # not the 32 of the file
    assert long.truncated
    assert (long.ids[0], long.ids[-1]) == (short.ids[0], short.ids[-1])


def test_a_float_graph_batches_and_its_answers_do_not_depend_on_company(tmp_path: Path) -> None:
    backend, card = _load(tmp_path / "m", hidden=64)
    measured = measure(backend, card)
    assert measured.exact_in_batches
    rows = backend.prepare(["my card", "refund my money back please", " ".join(WORDS), "ok"])
    together = backend.forward(rows)
    for n, row in enumerate(rows):
        alone = backend.forward([row])
        assert alone.embedding is not None
        assert together.embedding is not None
        np.testing.assert_allclose(alone.embedding[0], together.embedding[n], atol=TOLERANCE)


def test_a_dynamic_int8_graph_is_found_to_depend_on_company_and_runs_row_by_row(tmp_path: Path) -> None:
    backend, card = _load(tmp_path / "m", hidden=64, precision="int8")
    assert card.backends[0].precision == "int8"
    measured = measure(backend, card)
    assert measured.batch_error > TOLERANCE
    assert measured.policy.max_rows == 1


def test_a_graph_with_other_inputs_is_refused(tmp_path: Path) -> None:
    write_student(tmp_path / "m")
    card = ModelCard(format=1, kind="student", labels=LABELS, embedding_dim=None, max_length=16)
    path = tmp_path / "m" / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"attention_mask", b"attention_task"))
    with pytest.raises(ValueError, match="attention_task"):
        OnnxRuntime.load(tmp_path / "m", BackendEntry(backend="onnx_runtime", file="onnx/model.onnx"), card, 1)
