"""Hard labels: cross-entropy against the rows' own labels."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from worker.losses.likelihoods import binary_cross_entropy, cross_entropy
from worker.objectives.base import Objective, log_softmax, wide
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Signals


class HardLabel(Objective):
    """What the labels say, summed over what is labelled; its `weight` is 1 − alpha.

    One class per row, or per word: Σ_N −log q(y), in nats; with smoothing e: (1 − e)(−log q(y)) + e mean_C(−log q).
    Several classes per row: Σ_N Σ_C −y' log σ(z) − (1 − y') log σ(−z), y' = (1 − e) y + e / 2; every label decision counts.
    A number per row: Σ_N (z − y)².
    Rows (words, decisions) without a label are not counted and get no gradient.
    Source: label smoothing, Szegedy et al. 2016, arXiv 1512.00567, section 7.
    """

    name = "hard_label"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "labels"})
    problems: ClassVar[frozenset[str]] = frozenset({"single_label", "multi_label", "regression", "tokens"})

    class Params(PluginParams):
        label_smoothing: float = Field(
            default=0.0, ge=0, lt=1, description="Share of the target that is spread over all classes; none for a number."
        )

    params: Params

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert student.logits_NC is not None
        logits_NC, smoothing = wide(student.logits_NC), self.params.label_smoothing
        if batch.problem == "multi_label":
            return binary_cross_entropy(logits_NC, batch.labels, smoothing).sum()
        if batch.problem == "regression":
            unknown_N = batch.labels.isnan()
            gap_N = logits_NC[:, 0].clamp(-1e15, 1e15) - batch.labels.masked_fill(unknown_N, 0.0).to(logits_NC.dtype)
            return gap_N.square().masked_fill(unknown_N, 0.0).sum()
        return cross_entropy(log_softmax(logits_NC, 1.0), batch.labels, smoothing).sum()
