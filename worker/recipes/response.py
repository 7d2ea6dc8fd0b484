"""Hinton's distillation: one stage of soft labels mixed with hard ones."""

from typing import Any, ClassVar

from pydantic import Field

from app.domain.schedule import Scheduled
from worker.plugins import PluginParams


class Response:
    """L = alpha tau² KL(p_tau ‖ q_tau) + (1 - alpha) CE(y, q), all weights trained. Source: arXiv 1503.02531."""

    name = "response"

    class Params(PluginParams):
        alpha: float = Field(default=0.9, ge=0, le=1, description="Weight of the teacher's term; the labels get the rest.")
        temperature: Scheduled = Field(default=2.0, validate_default=True, description="Softmax temperature of both sides.")
        epochs: int = Field(default=10, ge=1, le=1000)
        learning_rate: float = Field(default=5e-4, gt=0)
        batch_size: int = Field(default=32, ge=1, le=65536)

    # {"$param": name} takes a parameter's value, {"$one_minus": name} one minus it.
    stages: ClassVar[list[dict[str, Any]]] = [
        {
            "name": "response",
            "objectives": [
                {"type": "response", "temperature": {"$param": "temperature"}, "weight": {"$param": "alpha"}},
                {"type": "hard_label", "weight": {"$one_minus": "alpha"}},
            ],
            "epochs": {"$param": "epochs"},
            "learning_rate": {"$param": "learning_rate"},
            "batch_size": {"$param": "batch_size"},
        }
    ]
