"""The exported graph says what the trained model says, whatever the shape, and is the same file every time."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from app.domain.errors import UnsupportedMethod
from tests.fixtures.classifiers import write_classifier
from worker.evaluators.base import feeds, open_session
from worker.exporters import onnx as exporter
from worker.exporters.onnx import Onnx
from worker.heads.base import About
from worker.heads.text_classification import TextClassification
from worker.rows import Rows

HEAD = TextClassification(About("text-classification", "single_label", tuple(f"LABEL_{n}" for n in range(5)), 64))
KINDS = ["bert", "roberta", "distilbert", "electra"]


def _ragged(shape: tuple[int, int], pad_id: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    rows, longest = shape
    lengths = [longest, *rng.integers(1, longest + 1, size=rows - 1)]
    tokens = [[int(t) for t in rng.integers(5, 200, size=n)] for n in lengths]
    return Rows(list(range(rows)), tokens, [0] * rows, pad_id)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_vectors_equal_torch_on_ragged_batches(kind: str, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "model", kind)
    session = open_session(Onnx().export(folder, tmp_path, HEAD), threads=1)
    assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask"]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for seed, shape in enumerate([(1, 1), (1, 7), (4, 11), (9, 33), (2, 64)]):
        rows = _ragged(shape, model.config.pad_token_id, seed)
        (feed,) = feeds(rows, ["input_ids", "attention_mask"], len(rows))
        logits, vectors = session.run(["logits", "embedding"], feed)
        for n, tokens in enumerate(sorted(rows.tokens, key=len)):  # one by one, unpadded: the plainest reference there is
            with torch.inference_mode():
                out = model(input_ids=torch.tensor([tokens]), output_hidden_states=True)
            mean = out.hidden_states[-1][0].double().mean(0)
            assert np.abs(logits[n] - out.logits[0].numpy()).max() < 1e-4
            assert np.abs(vectors[n] - (mean / mean.norm()).numpy()).max() < 1e-5


def test_equal_weights_give_equal_bytes_and_other_weights_do_not(tmp_path: Path) -> None:
    written = []
    for name, seed in (("a", 0), ("somewhere/else", 0), ("c", 1)):
        out = tmp_path / name / "out"
        out.mkdir(parents=True)
        written.append(Onnx().export(write_classifier(tmp_path / name / "model", "bert", seed), out, HEAD).read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_the_graph_tells_nothing_about_where_it_was_made(tmp_path: Path) -> None:
    path = Onnx().export(write_classifier(tmp_path / "model", "bert"), tmp_path, HEAD)
    content = path.read_bytes()
    assert str(tmp_path).encode() not in content
    assert b".py" not in content
    model = onnx.load(path)
    assert (model.producer_version, model.doc_string) == ("", "")
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_no_shape_arithmetic_is_left_around_reshapes(tmp_path: Path) -> None:
    graph = onnx.load(Onnx().export(write_classifier(tmp_path / "model", "bert"), tmp_path, HEAD)).graph
    constants = {i.name for i in graph.initializer}
    reshapes = [n for n in graph.node if n.op_type == "Reshape"]
    assert len(reshapes) >= 8
    assert all(n.input[1] in constants for n in reshapes)
    assert sum(n.op_type == "Shape" for n in graph.node) <= 3


def test_a_model_that_cannot_be_traced_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("operator aten::nothing is not supported\nsecond line")

    monkeypatch.setattr(exporter.torch.onnx, "export", fail)
    with pytest.raises(UnsupportedMethod, match=r"'bert' student.*aten::nothing is not supported$") as caught:
        Onnx().export(write_classifier(tmp_path / "model", "bert"), tmp_path, HEAD)
    assert caught.value.hint
