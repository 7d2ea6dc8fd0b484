"""Where the parts of an encoder lie: one description for BERT's family and DistilBERT, which name them differently."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from app.domain.tasks import FAMILIES as FAMILIES


@dataclass(frozen=True)
class Layer:
    """One post-norm transformer layer: a = norm(x + attention_out(context)), h = norm(a + ffn_out(activation(ffn_in(a)))).

    Dropout, by its probabilities: of the attention's weights, of attention_out's and of ffn_out's outputs.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_out: nn.Linear
    attention_norm: nn.LayerNorm
    ffn_in: nn.Linear
    activation: Callable[[Tensor], Tensor]
    ffn_out: nn.Linear
    ffn_norm: nn.LayerNorm
    attention_dropout: float
    attention_out_dropout: float
    ffn_dropout: float


@dataclass(frozen=True)
class Anatomy:
    """`tables` are summed before `embedding_norm`.

    The head, where there is one: `final(head_activation(dense(state)))`, or `final(state)` when both are None; of the first
    token for a sequence classifier, of every token otherwise. An encoder without a head has none of them.
    """

    tables: list[nn.Embedding]
    embedding_norm: nn.LayerNorm
    layers: list[Layer]
    dense: nn.Linear | None
    head_activation: Callable[[Tensor], Tensor] | None
    final: nn.Linear | None


def of(model: PreTrainedModel) -> Anatomy:
    """The parts of an encoder, with whatever head; KeyError for a family not in FAMILIES."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise KeyError(kind)
    base: Any = model.base_model  # what follows is read by attribute, as each family names it
    embeddings = base.embeddings
    tables = [embeddings.word_embeddings, embeddings.position_embeddings]
    if hasattr(embeddings, "token_type_embeddings"):
        tables.append(embeddings.token_type_embeddings)
    layers = [_distilbert(x) if kind == "distilbert" else _bert(x) for x in blocks(model)]
    return Anatomy(tables, embeddings.LayerNorm, layers, *_head(model, kind))


def blocks(model: PreTrainedModel) -> Any:
    """The layers as the family's own modules, whose forward gives the next hidden state."""
    base: Any = model.base_model
    return base.transformer.layer if model.config.model_type == "distilbert" else base.encoder.layer


def _head(model: Any, kind: str) -> tuple[nn.Linear | None, Callable[[Tensor], Tensor] | None, nn.Linear | None]:
    name = type(model).__name__
    if name.endswith("ForTokenClassification"):
        return None, None, model.classifier
    if not name.endswith("ForSequenceClassification"):
        return None, None, None
    if kind == "distilbert":
        return model.pre_classifier, torch.relu, model.classifier
    if kind == "bert":
        return model.base_model.pooler.dense, model.base_model.pooler.activation, model.classifier
    return model.classifier.dense, model.classifier.activation if kind == "electra" else torch.tanh, model.classifier.out_proj


def mlm_logits(model: Any, hidden_ND: Tensor) -> Tensor:
    """Scores (N, V) of a masked language model's head for chosen positions alone: a fraction of the whole text's cost."""
    kind = model.config.model_type
    if kind == "bert":
        result: Tensor = model.cls(hidden_ND)
    elif kind == "distilbert":
        result = model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden_ND))))
    elif kind == "electra":
        result = model.generator_lm_head(model.generator_predictions(hidden_ND))
    else:
        result = model.lm_head(hidden_ND)
    return result


def _bert(layer: Any) -> Layer:
    inner, attended = layer.attention.self, layer.attention.output
    return Layer(
        query=inner.query,
        key=inner.key,
        value=inner.value,
        attention_out=attended.dense,
        attention_norm=attended.LayerNorm,
        ffn_in=layer.intermediate.dense,
        activation=layer.intermediate.intermediate_act_fn,
        ffn_out=layer.output.dense,
        ffn_norm=layer.output.LayerNorm,
        attention_dropout=inner.dropout.p,
        attention_out_dropout=attended.dropout.p,
        ffn_dropout=layer.output.dropout.p,
    )


def _distilbert(layer: Any) -> Layer:
    inner = layer.attention
    return Layer(
        query=inner.q_lin,
        key=inner.k_lin,
        value=inner.v_lin,
        attention_out=inner.out_lin,
        attention_norm=layer.sa_layer_norm,
        ffn_in=layer.ffn.lin1,
        activation=layer.ffn.activation,
        ffn_out=layer.ffn.lin2,
        ffn_norm=layer.output_layer_norm,
        attention_dropout=inner.dropout.p,
        attention_out_dropout=0.0,
        ffn_dropout=layer.ffn.dropout.p,
    )
