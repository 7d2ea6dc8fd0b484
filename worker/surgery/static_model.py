"""A model without layers: one vector per token, weighed and averaged. Hundreds of times less work than a small transformer.

    w_t = exp(a · e_t)                          how much a token counts, seen from its vector alone
    g_t = e_t · w_t T / Σ_u w_u                 so that the plain mean m = 1/T Σ_t g_t is the weighted one
    h_t = g_t + W₂ gelu(W₁ m)                   a residual layer on the mean, the same for every token
    pooled = 1/T Σ_t h_t                        the plain mean over the last hidden state, by which all encoders here are pooled

a and W₂ may be zero, which leaves the average of the vectors. Hidden states: 0 the table's rows e, 1 the h above. It knows no
order and no context. Sources: fastText arXiv 1607.01759; SIF, Arora et al. 2017 (ICLR), for weighed averages; model2vec (2024).

Shapes: B sequences, T tokens that are no padding, D width, F width of the residual layer, C classes.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

KIND = "retort_static"


class StaticConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    model_type = KIND

    vocab_size: int = 30_522
    hidden_size: int = 256
    residual_size: int = 256
    num_hidden_layers: int = 1
    max_position_embeddings: int = 8192  # it has no positions; what limits a text is the tokenizer
    dropout: float = 0.0
    pad_token_id: int | None = 0


class _FromZero(nn.Linear):
    """Of no effect before training."""


class _Static(PreTrainedModel):  # type: ignore[no-untyped-call]
    config_class: ClassVar[Any] = StaticConfig  # type: ignore[misc]
    base_model_prefix = "static"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.0 if isinstance(module, _FromZero) else module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class StaticModel(_Static):  # type: ignore[no-untyped-call]
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width, inner = config.hidden_size, config.residual_size
        self.embeddings = nn.Embedding(config.vocab_size, width)
        self.weigh = _FromZero(width, 1, bias=False)
        self.widen = nn.Linear(width, inner) if inner else None
        self.narrow = _FromZero(inner, width) if inner else None
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: Any) -> None:
        self.embeddings = value

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool | None = None, **_: Any
    ) -> BaseModelOutput:
        rows_BTD = self.embeddings(input_ids)
        mask_BT1 = _mask(input_ids, attention_mask, rows_BTD.dtype)
        weights_BT1 = torch.exp(self.weigh(rows_BTD).clamp(-10.0, 10.0)) * mask_BT1
        share_BT1 = weights_BT1 / weights_BT1.sum(1, keepdim=True).clamp(min=1e-9)
        h_BTD = rows_BTD * share_BT1 * mask_BT1.sum(1, keepdim=True)
        if self.widen is not None and self.narrow is not None:
            mean_B1D = (rows_BTD * share_BT1).sum(1, keepdim=True)
            h_BTD = h_BTD + self.narrow(nn.functional.gelu(self.widen(mean_B1D)))
        return BaseModelOutput(last_hidden_state=h_BTD, hidden_states=(rows_BTD, h_BTD) if output_hidden_states else None)


class StaticForSequenceClassification(_Static):  # type: ignore[no-untyped-call]
    """logits = W pooled + b."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.static = StaticModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        out = self.static(input_ids, attention_mask, output_hidden_states)
        mask_BT1 = _mask(input_ids, attention_mask, out.last_hidden_state.dtype)
        pooled_BD = (out.last_hidden_state * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1.0)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled_BD)), hidden_states=out.hidden_states)


def _mask(input_ids: Tensor, attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    given = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return given.unsqueeze(-1).to(dtype)


AutoConfig.register(KIND, StaticConfig, exist_ok=True)
AutoModel.register(StaticConfig, StaticModel, exist_ok=True)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification, exist_ok=True)
