"""For students without layers: a table of token vectors wants a high learning rate and few epochs."""

from pydantic import Field

from worker.recipes.base import MIX, PACE, UNLABELLED, Recipe, SoftParams


class Static(Recipe):
    """L = alpha (tau² KL(p_tau ‖ q_tau), or 1 − cos(W e_S, e_T) and the similarities within the batch) + (1 − alpha) labels.

    Sources: Hinton et al. 2015, arXiv 1503.02531; EmbedDistill, arXiv 2301.12005; static embeddings distilled from an
    encoder: model2vec (2024).
    """

    name = "static"
    tasks = frozenset({"text-classification", "embedding", "ranking"})
    students = frozenset({"static"})
    task_defaults = UNLABELLED
    stages = [
        {
            "name": "static",
            "objectives": MIX,
            **PACE,
        }
    ]

    class Params(SoftParams):
        epochs: int = Field(default=8, ge=1, le=1000, description="Passes over the training rows; more of them overfit.")
        learning_rate: float = Field(default=3e-3, gt=0, description="Peak: some ten times a transformer's.")
        batch_size: int = Field(default=64, ge=3, le=65536, description="Rows per optimiser step.")
