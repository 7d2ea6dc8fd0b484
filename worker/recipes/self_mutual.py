"""Deep mutual learning: the student and its peers learn together and from one another; no teacher is asked."""

from pydantic import Field

from app.domain.schedule import Scheduled
from worker.recipes.base import CLASSIFIERS, MIX, PACE, Recipe, SoftParams


class SelfMutual(Recipe):
    """L_1 = alpha tau² KL(q_2 ‖ q_1) + (1 − alpha) CE(y, q_1); a peer: KL(q_1 ‖ q_2) + CE(y, q_2). All step together.

    Published: both terms weigh the same, tau 1. Source: Zhang et al. 2017, arXiv 1706.00384.
    """

    name = "self_mutual"
    tasks = CLASSIFIERS
    problems = frozenset({"single_label", "tokens"})
    stages = [
        {
            "name": "mutual",
            "teacher": {"type": "mutual", "peers": {"$param": "peers"}, "perturbation": {"$param": "perturbation"}},
            "objectives": MIX,
            **PACE,
        }
    ]

    class Params(SoftParams):
        alpha: float = Field(default=0.5, ge=0, lt=1, description="Weight of what the peers say; labels get the rest, never none.")
        temperature: Scheduled = Field(default=1.0, validate_default=True, description="Softmax temperature of both sides.")
        peers: int = Field(default=1, ge=1, le=4, description="How many learn beside the student; each costs as much as it.")
        perturbation: float = Field(default=0.1, ge=0, le=1, description="Relative noise on a peer's first weights.")
