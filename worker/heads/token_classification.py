"""A label for every word of a text: names, parts of speech. The first piece of each word speaks for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedModel

from app.quality import Quality, evaluate
from worker import capture
from worker.heads.base import Head, Outputs
from worker.rows import NO_LABEL, Batch, Rows
from worker.signals import Signals, Wants


class TokenClassification(Head):
    """Logits (N, C): one row for every word within max_length, in reading order."""

    task = "token-classification"
    auto = AutoModelForTokenClassification
    suffix = "ForTokenClassification"
    offers = frozenset({"logits", "hidden", "qkv", "labels"})
    hard = (("hard_label", {}),)

    def encode(self, records: Sequence[dict[str, Any]], tokenizer: Any) -> Rows:
        words = [record["words"] for record in records]
        found: Any = tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.about.max_length) if words else {}
        tokens = [list(row) for row in found["input_ids"]] if words else []
        positions, labels = [], []
        for n, record in enumerate(records):
            at = _first_pieces(found.word_ids(n))
            positions.append(at)
            given = record["label"]
            labels.append([NO_LABEL] * len(at) if given is None else list(given[: len(at)]))
        return Rows(
            [int(r["id"]) for r in records], tokens, labels, int(tokenizer.pad_token_id or 0), "tokens", positions=positions
        )

    def forward(self, model: PreTrainedModel, batch: Batch, wants: Wants, ids_BT: Tensor | None = None) -> Signals:
        out, qkv = capture.run(model, batch, wants, ids_BT)
        assert batch.positions_BT is not None
        return Signals(logits_NC=out.logits[batch.positions_BT], hidden={i: out.hidden_states[i] for i in wants.hidden}, qkv=qkv)

    def answers(self) -> Wants:
        return Wants(logits=True)

    def gather(self, rows: Rows, found: list[tuple[list[int], Signals, Batch]]) -> Outputs:
        """(P, C) for the P words of every row."""
        parts: list[Any] = [None] * len(rows)
        for examples, signals, batch in found:
            assert signals.logits_NC is not None
            assert batch.positions_BT is not None
            split = torch.split(signals.logits_NC.float().cpu(), batch.positions_BT.sum(1).tolist())
            for e, part in zip(examples, split, strict=True):
                parts[e] = part.numpy()
        return Outputs(parts)

    def judge(self, outputs: Outputs, rows: Rows, teacher: Outputs | None, resamples: int = 0, seed: int = 0) -> Quality:
        targets = [np.array(row, dtype=np.int64) for row in rows.labels]
        theirs = None if teacher is None else teacher.logits
        return evaluate("tokens", outputs.logits, targets, theirs, labels=self.about.labels, resamples=resamples, seed=seed)


def _first_pieces(word_ids: list[int | None]) -> list[int]:
    """Where each word begins. Words without a piece (stripped by the tokenizer) end the row: what follows has no place."""
    at: list[int] = []
    for n, word in enumerate(word_ids):
        if word is not None and word == len(at):
            at.append(n)
    return at
