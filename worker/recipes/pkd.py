"""Patient knowledge distillation: soft and hard labels, and the first token's state layer by layer."""

from typing import Literal

from pydantic import Field

from app.domain.schedule import Scheduled
from worker.recipes.base import MIX, PACE, Recipe, SoftParams


class PKD(Recipe):
    """L = alpha tau² KL(p_tau ‖ q_tau) + (1 − alpha) CE(y, q) + beta Σ_layers ‖h_S / ‖h_S‖ − h_T / ‖h_T‖‖².

    Published: alpha 0.2 to 0.7, tau 5 to 20. Its beta of 10 to 1000 weighs the mean over layers and widths; for the sum, as
    here, that is 0.003 to 0.26 (five pairs of width 768). Source: Sun et al. 2019, arXiv 1908.09355.
    """

    name = "pkd"
    tasks = frozenset({"text-classification"})
    stages = [
        {
            "name": "patient",
            "objectives": [*MIX, {"type": "pkd", "layers": {"$param": "layers"}, "weight": {"$param": "beta"}}],
            **PACE,
        }
    ]

    class Params(SoftParams):
        alpha: float = Field(default=0.7, ge=0, le=1, description="Weight of what the teacher says; labels get the rest.")
        temperature: Scheduled = Field(default=5.0, validate_default=True, description="Softmax temperature of both sides.")
        beta: float = Field(default=0.1, ge=0, le=1e6, description="Weight of the first token's states.")
        layers: Literal["skip", "last"] = Field(
            default="skip", description="PKD-skip: all of the student's layers but its last; PKD-last: the last alone."
        )
