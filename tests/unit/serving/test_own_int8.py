"""The graphs that our own exporter and quantizer make, as serving sees them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from app.serving.backends.base import BackendEntry, ModelCard
from app.serving.backends.onnx_runtime import OnnxRuntime
from app.serving.warmup import TOLERANCE, measure
from tests.fixtures.tiny import make_tokenizer, tiny_config
from worker.exporters.onnx import Onnx
from worker.heads.base import About
from worker.heads.text_classification import TextClassification
from worker.quantizers.base import Calibration
from worker.quantizers.int8_dynamic import Int8Dynamic

EXAMPLES = Path(__file__).parents[3] / "examples" / "support_intents" / "test.jsonl"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    tokenizer = make_tokenizer()
    head = TextClassification(About("text-classification", "single_label", tuple("abcde"), 64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head.make(tiny_config(tokenizer, layers=3, hidden_size=96)).save_pretrained(folder / "torch")
    tokenizer.save_pretrained(folder)
    Onnx().export(folder / "torch", folder, head)
    return folder


def load(folder: Path, file: str) -> tuple[OnnxRuntime, ModelCard]:
    card = ModelCard(format=1, kind="student", labels=tuple("abcde"), max_length=64, embedding_dim=96)
    return OnnxRuntime.load(folder, BackendEntry(backend="onnx_runtime", file=file), card, 1), card


def calibration(folder: Path) -> Calibration:
    ids = np.arange(32, dtype=np.int64).reshape(2, 16)
    return Calibration(folder / "model.onnx", [{"input_ids": ids, "attention_mask": np.ones_like(ids)}])


def test_row_scales_let_real_texts_share_a_forward(exported: Path) -> None:
    Int8Dynamic().quantize(exported / "model.onnx", exported, calibration(exported))
    backend, card = load(exported, "model_int8.onnx")
    assert measure(backend, card).exact_in_batches
    texts = [json.loads(line)["text"] for line in EXAMPLES.read_text().splitlines()[:48]]
    rows = backend.prepare(texts)
    for start in range(0, 48, 8):
        batch = rows[start : start + 8]
        together = backend.forward(batch)
        for n, row in enumerate(batch):
            alone = backend.forward([row])
            assert together.embedding is not None
            assert alone.embedding is not None
            np.testing.assert_allclose(alone.embedding[0], together.embedding[n], atol=TOLERANCE)
            assert together.logits is not None
            assert alone.logits is not None
            np.testing.assert_allclose(alone.logits[0], together.logits[n], atol=TOLERANCE)


def test_one_scale_for_a_batch_is_noticed(exported: Path) -> None:
    Int8Dynamic(activations="per_tensor").quantize(exported / "model.onnx", exported, calibration(exported))
    backend, card = load(exported, "model_int8.onnx")
    measured = measure(backend, card)
    assert not measured.exact_in_batches
    assert measured.policy.max_rows == 1
