"""Words guessed from their context: the unsupervised task, which needs texts and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from app.quality import Quality, evaluate
from app.quality.masked_lm import score
from worker import anatomy, capture
from worker.heads.base import Head, Outputs
from worker.losses.geometry import pooled
from worker.rows import Batch, Masking, Rows, tokenize
from worker.signals import Signals, Wants


class MaskedLM(Head):
    """Logits (N, V) of the masked positions alone; which ones changes with every epoch (dynamic masking)."""

    task = "masked-lm"
    auto = AutoModelForMaskedLM
    suffix = "ForMaskedLM"
    offers = frozenset({"logits", "hidden", "qkv", "labels"})
    hard = (("masked_lm", {}),)

    def encode(self, records: Sequence[dict[str, Any]], tokenizer: Any) -> Rows:
        flat = tokenize(records, tokenizer, self.about.max_length)
        masking = Masking(int(tokenizer.mask_token_id), len(tokenizer), frozenset(tokenizer.all_special_ids))
        return Rows(flat.ids, flat.tokens, [0] * len(flat), flat.pad_id, "masked_lm", masking=masking)

    def forward(self, model: PreTrainedModel, batch: Batch, wants: Wants, ids_BT: Tensor | None = None) -> Signals:
        out, qkv = capture.run(model, batch, wants, ids_BT, body=True)
        assert batch.positions_BT is not None
        return Signals(
            embedding_BE=pooled(out.last_hidden_state, batch.attention_mask_BT) if wants.embedding else None,
            logits_NC=anatomy.mlm_logits(model, out.last_hidden_state[batch.positions_BT]) if wants.logits else None,
            hidden={i: out.hidden_states[i] for i in wants.hidden},
            qkv=qkv,
        )

    def answers(self) -> Wants:
        return Wants(logits=True)

    def gather(self, rows: Rows, found: list[tuple[list[int], Signals, Batch]]) -> Outputs:
        """What `score` says of every masked position, row after row: all V scores of all rows would fill the memory."""
        parts: list[Any] = [None] * len(rows)
        for examples, signals, batch in found:
            assert signals.logits_NC is not None
            assert batch.positions_BT is not None
            counts = batch.positions_BT.sum(1).tolist()
            split = (torch.split(value.cpu(), counts) for value in (signals.logits_NC.float(), batch.labels))
            pieces = zip(examples, *split, strict=True)
            for e, logits_PV, wanted_P in pieces:
                parts[e] = score(logits_PV.numpy(), wanted_P.numpy())
        return Outputs(np.concatenate(parts))

    def judge(self, outputs: Outputs, rows: Rows, teacher: Outputs | None, resamples: int = 0, seed: int = 0) -> Quality:
        theirs = None if teacher is None else teacher.logits
        return evaluate("masked_lm", outputs.logits, None, theirs, resamples=resamples, seed=seed)
