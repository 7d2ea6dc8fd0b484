"""Masked language modelling: words guessed from their context, which needs no labels but the text."""

from typing import ClassVar

from torch import Tensor

from worker.losses.likelihoods import cross_entropy
from worker.objectives.base import Objective, log_softmax
from worker.rows import Batch
from worker.signals import Need, Signals


class MaskedLM(Objective):
    """Σ_N −log q(token), in nats, over the masked positions; N of them in the batch, logits (N, V) of theirs alone.

    The L_mlm of DistilBERT's triple loss (with `response` and `hidden_cosine`).
    Sources: BERT, Devlin et al. 2018, arXiv 1810.04805, section 3.1; DistilBERT, Sanh et al. 2019, arXiv 1910.01108.
    """

    name = "masked_lm"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "labels"})
    problems: ClassVar[frozenset[str]] = frozenset({"masked_lm"})

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert student.logits_NC is not None
        return cross_entropy(log_softmax(student.logits_NC, 1.0), batch.labels).sum()
