"""A graph cut down to some of its outputs: the same numbers, without the work and the weights of the others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig

from tests.fixtures.tiny import make_tokenizer
from worker.evaluators.base import open_session
from worker.exporters.graph import answering
from worker.exporters.onnx import Onnx
from worker.heads.base import About
from worker.heads.masked_lm import MaskedLM
from worker.quantizers.base import Calibration
from worker.quantizers.int8_dynamic import Int8Dynamic

HEAD = MaskedLM(About("masked-lm", "masked_lm", (), 24))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_vectors_do_not_wait_for_scores_of_words(tmp_path: Path, precision: str) -> None:
    config = BertConfig(
        vocab_size=3000, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, tie_word_embeddings=False
    )
    torch.manual_seed(0)
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    HEAD.save(HEAD.make(config), tmp_path / "tokenizer", tmp_path)
    whole = Onnx().export(tmp_path, tmp_path, HEAD)
    if precision == "int8":
        report = Int8Dynamic(min_elements=256).quantize(whole, tmp_path, Calibration(whole, []))
        assert report.file is not None
        whole = tmp_path / report.file
    answering(whole, ["embedding"], tmp_path / "vectors.onnx")
    full, cut = open_session(whole, 1), open_session(tmp_path / "vectors.onnx", 1)
    assert [output.name for output in full.get_outputs()] == ["logits", "embedding"]
    assert [output.name for output in cut.get_outputs()] == ["embedding"]
    assert [i.name for i in cut.get_inputs()] == [i.name for i in full.get_inputs()]
    ids = np.random.default_rng(0).integers(5, 3000, (3, 9))
    feed = {"input_ids": ids, "attention_mask": np.tri(3, 9, 6, dtype=np.int64)}
    np.testing.assert_array_equal(cut.run(None, feed)[0], full.run(["embedding"], feed)[0])
    saved = whole.stat().st_size - (tmp_path / "vectors.onnx").stat().st_size
    assert saved > 0.9 * 32 * 3000 * (4 if precision == "float32" else 1)  # the head's matrix
