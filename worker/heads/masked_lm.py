"""Words guessed from their context: the unsupervised task, which needs texts and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from app import quality
from worker import anatomy, capture
from worker.heads.base import Head, Outputs
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
            logits_NC=anatomy.mlm_logits(model, out.last_hidden_state[batch.positions_BT]) if wants.logits else None,
            hidden={i: out.hidden_states[i] for i in wants.hidden},
            qkv=qkv,
        )

    def answers(self) -> Wants:
        return Wants(logits=True)

    def gather(self, rows: Rows, found: list[tuple[list[int], Signals, Batch]]) -> Outputs:
        """Per masked position: was it guessed, and −log q of the right word. Not all V scores: they would fill the memory."""
        told = []
        for _, signals, batch in found:
            assert signals.logits_NC is not None
            log_q_NV = signals.logits_NC.float().log_softmax(-1)
            nll_N = -log_q_NV.gather(1, batch.labels[:, None])[:, 0]
            right_N = (log_q_NV.argmax(-1) == batch.labels).float()
            told.append(np.stack([right_N.cpu().numpy(), nll_N.cpu().numpy()], axis=1))
        return Outputs(np.concatenate(told).astype(np.float32) if told else None)

    def judge(self, outputs: Outputs, rows: Rows, teacher: Outputs | None, resamples: int = 0) -> quality.Quality:
        return quality.evaluate("masked_lm", outputs.logits_NC, None, None if teacher is None else teacher.logits_NC, (), resamples)
