"""TinyBERT: first the teacher's states and attention layer by layer, then its answers."""

from pydantic import Field

from app.domain.schedule import Scheduled
from worker.recipes.base import ENCODERS, FEATURES, OUTPUT, FeatureParams, Recipe


class TinyBERT(Recipe):
    """Stage 1: hidden_weight Σ MSE(W h_S, h_T), embeddings included, + attention_weight Σ MSE(A_S, A_T) before the softmax.
    Stage 2: L = alpha tau² KL(p_tau ‖ q_tau) + (1 − alpha) CE(y, q).

    Published: weights 1, tau 1, no labels, uniform layer map, 20 and then 3 epochs of augmented rows.
    Source: Jiao et al. 2019, arXiv 1909.10351.
    """

    name = "tinybert"
    tasks = ENCODERS
    stages = [
        {
            "name": "features",
            "objectives": [
                {"type": "hidden_mse", "layers": "uniform", "include_embeddings": True, "weight": {"$param": "hidden_weight"}},
                {"type": "attention_mse", "layers": "uniform", "weight": {"$param": "attention_weight"}},
            ],
            **FEATURES,
        },
        OUTPUT,
    ]

    class Params(FeatureParams):
        temperature: Scheduled = Field(
            default=1.0, validate_default=True, description="Second stage: softmax temperature, of classes and tokens alone."
        )
        hidden_weight: float = Field(default=1.0, ge=0, le=1e6, description="First stage: weight of the hidden states.")
        attention_weight: float = Field(default=1.0, ge=0, le=1e6, description="First stage: weight of the attention scores.")
