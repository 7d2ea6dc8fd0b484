"""The short last layer gives what the whole one gives, values and gradients, in every family, with and without dropout."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from worker import anatomy, capture, first_token
from worker.rows import Batch, collate, tokenize
from worker.signals import Wants

_SIZES = {"num_labels": 3, "vocab_size": 50, "max_position_embeddings": 32, "initializer_range": 0.3}
_BERT = {**_SIZES, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
_DISTIL = {**_SIZES, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 32}
LOGITS = Wants(logits=True)


class _Tokenizer:
    """Ids of words, as the fast tokenizers give them."""

    pad_token_id = 1

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[2, *(5 + len(word) % 40 for word in text.split()), 3] for text in texts]}


def _model(kind: str) -> Any:
    torch.manual_seed(0)
    sizes = _DISTIL if kind == "distilbert" else _BERT
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **sizes, pad_token_id=1)).double()


def _batch() -> Batch:
    texts = ["a bb ccc dddd", "ee", "ffffff g hhh iiii jjjjj kk l"]
    rows = tokenize([{"text": t, "label": n, "id": n} for n, t in enumerate(texts)], _Tokenizer(), 32)
    return collate(rows, [0, 1, 2])


def _said(model: Any, batch: Batch, whole: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    with monkeypatch.context() as patched:
        if whole:
            patched.setattr(first_token, "enough", lambda *_: False)
        model.zero_grad()
        out, _ = capture.run(model, batch, LOGITS)
        out.logits.square().sum().backward()
    return out.logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", anatomy.FAMILIES)
def test_equal_to_the_whole_layer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = _model(kind), _batch()
    model.train(False)
    short, grads = _said(model, batch, False, monkeypatch)
    whole, theirs = _said(model, batch, True, monkeypatch)
    torch.testing.assert_close(short, whole, rtol=1e-9, atol=1e-9)
    assert grads.keys() == theirs.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("place", ["attention", "attention_out", "ffn"])
def test_dropout_in_the_same_places(kind: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything dropped at one place of the last layer and nothing elsewhere, both are without chance."""
    model, batch = _model(kind), _batch()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    last = (model.distilbert.transformer.layer if kind == "distilbert" else model.bert.encoder.layer)[-1]
    places = (
        {"attention": last.attention.dropout, "ffn": last.ffn.dropout}
        if kind == "distilbert"
        else {"attention": last.attention.self.dropout, "attention_out": last.attention.output.dropout, "ffn": last.output.dropout}
    )
    if place not in places:
        assert anatomy.of(model).layers[-1].attention_out_dropout == 0.0
        return
    places[place].p = 1.0
    model.train()
    short, _ = _said(model, batch, False, monkeypatch)
    whole, _ = _said(model, batch, True, monkeypatch)
    torch.testing.assert_close(short, whole, rtol=1e-9, atol=1e-9)
    places[place].p = 0.0
    other, _ = _said(model, batch, True, monkeypatch)
    assert not torch.allclose(short, other, atol=1e-4)


@pytest.mark.parametrize(
    ("wants", "positions"),
    [
        (LOGITS, 1),
        (Wants(logits=True, hidden=frozenset({1})), 1),
        (Wants(logits=True, hidden=frozenset({2})), 9),
        (Wants(logits=True, embedding=True), 9),
        (Wants(logits=True, qkv=frozenset({2})), 9),
    ],
)
def test_short_only_where_nobody_sees_it(wants: Wants, positions: int) -> None:
    model, seen = _model("bert"), []
    anatomy.of(model).layers[-1].ffn_in.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[1]))
    out, _ = capture.run(model, _batch(), wants)
    assert seen == [positions]
    assert out.logits.shape == (3, 3)
    assert "forward" not in vars(anatomy.blocks(model)[-1])
    if 1 in wants.hidden:
        assert out.hidden_states[1].shape == (3, 9, 16)


def test_another_architecture_is_left_alone() -> None:
    model = _model("bert")
    assert not first_token.enough(model.bert, LOGITS, 2)
