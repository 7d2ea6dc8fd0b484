"""Where the parts of an encoder lie: one description for BERT's family and DistilBERT, which name them differently."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
FAMILIES = (*BERT_LIKE, "distilbert")


@dataclass(frozen=True)
class Layer:
    """One post-norm transformer layer: a = norm(x + attention_out(context)), h = norm(a + ffn_out(activation(ffn_in(a))))."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_out: nn.Linear
    attention_norm: nn.LayerNorm
    ffn_in: nn.Linear
    activation: Callable[[Tensor], Tensor]
    ffn_out: nn.Linear
    ffn_norm: nn.LayerNorm


@dataclass(frozen=True)
class Anatomy:
    """`tables` are summed before `embedding_norm`; the head is `final(act(dense(state of the first token)))`."""

    tables: list[nn.Embedding]
    embedding_norm: nn.LayerNorm
    layers: list[Layer]
    dense: nn.Linear
    final: nn.Linear


def of(model: PreTrainedModel) -> Anatomy:
    """The parts of a sequence classifier; KeyError for a family not in FAMILIES."""
    kind, given = model.config.model_type, model  # what follows is read by attribute, as each family names it
    base: Any = given.base_model
    head: Any = given
    embeddings = base.embeddings
    tables = [embeddings.word_embeddings, embeddings.position_embeddings]
    if hasattr(embeddings, "token_type_embeddings"):
        tables.append(embeddings.token_type_embeddings)
    if kind == "distilbert":
        layers, dense, final = [_distilbert(x) for x in base.transformer.layer], head.pre_classifier, head.classifier
    elif kind == "bert":
        layers, dense, final = [_bert(x) for x in base.encoder.layer], base.pooler.dense, head.classifier
    elif kind in BERT_LIKE:
        layers, dense, final = [_bert(x) for x in base.encoder.layer], head.classifier.dense, head.classifier.out_proj
    else:
        raise KeyError(kind)
    return Anatomy(tables, embeddings.LayerNorm, layers, dense, final)


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
    )
