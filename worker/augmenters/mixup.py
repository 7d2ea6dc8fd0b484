"""Mix-up: rows blended with each other while they train."""

from typing import ClassVar

from pydantic import Field

from worker.augmenters.base import Augmenter
from worker.plugins import PluginParams


class Mixup(Augmenter):
    """After every micro-batch the student also sees it blended with itself in another order:

        e' = λ e_i + (1 − λ) e_π(i)          embeddings (B, T, D) of the input, π a random order of the batch
        y' = λ p_i + (1 − λ) p_π(i)          the teacher's class probabilities; its logits for several labels or a number,
                                             its unit vectors for embeddings
        λ = max(u, 1 − u), u ~ Beta(alpha, alpha), one draw a micro-batch

    The teacher is not asked again: its answers to both rows are blended. MixKD asks it for the blended input; that costs a
    pass of the teacher per step, which a cache cannot spare. Mixed rows count for objectives on the teacher's logits or
    embeddings alone: they have no label, and no hidden states to compare. About twice the work per step. No rows are written.

    Source: MixKD, Liang et al. 2021, arXiv 2011.00593; mixup, Zhang et al. 2018, arXiv 1710.09412.
    """

    name = "mixup"
    makes = "batches"
    problems: ClassVar[frozenset[str]] = frozenset({"single_label", "multi_label", "regression", "embedding"})

    class Params(PluginParams):
        alpha: float = Field(
            default=0.4, gt=0, le=100, description="Both parameters of the Beta distribution: small blends little, 1 evenly."
        )
