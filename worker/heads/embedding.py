"""Texts to vectors: the mean of the last hidden state. Pairs with a score, where the rows have them, say how well."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from app.quality import Quality, evaluate
from worker import capture
from worker.heads.base import Head, Outputs
from worker.losses.geometry import pooled
from worker.rows import NO_LABEL, Batch, Rows, has_label, tokenize
from worker.signals import Signals, Wants


class Embedding(Head):
    """Vectors (B, E), not yet of unit length; cosine is what compares them. An example is a text, or a pair of two."""

    task = "embedding"
    auto = AutoModel
    offers = frozenset({"embedding", "hidden", "qkv", "labels"})
    hard = (("hard_similarity", {}),)

    def misfit(self, config: dict[str, Any]) -> str | None:
        return None  # every encoder gives vectors

    def encode(self, records: Sequence[dict[str, Any]], tokenizer: Any) -> Rows:
        """One sequence per text; ids are 2 i and 2 i + 1 for the two texts of record i."""
        texts, sizes, labels = [], [], []
        for record in records:
            both = [record["text"], *([record["text_b"]] if record.get("text_b") is not None else [])]
            texts += [{"id": 2 * int(record["id"]) + n, "text": text, "label": None} for n, text in enumerate(both)]
            sizes.append(len(both))
            labels.append(NO_LABEL if record["label"] is None else float(record["label"]))
        flat = tokenize(texts, tokenizer, self.about.max_length)
        return Rows(flat.ids, flat.tokens, labels, flat.pad_id, "embedding", sizes=sizes)

    def forward(self, model: PreTrainedModel, batch: Batch, wants: Wants, ids_BT: Tensor | None = None) -> Signals:
        out, qkv = capture.run(model, batch, wants, ids_BT, body=True)
        return Signals(
            embedding_BE=pooled(out.last_hidden_state, batch.attention_mask_BT),
            hidden={i: out.hidden_states[i] for i in wants.hidden},
            qkv=qkv,
        )

    def answers(self) -> Wants:
        return Wants(embedding=True)

    def judge(self, outputs: Outputs, rows: Rows, teacher: Outputs | None, resamples: int = 0, seed: int = 0) -> Quality:
        """Spearman of cosine and score over the scored pairs; without any, fidelity to the teacher's similarities."""
        sizes = rows.sizes or [1] * len(rows)
        scored = [e for e, size in enumerate(sizes) if size == 2 and has_label(rows.labels[e])]
        mine, theirs = outputs.embedding_BE, None if teacher is None else teacher.embedding_BE
        assert mine is not None
        if not scored:
            return evaluate("embedding", mine, None, theirs, resamples=resamples, seed=seed)
        first = np.array([rows.examples[e][0] for e in scored])

        def pairs(vectors_BE: Any) -> Any:
            return None if vectors_BE is None else (vectors_BE[first], vectors_BE[first + 1])

        targets = np.array([rows.labels[e] for e in scored], dtype=np.float64)
        return evaluate("embedding", pairs(mine), targets, pairs(theirs), resamples=resamples, seed=seed)
