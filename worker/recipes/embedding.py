"""Vectors: each one in its teacher's direction, and all of them as near to one another as its teacher's."""

from pydantic import Field

from app.domain.schedule import Scheduled
from worker.recipes.base import PACE, Recipe, RecipeParams


class Embedding(Recipe):
    """L = cosine_weight (1 − cos(W e_S, e_T)) + similarity_weight tau² KL(rows of softmax(e_T e_Tᵀ / tau) ‖ those of e_S)
    + hard_weight (cos(e_a, e_b) − y)² where pairs have a score y.

    Sources: EmbedDistill, Kim et al. 2023, arXiv 2301.12005; SEED, Fang et al. 2021, arXiv 2101.04731.
    """

    name = "embedding"
    tasks = frozenset({"embedding"})
    stages = [
        {
            "name": "embedding",
            "objectives": [
                {"type": "embedding_cosine", "weight": {"$param": "cosine_weight"}},
                {
                    "type": "similarity_kl",
                    "temperature": {"$param": "temperature"},
                    "weight": {"$param": "similarity_weight"},
                },
                {"$hard": {"weight": {"$param": "hard_weight"}}},
            ],
            **PACE,
        }
    ]

    class Params(RecipeParams):
        batch_size: int = Field(default=64, ge=3, le=65536, description="Rows per optimiser step; all are compared.")
        cosine_weight: float = Field(default=1.0, ge=0, le=1e6, description="Weight of each vector's direction.")
        similarity_weight: float = Field(
            default=400.0,
            ge=0,
            le=1e6,
            description="Weight of the similarities within a batch, which carry tau²: 1 / tau² evens it.",
        )
        temperature: Scheduled = Field(
            default=0.05, validate_default=True, description="tau of the similarities: the lower, the more near neighbours count."
        )
        hard_weight: float = Field(default=0.0, ge=0, le=1e6, description="Weight of the scores of pairs, where rows have any.")
