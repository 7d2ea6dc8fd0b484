"""The graph that our exporter makes for every task, as serving sees it: what the trained model says in transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from app.serving.backends.base import BackendEntry, ModelCard
from app.serving.backends.onnx_runtime import OnnxRuntime
from app.serving.warmup import measure
from app.serving.words import words
from tests.fixtures.tiny import make_tokenizer, tiny_config
from worker.exporters.onnx import Onnx, inputs_of
from worker.heads.base import About, Head
from worker.heads.registry import HEADS

MOST = 24
TEXTS = ["my card was stolen today, please help", "O'Neil: flight abroad", "refund " * 30, "parcel late"]
ABOUT = {
    "regression": About("text-classification", "regression", (), MOST),
    "pairs": About("text-classification", "single_label", ("a", "b"), MOST, pairs=True),
    "tokens": About("token-classification", "tokens", ("O", "B-X", "I-X"), MOST),
    "embedding": About("embedding", "embedding", (), MOST, pairs=True),
    "cross_encoder": About("ranking", "ranking", (), MOST, scorer="cross_encoder"),
    "masked_lm": About("masked-lm", "masked_lm", (), MOST),
}


def served(head: Head, folder: Path) -> tuple[Any, OnnxRuntime, ModelCard]:
    """The torch model, and the same one exported and opened."""
    make_tokenizer().save_pretrained(folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    config = tiny_config(tokenizer, layers=1, initializer_range=0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = head.make(config).eval()
    head.save(model, folder / "tokenizer", folder)
    Onnx().export(folder, folder, head)
    about = head.about
    card = ModelCard(
        format=1,
        kind="student",
        problem=about.problem,  # type: ignore[arg-type]
        pairs=about.pairs,
        scorer=about.scorer if about.task == "ranking" else None,  # type: ignore[arg-type]
        inputs=tuple(inputs_of(head, config)),
        labels=about.labels,
        max_length=MOST,
        embedding_dim=32,
    )
    return model, OnnxRuntime.load(folder, BackendEntry(backend="onnx_runtime", file="model.onnx"), card, 1), card


@torch.no_grad()
def said(model: Any, tokenizer: Any, *given: Any) -> tuple[Any, Any, list[int | None]]:
    """Logits (None where there are none), the unit vector, and which word each token is of."""
    split = isinstance(given[0], list)
    options: dict[str, Any] = {"truncation": True, "max_length": MOST, "return_tensors": "pt", "return_token_type_ids": True}
    encoded = tokenizer(*given, is_split_into_words=split, **options)
    out = model(**encoded, output_hidden_states=True)
    vector = torch.nn.functional.normalize(out.hidden_states[-1].mean(1), dim=-1)[0].numpy()
    return getattr(out, "logits", None), vector, encoded.word_ids()


@pytest.mark.parametrize("name", ABOUT)
def test_a_served_student_says_what_the_trained_one_says(tmp_path: Path, name: str) -> None:
    head = HEADS[ABOUT[name].task](ABOUT[name])
    model, backend, card = served(head, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert measure(backend, card).exact_in_batches
    given: list[Any] = list(zip(TEXTS, reversed(TEXTS), strict=True)) if card.judges_pairs else TEXTS
    rows = backend.prepare(given)
    outputs = backend.forward(rows)
    for n, text in enumerate(given):
        if card.problem == "tokens":
            spans = words(text)
            logits, _, owners = said(model, tokenizer, [text[a:b] for a, b in spans])
            firsts = [i for i, word in enumerate(owners) if word is not None and word not in owners[:i]]
            assert rows[n].words is not None
            assert outputs.logits is not None
            np.testing.assert_allclose(outputs.logits[n, rows[n].words[:, 0]], logits[0, firsts].numpy(), atol=1e-4)
            continue
        logits, vector, _ = said(model, tokenizer, *(text if card.judges_pairs else (text,)))
        if card.logits_width:
            assert outputs.logits is not None
            np.testing.assert_allclose(outputs.logits[n], logits[0].numpy(), atol=1e-4)
        if card.vector_width:
            assert outputs.embedding is not None
            np.testing.assert_allclose(outputs.embedding[n], vector, atol=1e-5)
