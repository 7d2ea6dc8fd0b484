"""Texts or pairs of texts into classes: one of them, several, or a number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from app.quality import Quality, evaluate
from worker import capture
from worker.heads.base import Head, Outputs, outputs_of
from worker.losses.geometry import pooled
from worker.rows import NO_LABEL, Batch, Rows, has_label, tokenize
from worker.signals import Signals, Wants

_TYPES = {"single_label": "single_label_classification", "multi_label": "multi_label_classification", "regression": "regression"}


class TextClassification(Head):
    """Logits (B, C) of `AutoModelForSequenceClassification`; a regression has one, and labels without a name."""

    task = "text-classification"
    auto = AutoModelForSequenceClassification
    suffix = "ForSequenceClassification"
    offers = frozenset({"logits", "embedding", "hidden", "qkv", "labels"})
    hard = (("hard_label", {}),)

    def configured(self, config: Any) -> Any:
        config = super().configured(config)
        if self.about.problem == "regression":
            config.num_labels = 1
        config.problem_type = _TYPES[self.about.problem]
        return config

    def misfit(self, config: dict[str, Any]) -> str | None:
        told = super().misfit(config)
        if told is None and self.about.problem == "regression" and (outputs := outputs_of(config)) != 1:
            return f"has a head of {outputs} outputs; a number is one"
        return told

    def encode(self, records: Sequence[dict[str, Any]], tokenizer: Any) -> Rows:
        rows = tokenize(records, tokenizer, self.about.max_length)
        labels = rows.labels
        if self.about.problem == "multi_label":
            unknown = [float("nan")] * len(self.about.labels)
            labels = [unknown if label == NO_LABEL else label for label in labels]
        return Rows(rows.ids, rows.tokens, labels, rows.pad_id, self.about.problem, rows.second)

    def forward(self, model: PreTrainedModel, batch: Batch, wants: Wants, ids_BT: Tensor | None = None) -> Signals:
        out, qkv = capture.run(model, batch, wants, ids_BT)
        return Signals(
            logits_NC=out.logits,
            embedding_BE=pooled(out.hidden_states[-1], batch.attention_mask_BT) if wants.embedding else None,
            hidden={i: out.hidden_states[i] for i in wants.hidden},
            qkv=qkv,
        )

    def answers(self) -> Wants:
        return Wants(logits=True)

    def judge(self, outputs: Outputs, rows: Rows, teacher: Outputs | None, resamples: int = 0, seed: int = 0) -> Quality:
        known = [i for i, label in enumerate(rows.labels) if has_label(label)]
        targets = np.array([rows.labels[i] for i in known])
        theirs = None if teacher is None else teacher.logits[known]
        problem: Any = self.about.problem
        return evaluate(problem, outputs.logits[known], targets, theirs, labels=self.about.labels, resamples=resamples, seed=seed)
