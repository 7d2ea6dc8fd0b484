"""DistilBERT's triple loss: the teacher's words, the right words, and its last state, all at once."""

from pydantic import Field

from app.domain.schedule import Scheduled
from worker.recipes.base import CLASSIFIERS, PACE, Recipe, RecipeParams


class DistilBERT(Recipe):
    """L = soft_weight tau² KL(p_tau ‖ q_tau) + hard_weight L_MLM + cosine_weight (1 − cos(h_S, h_T)), h of the last layers.

    A classifier learns its labels in place of masked words. Published: 5, 2 and 1, tau 2, learning rate 5e-4, 3 epochs, from
    every other layer of the teacher. Source: Sanh et al. 2019, arXiv 1910.01108.
    """

    name = "distilbert"
    tasks = CLASSIFIERS | {"masked-lm"}
    task_defaults = {"masked-lm": {"epochs": 3}}
    stages = [
        {
            "name": "triple",
            "objectives": [
                {"$soft": {"temperature": {"$param": "temperature"}, "weight": {"$param": "soft_weight"}}},
                {"$hard": {"weight": {"$param": "hard_weight"}}},
                {"type": "hidden_cosine", "layers": "last", "weight": {"$param": "cosine_weight"}},
            ],
            **PACE,
        }
    ]

    class Params(RecipeParams):
        soft_weight: float = Field(default=5.0, ge=0, le=1e6, description="Weight of what the teacher says.")
        hard_weight: float = Field(default=2.0, ge=0, le=1e6, description="Weight of the masked words, or of the labels.")
        cosine_weight: float = Field(default=1.0, ge=0, le=1e6, description="Weight of the last hidden state's direction.")
        temperature: Scheduled = Field(
            default=2.0, validate_default=True, description="Softmax temperature of both sides, of classes and tokens alone."
        )
